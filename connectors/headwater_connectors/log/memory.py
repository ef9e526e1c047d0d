"""The log in memory: for notebooks, tests and simulation; gone when it is closed."""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

from headwater_connectors.log.batch import join
from headwater_connectors.log.local import Limits, LocalLog, new_topic_id, wall_clock_us

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headwater_connectors.log.batch import Batch, Placed
    from headwater_connectors.log.log import Topic
    from headwater_connectors.log.storage import Append, TopicState

__all__ = ["MemoryLog"]

# Batches are joined up to this size: single records would cost twenty times their bytes.
_JOIN_RECORDS_MAX = 256
_JOIN_BYTES_MAX = 64 << 10


class MemoryLog(LocalLog):
    """A Log in memory; it grows until `delete_records` or `delete_topic`."""

    def __init__(
        self,
        *,
        clock: Callable[[], int] = wall_clock_us,
        topic_id: Callable[[], str] = new_topic_id,
        limits: Limits | None = None,
    ) -> None:
        """Start empty; `clock` gives µs UTC, `topic_id` a fresh id for each topic."""
        super().__init__(
            _MemoryStorage(), clock=clock, topic_id=topic_id, limits=limits or Limits()
        )


class _Partition:
    """The batches of a partition and, beside them, their base offsets."""

    def __init__(self) -> None:
        self.bases: list[int] = []
        self.batches: list[Batch] = []

    def append(self, base: int, batch: Batch) -> None:
        """Add a batch at the end; join it to the last one if both are small."""
        if self.batches and _are_small(last := self.batches[-1], batch):
            self.batches[-1] = join([last, batch])
        else:
            self.bases.append(base)
            self.batches.append(batch)

    def index_of(self, offset: int) -> int:
        """Return the index of the batch that holds an offset, -1 if none does."""
        index = bisect_right(self.bases, offset) - 1
        if index < 0 or offset >= self.bases[index] + len(self.batches[index]):
            return -1
        return index

    def drop_below(self, start: int) -> None:
        """Drop the batches that hold nothing from `start` on."""
        count = bisect_right(self.bases, start)
        if count and self.bases[count - 1] + len(self.batches[count - 1]) > start:
            count -= 1
        del self.bases[:count], self.batches[:count]


class _MemoryStorage:
    """A Storage in lists."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._committed: dict[tuple[str, str], dict[int, int]] = {}

    def load(self) -> list[TopicState]:
        return []

    def create_topic(self, topic: Topic) -> None:
        with self._lock:
            for partition in range(topic.partitions):
                self._partitions[topic.id, partition] = _Partition()

    def delete_topic(self, topic: Topic) -> None:
        with self._lock:
            for partition in range(topic.partitions):
                del self._partitions[topic.id, partition]
            for key in [key for key in self._committed if key[1] == topic.id]:
                del self._committed[key]

    def append(self, appends: Sequence[Append]) -> None:
        with self._lock:
            for each in appends:
                self._partitions[each.topic.id, each.partition].append(each.base, each.batch)

    def set_starts(self, topic: Topic, starts: Mapping[int, int]) -> None:
        with self._lock:
            for partition, start in starts.items():
                self._partitions[topic.id, partition].drop_below(start)

    def sweep(self) -> bool:
        return False

    def read(
        self, topic: Topic, partition: int, offset: int, records_max: int, bytes_max: int
    ) -> list[Placed]:
        with self._lock:
            held = self._partitions.get((topic.id, partition))
            index = -1 if held is None else held.index_of(offset)
            if held is None or index < 0:
                return []
            placed: list[Placed] = []
            stop_offset, read_bytes = offset + records_max, 0
            for at in range(index, len(held.bases)):
                base, batch = held.bases[at], held.batches[at]
                if placed and (base >= stop_offset or read_bytes >= bytes_max):
                    break
                placed.append((base, batch))
                read_bytes += batch.memory_bytes
            return placed

    def first_at(self, topic: Topic, partition: int, start: int, timestamp_us: int) -> int | None:
        with self._lock:
            held = self._partitions.get((topic.id, partition))
            placed = [] if held is None else list(zip(held.bases, held.batches, strict=True))
        for base, batch in placed:
            skip = max(0, start - base)
            late_enough = batch.timestamps_us[skip:] >= timestamp_us
            if late_enough.any():
                return base + skip + int(np.argmax(late_enough))
        return None

    def commit(self, group: str, topic: Topic, offsets: Mapping[int, int]) -> None:
        with self._lock:
            self._committed.setdefault((group, topic.id), {}).update(offsets)

    def committed(self, group: str, topic: Topic) -> dict[int, int]:
        with self._lock:
            return dict(self._committed.get((group, topic.id), {}))

    def close(self) -> None:
        with self._lock:
            self._partitions.clear()
            self._committed.clear()


def _are_small(last: Batch, batch: Batch) -> bool:
    return (
        len(last) + len(batch) <= _JOIN_RECORDS_MAX
        and last.payload_bytes + batch.payload_bytes <= _JOIN_BYTES_MAX
    )
