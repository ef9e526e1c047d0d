"""Where blobs are kept: a folder, or the URL of an object store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater_connectors.archive.blobs import FolderBlobs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from headwater_connectors.archive.blobs import BlobStore

__all__ = ["blobs_of"]


def blobs_of(location: Path | str, options: Mapping[str, str]) -> BlobStore:
    """Return the blobs of a folder or of `s3://`, `gs://`, `az://`; ArchiveError if they can't be.

    `options` are those of `open_store`; a folder needs none.
    """
    if "://" not in str(location):
        return FolderBlobs(location)
    # Loaded where it is needed: a folder's worker starts without it.
    from headwater_connectors.archive.object_blobs import (  # noqa: PLC0415
        ObjectBlobs,
        open_store,
    )

    url = str(location)
    return ObjectBlobs(open_store(url, options), url)
