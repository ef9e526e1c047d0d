"""The broker: the log of all workers, which fails by seed, and what it knows to be true."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from headwater_connectors.log.memory import _Partition
from headwater_connectors.log.storage import TopicState

if TYPE_CHECKING:
    import random

    from simulation.clock import WorldClock

    from headwater.flow.exchange import Header
    from headwater_connectors.log.log import Headers
    from headwater_connectors.log.memory import MemoryLog

__all__ = ["Broker", "Rates"]


@dataclass(frozen=True, slots=True)
class Rates:
    """How often each fault happens, of all sends, polls, steps or calls."""

    fail: float = 0.0  # a record is not appended, and the producer is told
    lost_ack: float = 0.0  # a record is appended, and the producer is told that it is not
    duplicate: float = 0.0  # a record is appended twice
    lose: float = 0.0  # a record is acknowledged and never readable
    early: float = 0.0  # what was sent so far is appended before the flush
    delay: float = 0.0  # a partition has nothing for a poll, though it has
    blob: float = 0.0  # the checkpoint store doesn't answer
    crash: float = 0.0  # a process ends within a step
    halt: float = 0.0  # a thread stands still within a step


class Broker:
    """The log, and whether it can be reached. `calm` switches every fault off."""

    def __init__(
        self, log: MemoryLog, namespace: str, rates: Rates, rng: random.Random, clock: WorldClock
    ) -> None:
        self.log = log
        self.exchange = f"{namespace}.exchange"
        self.ingest_group = f"{namespace}.ingest"
        self.rates = rates
        self.rng = rng
        self.clock = clock
        self.calm = False
        self.down_until_us = 0
        self.counts: Counter[str] = Counter()
        # By shard and lane: to where an unbroken chain of acknowledged records reaches.
        self.told: dict[tuple[int, str], int] = {}
        self._inner = log.producer()

    def strikes(self, fault: str) -> bool:
        """Whether a fault happens now; it is counted."""
        if self.calm or self.rng.random() >= getattr(self.rates, fault):
            return False
        self.counts[fault] += 1
        return True

    def is_down(self) -> bool:
        """Whether nobody gets an answer."""
        return not self.calm and self.clock.elapsed_us < self.down_until_us

    def append(
        self, topic: str, partition: int, value: bytes | None, *, key: bytes | None = None,
        headers: Headers = (), timestamp_us: int | None = None,
    ) -> None:  # fmt: skip
        """Append one record, without a fault."""
        self._inner.send(
            topic, partition, value, key=key, headers=headers, timestamp_us=timestamp_us
        )
        self._inner.flush()

    def acknowledge(self, shard: int, header: Header) -> None:
        """Note what a shard has been told of; below ingest's commits that is all."""
        lane = (shard, header.lane)
        (topic,) = (one for one in self.log.topics() if one.id == header.topic_id)
        committed = self.log.committed(self.ingest_group, topic).get(header.partition, 0)
        done = max(self.told.get(lane, -1), committed - 1)
        begins = header.from_offset == header.to_offset  # with a lane that is new or came back
        if header.from_offset <= done or begins:
            self.told[lane] = max(done, header.to_offset)

    def grow(self, name: str) -> None:
        """Add a partition to a topic, as an administrator does."""
        state = self.log._states[name]
        topic = replace(state.topic, partitions=state.topic.partitions + 1)
        self.log._storage._partitions[topic.id, state.topic.partitions] = _Partition()
        self.log._states[name] = TopicState(topic, [*state.starts, 0], [*state.ends, 0])
