"""Snapshots: the exact extent of an archive that a reader used, as a short text."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.errors import did_you_mean
from headwater_connectors.archive.errors import ArchiveError
from headwater_connectors.archive.generation import UNTRIMMED

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Snapshot", "TopicSnapshot", "checksum"]

_PART = r"[0-9]+(?:/[0-9]+)?"
_TOPIC = re.compile(
    rf"([a-zA-Z0-9._-]+)@([a-zA-Z0-9_-]+):((?:{_PART}(?:,{_PART})*)?)~([0-9a-f]{{8}})"
)


@dataclass(frozen=True, slots=True)
class TopicSnapshot:
    """The last manifest of each partition, 0 for none, and a checksum over those manifests.

    `begins` has the offset after which each partition's history begins, UNTRIMMED where nothing
    was dropped.
    """

    topic: str
    topic_id: str
    numbers: tuple[int, ...]
    crc32: str
    begins: tuple[int, ...]

    def __str__(self) -> str:
        """Spell it as `topic@id:12,14/880,9~8f3a91bc`."""
        parts = [
            f"{number}" if begin == UNTRIMMED else f"{number}/{begin}"
            for number, begin in zip(self.numbers, self.begins, strict=True)
        ]
        return f"{self.topic}@{self.topic_id}:{','.join(parts)}~{self.crc32}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The extent of some topics; manifests never change, so it reads the same rows for ever.

    Its text, `topic@id:12,14,9~8f3a91bc` for each topic joined by `+`, names the last manifest
    of partitions 0, 1, 2 and so on; after a slash the offset after which history began, where
    retention had dropped what was before.
    """

    topics: tuple[TopicSnapshot, ...]

    def __str__(self) -> str:
        """Spell the snapshot; `parse` reads it back."""
        return "+".join(map(str, self.topics))

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Return the snapshot that has this text; ArchiveError if none has."""
        topics = []
        for part in text.split("+") if text else ():
            match = _TOPIC.fullmatch(part)
            if match is None:
                msg = (
                    f'"{part}" is not a snapshot; copy the whole text, like flights@a1:12~8f3a91bc'
                )
                raise ArchiveError(msg)
            topic, topic_id, listed, crc32 = match.groups()
            pairs = [one.partition("/") for one in listed.split(",")] if listed else []
            numbers = tuple(int(number) for number, _, _ in pairs)
            begins = tuple(int(begin) if begin else UNTRIMMED for _, _, begin in pairs)
            topics.append(TopicSnapshot(topic, topic_id, numbers, crc32, begins))
        return cls(tuple(topics))

    def of(self, topic: str, topic_id: str) -> TopicSnapshot:
        """Return one topic's part; ArchiveError if it isn't in the snapshot."""
        for part in self.topics:
            if part.topic == topic and part.topic_id == topic_id:
                return part
        ids = [part.topic_id for part in self.topics if part.topic == topic]
        if ids:
            msg = (
                f'snapshot {self} has topic "{topic}" with id {ids[0]}, not {topic_id}: the topic'
                " was made again since; take a new snapshot"
            )
            raise ArchiveError(msg)
        hint = did_you_mean(topic, [part.topic for part in self.topics])
        msg = f'snapshot {self} does not hold topic "{topic}".{hint} Take one that names it.'
        raise ArchiveError(msg)


def checksum(links: Iterable[str]) -> str:
    """Return one checksum over those of the last manifests, in the order of the partitions."""
    return f"{zlib.crc32(','.join(links).encode()):08x}"
