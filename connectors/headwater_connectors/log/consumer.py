"""The consumer of a log inside one process: positions, fair polling, committed offsets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from headwater.errors import ConfigError, StateError
from headwater_connectors.log.log import OffsetLostError, Records

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater_connectors.log.local import LocalLog
    from headwater_connectors.log.log import Topic

__all__ = ["LocalConsumer", "shares"]

_Key = tuple[str, int]  # topic name, partition


class LocalConsumer:
    """A Consumer that reads whole batches and serves the partition longest unserved first."""

    def __init__(self, log: LocalLog, group: str | None) -> None:
        """Start without an assignment."""
        self._log = log
        self._group = group
        self._topics: dict[str, Topic] = {}
        # In the order in which partitions are served: one that was served goes to the end.
        self._positions: dict[_Key, int] = {}
        self._closed = False

    def assign(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Read these partitions from these offsets; see Consumer."""
        self._check_open()
        positions: dict[_Key, int] = {}
        found = self._log.topic(topic) if offsets else None
        for partition, offset in offsets.items():
            self._log.partition_of(topic, partition)
            if offset < 0:
                msg = f"{topic}[{partition}]: offset {offset} is negative; offsets start at 0"
                raise ConfigError(msg)
            positions[topic, int(partition)] = int(offset)
        kept = {key: at for key, at in self._positions.items() if key[0] != topic}
        self._positions = {**kept, **positions}
        if found is None:
            self._topics.pop(topic, None)
        else:
            self._topics[topic] = found

    def poll(self, records_max: int, timeout_s: float) -> list[Records]:
        """Return what is there, waiting at most `timeout_s` for the first record."""
        if records_max < 1:
            msg = f"records_max is {records_max}: ask for at least one record"
            raise ValueError(msg)
        deadline = time.monotonic() + timeout_s
        while True:
            lags = self._wait(deadline)
            if not lags:
                return []
            taken = self._take(shares(lags, records_max))
            if taken:
                return taken

    def commit(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Store the group's next offsets; see Consumer."""
        self._log.commit(self._checked_group(), self._current(topic), offsets)

    def committed(self, topic: str) -> dict[int, int]:
        """Return the group's committed next offsets."""
        return self._log.committed(self._checked_group(), self._current(topic))

    def close(self) -> None:
        """Release the consumer and wake it if it is polling."""
        with self._log.changed:
            self._closed = True
            self._log.changed.notify_all()

    def _wait(self, deadline: float) -> dict[_Key, int]:
        """Return how many records each partition has for us; {} at the deadline."""
        with self._log.changed:
            while True:
                lags = self._lags()
                remaining_s = deadline - time.monotonic()
                if lags or remaining_s <= 0:
                    return lags
                self._log.changed.wait(remaining_s)

    def _lags(self) -> dict[_Key, int]:
        """Check every position against the log; return the partitions with records to read."""
        self._check_open()
        states = {name: self._log.state_of(topic) for name, topic in self._topics.items()}
        lags: dict[_Key, int] = {}
        for key, position in self._positions.items():
            name, partition = key
            state = states[name]
            start, end = state.starts[partition], state.ends[partition]
            if not start <= position <= end:
                raise OffsetLostError(name, partition, position, start, end)
            if position < end:
                lags[key] = end - position
        return lags

    def _take(self, shares: dict[_Key, int]) -> list[Records]:
        """Read each partition's share and move the positions, all of them or none."""
        bytes_max = max(1, self._log.limits.poll_bytes_max // len(shares))
        taken: list[Records] = []
        for (name, partition), share in shares.items():
            position = self._positions[name, partition]
            topic = self._topics[name]
            records = self._log.read(topic, partition, position, share, bytes_max)
            if records is not None:
                taken.append(records)
        for records in taken:
            key = (records.topic, records.partition)
            del self._positions[key]
            self._positions[key] = records.next_offset
        return taken

    def _checked_group(self) -> str:
        self._check_open()
        if self._group is None:
            msg = "this consumer has no group, so nothing can be committed; give consumer(group)"
            raise ConfigError(msg)
        return self._group

    def _current(self, topic: str) -> Topic:
        """Return the topic; TopicGoneError if it isn't the one that was assigned."""
        assigned = self._topics.get(topic)
        if assigned is None:
            return self._log.topic(topic)
        return self._log.state_of(assigned).topic

    def _check_open(self) -> None:
        self._log.check_open()
        if self._closed:
            msg = "consumer is closed; take a new one from the log"
            raise StateError(msg)


def shares(lags: dict[_Key, int], records_max: int) -> dict[_Key, int]:
    """Share out `records_max` records: as evenly as the lags allow, all of it used.

    With fewer records than partitions the first ones get one each.
    """
    keys = list(lags)[:records_max]
    shares = dict.fromkeys(keys, 0)
    left = records_max
    for served, key in enumerate(sorted(keys, key=lags.__getitem__)):
        shares[key] = min(lags[key], left // (len(keys) - served))
        left -= shares[key]
    return shares
