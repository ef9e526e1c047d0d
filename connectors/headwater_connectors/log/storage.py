"""Storage: what a log inside one process asks of the place that keeps its records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headwater_connectors.log.batch import Batch, Placed
    from headwater_connectors.log.log import Topic

__all__ = ["Append", "Storage", "TopicState"]


@dataclass(slots=True)
class TopicState:
    """A topic and, per partition, its first readable and its next offset."""

    topic: Topic
    starts: list[int]
    ends: list[int]


@dataclass(frozen=True, slots=True)
class Append:
    """A batch to be stored at a base offset of one partition."""

    topic: Topic
    partition: int
    base: int
    batch: Batch


class Storage(Protocol):
    """Keeps topics, batches and committed offsets.

    The log makes one writing call at a time; reads come from any thread, also during a write.
    Failures of the medium are raised as StateError.
    """

    def load(self) -> list[TopicState]:
        """Return the topics that are there."""
        ...

    def create_topic(self, topic: Topic) -> None:
        """Store a new, empty topic."""
        ...

    def delete_topic(self, topic: Topic) -> None:
        """Forget a topic and its committed offsets; its batches may go later, by `sweep`."""
        ...

    def append(self, appends: Sequence[Append]) -> None:
        """Store all of the batches or none of them."""
        ...

    def set_starts(self, topic: Topic, starts: Mapping[int, int]) -> None:
        """Store new start offsets; the batches below may go later, by `sweep`."""
        ...

    def sweep(self) -> bool:
        """Free some of the batches that can't be read any more; return whether more are left."""
        ...

    def read(
        self, topic: Topic, partition: int, offset: int, records_max: int, bytes_max: int
    ) -> list[Placed]:
        """Return adjoining batches, the first of which holds `offset`; [] if it isn't there.

        At least one batch, then more while both bounds are not reached.
        """
        ...

    def first_at(self, topic: Topic, partition: int, start: int, timestamp_us: int) -> int | None:
        """Return the first offset, from `start` on, that arrived at or after a time."""
        ...

    def commit(self, group: str, topic: Topic, offsets: Mapping[int, int]) -> None:
        """Store all of a group's next offsets or none of them."""
        ...

    def committed(self, group: str, topic: Topic) -> dict[int, int]:
        """Return a group's next offsets."""
        ...

    def close(self) -> None:
        """Release the storage."""
        ...
