"""The files of a checkpoint: up to the store, what isn't there yet, and down again."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING

from headwater.errors import StateError
from headwater.flow.checkpoint_manifest import CheckpointFile
from headwater_connectors.archive.errors import MissingBlobError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from headwater.flow.checkpoint_owner import Owner, Owners
    from headwater_connectors.archive.blobs import BlobStore

__all__ = ["Digests", "blob_name", "fetch", "upload"]

_READ_BYTES = 8 << 20
# RocksDB's small files change every time: in the manifest they cost no request of their own.
_INLINE_BYTES_MAX = 64 << 10
_CURE = "use an older checkpoint, or rebuild from the log"


class Digests:
    """Checksums of files, computed once: files of rows never change and keep their inode."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], str] = {}

    def of(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Return the checksums of files; those of other files are forgotten."""
        found, known = {}, {}
        for path in paths:
            stat = path.stat()
            key = (path.name, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            found[path] = known[key] = self._known.get(key) or _digest(path)
        self._known = known
        return found


def blob_name(place: str, owner: str, file: CheckpointFile) -> str:
    """Return the name of a file's blob: by content, for RocksDB's names repeat."""
    return f"{place}/files/{owner}={file.sha256}"


def upload(
    blobs: BlobStore, owners: Owners, owner: Owner, folder: Path, digests: Digests
) -> tuple[tuple[CheckpointFile, ...], int]:
    """Store those files of a folder that the owner has not; return all of them, and the bytes.

    What another owner has stored is copied by the store, under a name of this one's.
    """
    sizes = {i.name: i.size_bytes for i in blobs.find(f"{owner.place}/files/")}
    by_digest = {name.rpartition("=")[2]: name for name in sizes}
    # The information log and the lock are not part of what is stored.
    paths = [p for p in sorted(folder.iterdir()) if not p.name.startswith(("LOG", "LOCK"))]
    files, uploaded = [], 0
    for path, digest in digests.of(paths).items():
        size_bytes = path.stat().st_size
        if path.suffix != ".sst" and size_bytes <= _INLINE_BYTES_MAX:
            files.append(CheckpointFile(path.name, size_bytes, digest, path.read_bytes()))
            continue
        file = CheckpointFile(path.name, size_bytes, digest)
        files.append(file)
        name = blob_name(owner.place, owner.name, file)
        if sizes.get(name) == size_bytes:
            continue
        owners.renew(owner)
        other = by_digest.get(digest, "")
        if sizes.get(other) == size_bytes:
            with contextlib.suppress(MissingBlobError):  # its owner has just deleted it
                blobs.copy(other, name)
                continue
        blobs.put_file(name, path)
        uploaded += size_bytes
    return tuple(files), uploaded


def fetch(blobs: BlobStore, name: str, file: CheckpointFile, folder: Path) -> None:
    """Make a checkpoint's file in a folder, durable; StateError if it isn't what was stored."""
    path = folder / file.path
    if path.name != file.path:
        msg = f'a checkpoint has a file "{file.path}", outside of its folder; {_CURE}'
        raise StateError(msg)
    if file.data is not None:
        where = f'"{file.path}"'
        _write(path, [file.data])
    else:
        where = blobs.path(name)
        try:
            if not blobs.link(name, path):
                with blobs.open(name) as reader:
                    steps = range(0, reader.size_bytes, _READ_BYTES)
                    _write(path, (reader.read_at(at, _READ_BYTES) for at in steps))
        except MissingBlobError as error:
            msg = f"{where} ({file.path} of a checkpoint) is missing; {_CURE}"
            raise StateError(msg) from error
    size_bytes = path.stat().st_size
    if size_bytes != file.size_bytes:
        msg = (
            f"{where} ({file.path} of a checkpoint) has {size_bytes} bytes instead of"
            f" {file.size_bytes}: it was cut; {_CURE}"
        )
        raise StateError(msg)
    if _digest(path) != file.sha256:
        msg = f"{where} ({file.path} of a checkpoint) fails its checksum: it was changed; {_CURE}"
        raise StateError(msg)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, parts: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
