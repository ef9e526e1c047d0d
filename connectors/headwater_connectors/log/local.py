"""A log inside one process: topics and ends in memory, records in a storage."""

from __future__ import annotations

import re
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.errors import ConfigError, HeadwaterError, NotFoundError, StateError
from headwater_connectors.log.batch import gather
from headwater_connectors.log.checks import no_topic
from headwater_connectors.log.consumer import LocalConsumer
from headwater_connectors.log.log import DeliveryFailure, Topic, TopicGoneError
from headwater_connectors.log.producer import LocalProducer
from headwater_connectors.log.storage import Append, TopicState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headwater_connectors.log.batch import Batch
    from headwater_connectors.log.log import Records
    from headwater_connectors.log.storage import Storage

__all__ = ["Limits", "LocalLog", "new_topic_id", "wall_clock_us"]

# Kafka's rule, so that a topic can move there.
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def wall_clock_us() -> int:
    """Return the time in µs UTC."""
    return time.time_ns() // 1_000


def new_topic_id() -> str:
    """Return a random topic id."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a log, in bytes; a record is its value and its key."""

    record_bytes_max: int = 16 << 20
    buffer_bytes_max: int = 16 << 20  # of one producer
    batch_bytes_max: int = 1 << 20  # of one stored batch, but for a record that is larger
    poll_bytes_max: int = 64 << 20  # of one poll, rounded up to whole batches


class LocalLog:
    """The part of a Log that does not depend on where the records are kept.

    Two locks: `_writing` orders the writes, `changed` guards the offsets in memory and wakes
    consumers. `changed` may be taken under `_writing`, never the other way round; records are
    read under neither.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        clock: Callable[[], int],
        topic_id: Callable[[], str],
        limits: Limits,
    ) -> None:
        """Serve the topics in a storage, which the log owns from now on."""
        self.clock = clock
        self.limits = limits
        self.changed = threading.Condition()
        self._storage = storage
        self._topic_id = topic_id
        self._writing = threading.Lock()
        self._closed = False
        try:
            self._states = {state.topic.name: state for state in storage.load()}
            self._sweep()
        except BaseException:
            storage.close()
            raise

    def create_topic(self, name: str, *, partitions: int, append_time: bool) -> Topic:
        """Create a topic, or return the one there; see Log."""
        if _NAME.fullmatch(name) is None or name in {".", ".."}:
            msg = f'topic "{name}": a name is 1 to 249 of the characters a-z A-Z 0-9 . _ -'
            raise ConfigError(msg)
        if partitions < 1:
            msg = f'topic "{name}": {partitions} partitions; ask for at least one'
            raise ConfigError(msg)
        with self._writing:
            self.check_open()
            if (state := self._states.get(name)) is not None:
                return _same(state.topic, partitions, append_time=append_time)
            topic = Topic(name, self._topic_id(), int(partitions), bool(append_time))
            self._storage.create_topic(topic)
            with self.changed:
                self._states[name] = TopicState(topic, [0] * partitions, [0] * partitions)
            return topic

    def topic(self, name: str) -> Topic:
        """Return a topic; NotFoundError, with the closest name, if there is none."""
        return self._state(name).topic

    def topics(self) -> list[Topic]:
        """Return every topic, by name."""
        with self.changed:
            self.check_open()
            return sorted((state.topic for state in self._states.values()), key=lambda t: t.name)

    def delete_topic(self, name: str) -> None:
        """Delete a topic, its records and the offsets committed for it."""
        with self._writing:
            self._storage.delete_topic(self.topic(name))
            with self.changed:
                del self._states[name]
                self.changed.notify_all()
        self._sweep()

    def start_offsets(self, name: str) -> list[int]:
        """Return each partition's first readable offset."""
        with self.changed:
            return list(self._state(name).starts)

    def end_offsets(self, name: str) -> list[int]:
        """Return each partition's next offset to be written."""
        with self.changed:
            return list(self._state(name).ends)

    def offsets_at(self, name: str, timestamp_us: int) -> list[int]:
        """Return each partition's first offset that arrived at or after a time, else its end."""
        with self.changed:
            state = self._state(name)
            starts, ends = list(state.starts), list(state.ends)
        found = [
            self._storage.first_at(state.topic, partition, start, int(timestamp_us))
            for partition, start in enumerate(starts)
        ]
        return [end if at is None else at for at, end in zip(found, ends, strict=True)]

    def delete_records(self, name: str, before: Mapping[int, int]) -> None:
        """Make records below these offsets unreadable and free what holds only such records."""
        with self._writing:
            state = self._state(name)
            starts: dict[int, int] = {}
            for partition, offset in before.items():
                self.partition_of(name, partition)
                if offset > state.ends[partition]:
                    msg = (
                        f"{name}[{partition}]: can't delete records before {offset}:"
                        f" the log ends at {state.ends[partition]}; give at most that"
                    )
                    raise ConfigError(msg)
                if offset > state.starts[partition]:
                    starts[int(partition)] = int(offset)
            if not starts:
                return
            self._storage.set_starts(state.topic, starts)
            with self.changed:
                for partition, offset in starts.items():
                    state.starts[partition] = offset
                self.changed.notify_all()
        self._sweep()

    def producer(self) -> LocalProducer:
        """Return a new producer."""
        self.check_open()
        return LocalProducer(self)

    def consumer(self, group: str | None) -> LocalConsumer:
        """Return a new consumer; without a group it can't commit."""
        self.check_open()
        return LocalConsumer(self, group)

    def close(self) -> None:
        """Wake blocked polls and release the storage; closing twice is harmless."""
        with self._writing:
            with self.changed:
                if self._closed:
                    return
                self._closed = True
                self.changed.notify_all()
            self._storage.close()

    def partition_of(self, name: str, partition: int) -> Topic:
        """Return the topic; NotFoundError if it or the partition does not exist."""
        topic = self._state(name).topic
        if not 0 <= partition < topic.partitions:
            last = topic.partitions - 1
            msg = f'topic "{name}" has no partition {partition}; it has 0 to {last}'
            raise NotFoundError(msg)
        return topic

    def state_of(self, topic: Topic) -> TopicState:
        """Return the state of this very topic; TopicGoneError if it is there no more."""
        self.check_open()
        state = self._states.get(topic.name)
        if state is None or state.topic.id != topic.id:
            raise TopicGoneError(topic.name, topic.id, None if state is None else state.topic.id)
        return state

    def append(self, batches: Sequence[tuple[Topic, int, Batch]]) -> list[DeliveryFailure]:
        """Append batches in order, durably; return what failed, the rest is in the log."""
        with self._writing:
            self.check_open()
            appends, failures, ends = self._placed(batches)
            try:
                self._storage.append(appends)
            except HeadwaterError as error:
                reason = str(error)
                failures += [
                    DeliveryFailure(each.topic.name, each.partition, len(each.batch), reason)
                    for each in appends
                ]
                return _summed(failures)
            with self.changed:
                for (name, partition), end in ends.items():
                    self._states[name].ends[partition] = end
                self.changed.notify_all()
        return _summed(failures)

    def read(
        self, topic: Topic, partition: int, offset: int, records_max: int, bytes_max: int
    ) -> Records | None:
        """Return records from an offset below the end; None if they were deleted meanwhile."""
        self.check_open()
        placed = self._storage.read(topic, partition, offset, records_max, bytes_max)
        if placed:
            return gather(topic, partition, offset, placed, records_max)
        # Deleting takes several steps; between two writes the offsets and the storage agree.
        with self._writing:
            if self.state_of(topic).starts[partition] <= offset:
                msg = (
                    f"{topic.name}[{partition}]: the record at offset {offset} is missing;"
                    " the log is damaged there: restore it, or assign a later offset"
                )
                raise StateError(msg)
        return None

    def commit(self, group: str, topic: Topic, offsets: Mapping[int, int]) -> None:
        """Store all of a group's next offsets or none of them."""
        # NumPy integers would reach the storage as blobs.
        plain = {int(partition): int(offset) for partition, offset in offsets.items()}
        with self._writing:
            self.state_of(topic)
            for partition, offset in plain.items():
                self.partition_of(topic.name, partition)
                if offset < 0:
                    msg = f"{topic.name}[{partition}]: can't commit the negative offset {offset}"
                    raise ConfigError(msg)
            self._storage.commit(group, topic, plain)

    def committed(self, group: str, topic: Topic) -> dict[int, int]:
        """Return a group's committed next offsets."""
        self.check_open()
        return self._storage.committed(group, topic)

    def check_open(self) -> None:
        """Raise StateError if the log was closed."""
        if self._closed:
            msg = "the log is closed; open it again"
            raise StateError(msg)

    def _placed(
        self, batches: Sequence[tuple[Topic, int, Batch]]
    ) -> tuple[list[Append], list[DeliveryFailure], dict[tuple[str, int], int]]:
        """Give each batch its base offset, and its arrival in an append-time topic.

        Returns the appends, what can't be appended, and the ends of the partitions afterwards.
        """
        appends: list[Append] = []
        failures: list[DeliveryFailure] = []
        ends: dict[tuple[str, int], int] = {}
        now_us = self.clock()
        for topic, partition, batch in batches:
            try:
                state = self.state_of(topic)
            except TopicGoneError as error:
                failures.append(DeliveryFailure(topic.name, partition, len(batch), str(error)))
                continue
            base = ends.get((topic.name, partition), state.ends[partition])
            ends[topic.name, partition] = base + len(batch)
            stored = batch.stamped(now_us) if topic.append_time else batch
            appends.append(Append(topic, partition, base, stored))
        return appends, failures, ends

    def _state(self, name: str) -> TopicState:
        self.check_open()
        try:
            return self._states[name]
        except KeyError:
            raise no_topic(name, self._states) from None

    def _sweep(self) -> None:
        """Free what can't be read any more, in slices, so that appends get in between."""
        more = True
        while more:
            with self._writing:
                more = not self._closed and self._storage.sweep()


def _same(topic: Topic, partitions: int, *, append_time: bool) -> Topic:
    """Return an existing topic that is asked for again; ConfigError if the settings differ."""
    if (topic.partitions, topic.append_time) != (partitions, append_time):
        msg = (
            f'topic "{topic.name}" exists with partitions={topic.partitions},'
            f" append_time={topic.append_time}; asked for partitions={partitions},"
            f" append_time={append_time}: use its settings, another name, or delete it first"
        )
        raise ConfigError(msg)
    return topic


def _summed(failures: Sequence[DeliveryFailure]) -> list[DeliveryFailure]:
    """Return one failure a partition and reason, with the records of all its batches."""
    records: dict[tuple[str, int, str], int] = {}
    for each in failures:
        where = (each.topic, each.partition, each.reason)
        records[where] = records.get(where, 0) + each.records
    return [DeliveryFailure(t, p, count, why) for (t, p, why), count in records.items()]
