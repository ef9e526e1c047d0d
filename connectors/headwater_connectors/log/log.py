"""The log: partitioned topics of records, and the contract every implementation keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from headwater.errors import HeadwaterError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Consumer",
    "DeliveryError",
    "DeliveryFailure",
    "Headers",
    "Log",
    "LogUnreachableError",
    "NoTopicError",
    "NotAMemberError",
    "OffsetLostError",
    "Producer",
    "Records",
    "Topic",
    "TopicGoneError",
]

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic; one that is deleted and made again has another id."""

    name: str
    id: str
    partitions: int
    append_time: bool


@dataclass(frozen=True, slots=True)
class Records:
    """A run of records of one partition; offsets ascend and may have gaps.

    `timestamps_us` is the arrival in µs UTC. The arrays are the caller's own and writable.
    """

    topic: str
    topic_id: str
    partition: int
    offsets: NDArray[np.int64]
    timestamps_us: NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers]

    def __len__(self) -> int:
        """Count the records."""
        return len(self.values)

    @property
    def next_offset(self) -> int:
        """The offset to read after these records."""
        return int(self.offsets[-1]) + 1


@dataclass(frozen=True, slots=True)
class DeliveryFailure:
    """Records of one partition that a producer could not deliver, and why."""

    topic: str
    partition: int
    records: int
    reason: str


class DeliveryError(HeadwaterError):
    """Records that were sent and are not in the log; the producer has dropped them."""

    def __init__(self, *failures: DeliveryFailure) -> None:
        """Keep what failed, one entry a partition."""
        super().__init__(*failures)
        self.failures = failures

    def __str__(self) -> str:
        """Name each partition, how many records it lost, the first cause and the cure."""
        lost = ", ".join(f"{f.records} to {f.topic}[{f.partition}]" for f in self.failures)
        return (
            f"records not delivered: {lost}: {self.failures[0].reason};"
            " remove the cause, then send them again from the last committed position"
        )


class LogUnreachableError(HeadwaterError):
    """The log does not answer now; the same call may go through later."""


class NoTopicError(NotFoundError):
    """There is no topic of that name."""

    def __init__(self, topic: str, hint: str) -> None:
        """Keep the name; `hint` says what to do."""
        super().__init__(topic, hint)
        self.topic, self.hint = topic, hint

    def __str__(self) -> str:
        """Name the topic, and what to do."""
        return f'no topic "{self.topic}" in this log.{self.hint}'


class NotAMemberError(HeadwaterError):
    """A commit for partitions that the group has given to another member."""


class OffsetLostError(HeadwaterError):
    """A position outside the log: retention went past it, or the log lost its tail."""

    def __init__(self, topic: str, partition: int, offset: int, start: int, end: int) -> None:
        """Keep the position and the offsets the log has, [start, end)."""
        super().__init__(topic, partition, offset, start, end)
        self.topic, self.partition, self.offset = topic, partition, offset
        self.start, self.end = start, end

    def __str__(self) -> str:
        """Say which side of the log the position is on, and what to do."""
        if self.offset < self.start:
            cause = f"is below the log's start {self.start}: those records were deleted"
            cure = "fill the gap from history, then assign the start or a later offset"
        else:
            cause = f"is above the log's end {self.end}: the log is shorter than it was"
            cure = "restore the log, or assign an offset that it has"
        return f"{self.topic}[{self.partition}]: offset {self.offset} {cause}; {cure}"


class TopicGoneError(HeadwaterError):
    """A topic in use was deleted, or deleted and made again under the same name."""

    def __init__(self, topic: str, topic_id: str, new_topic_id: str | None) -> None:
        """Keep the id that was in use and the id the name has now, if any."""
        super().__init__(topic, topic_id, new_topic_id)
        self.topic, self.topic_id, self.new_topic_id = topic, topic_id, new_topic_id

    def __str__(self) -> str:
        """Say what became of the topic, and what to do."""
        if self.new_topic_id is None:
            return (
                f'topic "{self.topic}" (id {self.topic_id}) was deleted;'
                " create it again and reset its readers"
            )
        return (
            f'topic "{self.topic}" was deleted and made again (id {self.topic_id} is now'
            f" {self.new_topic_id}): its offsets start anew; reset its readers"
        )


class Producer(Protocol):
    """Sends records; safe to share between threads.

    Records sent to one partition keep their order. They are buffered up to a bound in bytes and
    may become readable before `flush`, which is the only acknowledgement. `send` may block, and
    may raise DeliveryError for records sent before; records named in a DeliveryError are dropped.
    """

    def send(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp_us: int | None = None,
    ) -> None:
        """Send one record; NotFoundError if there is no such topic or partition.

        `timestamp_us` (default: now) is overwritten at append in an append-time topic.
        """
        ...

    def send_many(
        self,
        topic: str,
        partition: int,
        values: Sequence[bytes | None],
        *,
        keys: Sequence[bytes | None] | None = None,
        timestamps_us: NDArray[np.int64] | Sequence[int] | None = None,
        headers: Sequence[Headers] | None = None,
    ) -> None:
        """Send a run of records in order; every sequence is as long as `values`."""
        ...

    def dispatch(self) -> None:
        """Put what was sent on its way, without waiting for the acknowledgement.

        May raise DeliveryError for records sent before.
        """
        ...

    def flush(self) -> None:
        """Return when everything sent is acknowledged, or raise DeliveryError."""
        ...

    def close(self) -> None:
        """Flush and release the producer; closing twice is harmless."""
        ...


class Consumer(Protocol):
    """Reads partitions it was assigned explicitly; for one thread at a time."""

    def assign(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Read these partitions from these offsets.

        Replaces the previous assignment of that topic; an empty mapping ends it.
        """
        ...

    def poll(self, records_max: int, timeout_s: float) -> list[Records]:
        """Return at most `records_max` records, one Records a partition; [] on timeout.

        No partition with data is left waiting for another. OffsetLostError if a position is
        outside the log, TopicGoneError if the topic was deleted or made again; both come again
        with each poll until the topic is assigned anew, and no position moves.
        """
        ...

    def commit(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Store the next offsets to read for the consumer's group, all or none of them.

        NotAMemberError where the group has given a partition to another member.
        """
        ...

    def committed(self, topic: str) -> dict[int, int]:
        """Return the group's committed next offsets; partitions never committed are absent."""
        ...

    def close(self) -> None:
        """Release the consumer; nothing is committed. Closing twice is harmless."""
        ...


class Log(Protocol):
    """Topics of partitions of records; every method is safe to call from any thread."""

    def create_topic(self, name: str, *, partitions: int, append_time: bool) -> Topic:
        """Create a topic, or return the one there; ConfigError if its settings differ.

        `append_time` stamps each record with the log's clock when it is appended; otherwise the
        producer's timestamp is kept.
        """
        ...

    def topic(self, name: str) -> Topic:
        """Return a topic; NotFoundError, with the closest name, if there is none."""
        ...

    def topics(self) -> list[Topic]:
        """Return every topic, by name."""
        ...

    def delete_topic(self, name: str) -> None:
        """Delete a topic, its records and the offsets committed for it."""
        ...

    def start_offsets(self, name: str) -> list[int]:
        """Return each partition's first readable offset."""
        ...

    def end_offsets(self, name: str) -> list[int]:
        """Return each partition's next offset to be written."""
        ...

    def offsets_at(self, name: str, timestamp_us: int) -> list[int]:
        """Return each partition's first offset that arrived at or after a time, else its end."""
        ...

    def delete_records(self, name: str, before: Mapping[int, int]) -> None:
        """Make records below these offsets unreadable and free what holds only such records."""
        ...

    def producer(self) -> Producer:
        """Return a new producer."""
        ...

    def consumer(self, group: str | None) -> Consumer:
        """Return a new consumer; without a group it can't commit."""
        ...

    def close(self) -> None:
        """Release the log and wake blocked polls; close or flush producers first."""
        ...
