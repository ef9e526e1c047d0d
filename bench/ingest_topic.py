"""Topics of the ingest benchmark: filled as fast as it goes, or at the pace of a clock."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

import numpy as np
from confluent_kafka import Producer

from bench.ingest_workload import PARTITIONS, payment
from bench.workload import ZIPF_EXPONENT
from headwater_connectors.log.kafka import KafkaLog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.ingest_workload import Record

__all__ = ["PacedProducer", "delete_topics", "fill", "make_topic", "partition_of"]

_POLL_S = 0.05
_FLUSH_S = 60.0
_STEP_S = 0.005


def make_topic(servers: str, topic: str) -> None:
    """Create a topic of the workload's partitions that keeps events however old."""
    log = KafkaLog(servers)
    try:
        log.create_topic(topic, partitions=PARTITIONS, append_time=False)
    finally:
        log.close()


def fill(servers: str, topic: str, records: Iterable[Record]) -> None:
    """Append records, and return when all of them are in the topic."""
    producer = _producer(servers, linger_ms=20)
    for partition, key, value, timestamp_ms in records:
        while True:
            try:
                producer.produce(topic, value, key, partition, timestamp=timestamp_ms)
            except BufferError:
                producer.poll(_POLL_S)
                continue
            break
    left = producer.flush(_FLUSH_S)
    assert not left, f"{left} events were not delivered in {_FLUSH_S:g} s"


def delete_topics(servers: str, name: str) -> None:
    """Delete every topic that has this in its name, such as a peer's changelog."""
    log = KafkaLog(servers)
    try:
        for topic in log.topics():
            if name in topic.name:
                log.delete_topic(topic.name)
    finally:
        log.close()


def partition_of(number: int) -> int:
    """Return the partition of a user by its number."""
    return number % PARTITIONS


def _producer(servers: str, *, linger_ms: int) -> Producer:
    return Producer(
        {
            "bootstrap.servers": servers,
            "linger.ms": linger_ms,
            "queue.buffering.max.messages": 1_000_000,
            "enable.idempotence": True,
        }
    )


class PacedProducer:
    """Sends payments of now, so many a second, from a thread of its own."""

    def __init__(self, servers: str, topic: str, *, events_per_s: int, users: int) -> None:
        self._client = _producer(servers, linger_ms=1)
        self._topic = topic
        self._events_per_s = events_per_s
        rng = np.random.default_rng(2)
        weights = np.arange(1, users + 1, dtype=np.float64) ** -ZIPF_EXPONENT
        edges = np.cumsum(weights) / weights.sum()
        self._users = np.minimum(np.searchsorted(edges, rng.random(1 << 16)), users - 1).tolist()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="paced-producer", daemon=True)
        self.sent = 0
        self.late_s = 0.0  # how far behind its clock it was at worst

    def probe(self, user: str, number: int) -> float:
        """Send one event of a user of its own; return when, by the monotonic clock."""
        began = time.monotonic()
        self._send(user, number)
        return began

    def _send(self, user: str, number: int) -> None:
        value = payment(user, 1.5, time.time_ns() // 1_000_000)
        self._client.produce(self._topic, value, user.encode(), partition_of(number))

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.is_set():
            due = int((time.monotonic() - began) * self._events_per_s)
            self.late_s = max(self.late_s, (due - self.sent) / self._events_per_s - _STEP_S)
            for at in range(self.sent, due):
                number = self._users[at & 0xFFFF]
                self._send(f"u{number:06}", number)
            self.sent = due
            self._client.poll(0)
            self._stop.wait(_STEP_S)

    def __enter__(self) -> Self:
        """Start sending."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sending, and wait until everything is delivered."""
        self._stop.set()
        self._thread.join()
        self._client.flush(_FLUSH_S)
