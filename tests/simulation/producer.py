"""A producer whose records reach the log at any time until the flush, or never."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.flow.exchange import split
from headwater_connectors.log.log import DeliveryError, DeliveryFailure

if TYPE_CHECKING:
    from simulation.host_log import HostLog

    from headwater_connectors.log.log import Headers

__all__ = ["HostProducer"]


@dataclass(frozen=True, slots=True)
class _Sent:
    topic: str
    partition: int
    value: bytes | None
    key: bytes | None
    headers: Headers
    timestamp_us: int | None


class HostProducer:
    """A Producer of one process. It waits for brokers for ever, as ours is told to."""

    def __init__(self, log: HostLog) -> None:
        self._broker = log.broker
        self._fuse = log.fuse
        self._waiting: dict[tuple[str, int], deque[_Sent]] = {}
        self._failures: list[DeliveryFailure] = []

    def send(
        self, topic: str, partition: int, value: bytes | None, *, key: bytes | None = None,
        headers: Headers = (), timestamp_us: int | None = None,
    ) -> None:  # fmt: skip
        self._fuse.point("send")
        sent = _Sent(topic, partition, value, key, headers, timestamp_us)
        self._waiting.setdefault((topic, partition), deque()).append(sent)
        if not self._broker.is_down() and self._broker.strikes("early"):
            self._deliver(self._broker.rng.choice(list(self._waiting)))

    def dispatch(self) -> None:
        """Let some of it reach the log now; what failed is told now or by the next flush."""
        self._fuse.point("dispatch")
        broker = self._broker
        for target in list(self._waiting):
            if not broker.is_down() and (broker.calm or broker.rng.random() < 0.7):
                self._deliver(target)
        if broker.rng.random() < 0.5:
            self._raise()

    def flush(self) -> None:
        self._fuse.point("flush")
        waiting = list(self._waiting)
        if not self._broker.calm:
            self._broker.rng.shuffle(waiting)
        for target in waiting:
            self._deliver(target)
        self._raise()
        self._fuse.point("flushed")

    def close(self) -> None:
        if not self._fuse.dead:
            self.flush()

    def _raise(self) -> None:
        failures, self._failures = self._failures, []
        if failures:
            raise DeliveryError(*failures)

    def _deliver(self, target: tuple[str, int]) -> None:
        """Append what waits for a partition, in order, as far as the broker lets it."""
        broker, queue = self._broker, self._waiting.get(target)
        while queue:
            self._fuse.point("deliver")
            self._fuse.wait(lambda: not broker.is_down())
            sent = queue.popleft()
            reason = None
            if broker.strikes("fail"):
                reason = "timed out"
            elif sent.topic == broker.exchange and broker.strikes("lose"):
                self._acknowledge(sent)
            else:
                self._append(sent)
                if broker.strikes("duplicate"):
                    self._append(sent)
                if broker.strikes("lost_ack"):
                    reason = "not acknowledged"
            if reason is not None:
                self._failures.append(DeliveryFailure(sent.topic, sent.partition, 1, reason))
        self._waiting.pop(target, None)

    def _append(self, sent: _Sent) -> None:
        self._broker.append(
            sent.topic, sent.partition, sent.value,
            key=sent.key, headers=sent.headers, timestamp_us=sent.timestamp_us,
        )  # fmt: skip
        if sent.topic == self._broker.exchange:
            self._acknowledge(sent)

    def _acknowledge(self, sent: _Sent) -> None:
        assert sent.value is not None
        header, _ = split(sent.value)
        self._broker.acknowledge(sent.partition, header)
