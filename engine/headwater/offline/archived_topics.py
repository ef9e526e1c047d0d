"""Archived topics: which topic id of a stream an archive holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from headwater_connectors.archive.archive import Archive

__all__ = ["archived_topics"]


def archived_topics(
    archive: Archive, topics: Iterable[str], newest: Callable[[str], str]
) -> dict[str, str]:
    """Return the topic id by name of topics that an archive holds.

    `newest` is asked for the present id of a topic that was deleted and made again, of which the
    archive has several. Raises ConfigError for a topic of which there is nothing.
    """
    found: dict[str, str] = {}
    known = sorted({(topic, topic_id) for topic, topic_id, _ in archive.partitions()})
    names = sorted({topic for topic, _ in known})
    for topic in topics:
        ids = [topic_id for name, topic_id in known if name == topic]
        if not ids:
            msg = (
                f'{archive.blobs.path(topic)}: nothing is archived of stream "{topic}" (archived:'
                f" {', '.join(names) or 'nothing'}).{did_you_mean(topic, names)} Name the archive"
                " of the namespace whose workers read it."
            )
            raise ConfigError(msg)
        found[topic] = ids[0] if len(ids) == 1 else newest(topic)
        if found[topic] not in ids:
            msg = (
                f'{archive.blobs.path(topic)}: topic "{topic}" has id {found[topic]}, the archive'
                f" holds {', '.join(ids)}; give a snapshot, which says the id it is of"
            )
            raise ConfigError(msg)
    return found
