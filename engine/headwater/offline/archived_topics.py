"""Archived topics: which topic id of a stream an archive holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from headwater_connectors.archive.blobs import BlobStore

__all__ = ["archived_topics"]


def archived_topics(
    blobs: BlobStore, topics: Iterable[str], newest: Callable[[str], str]
) -> dict[str, str]:
    """Return the topic id by name of topics that an archive holds.

    `newest` is asked for the present id of a topic that was deleted and made again, of which the
    archive has several. Raises ConfigError for a topic of which there is nothing.
    """
    found: dict[str, str] = {}
    for topic in topics:
        # A listing names the topics only; how far each reaches is for its manifests to say.
        ids = sorted({blob.name.split("/")[1] for blob in blobs.find(f"{topic}/")})
        if not ids:
            known = sorted({blob.name.split("/")[0] for blob in blobs.find("")})
            msg = (
                f'{blobs.path(topic)}: nothing is archived of stream "{topic}" (archived:'
                f" {', '.join(known) or 'nothing'}).{did_you_mean(topic, known)} Name the archive"
                " of the namespace whose workers read it."
            )
            raise ConfigError(msg)
        found[topic] = ids[0] if len(ids) == 1 else newest(topic)
        if found[topic] not in ids:
            msg = (
                f'{blobs.path(topic)}: topic "{topic}" has id {found[topic]}, the archive holds'
                f" {', '.join(ids)}; give a snapshot, which says the id it is of"
            )
            raise ConfigError(msg)
    return found
