"""The producer of a Kafka log: idempotent, bounded, and sure of the topic it writes to."""

from __future__ import annotations

import threading
import time
from collections import Counter
from itertools import repeat
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, Producer

from headwater.errors import StateError
from headwater_connectors.log.checks import check_columns, check_partition, check_payloads
from headwater_connectors.log.kafka_config import PRODUCER, build
from headwater_connectors.log.kafka_errors import KafkaUnreachableError
from headwater_connectors.log.log import DeliveryError, DeliveryFailure, TopicGoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from confluent_kafka import Message
    from numpy.typing import NDArray

    from headwater_connectors.log.kafka_cluster import KafkaCluster
    from headwater_connectors.log.log import Headers, Topic

__all__ = ["KafkaProducer"]

# Handed to librdkafka in runs of this size: one look at the topics' ids for each run.
_RUN_BYTES_MAX = 1 << 20
_RUN_RECORDS_MAX = 10_000
_POLL_S = 0.1
_CHECK_S = 1.0
# How old the look may be that `dispatch` goes by; `flush` takes a new one.
_LOOK_AGE_MAX_S = 1.0

_Row = tuple["bytes | None", "bytes | None", "Headers", int]
_Where = tuple[str, int]


class KafkaProducer:
    """A Producer over librdkafka's.

    Records wait here, bounded, until a run is full, dispatched or flushed. Then the topics' ids
    are compared with those at the time of sending, so that a topic made again gets no records
    meant for the old one, but for the moment between that look and the write.
    """

    def __init__(self, cluster: KafkaCluster, clock: Callable[[], int]) -> None:
        """Start with nothing to send."""
        self._cluster = cluster
        self._clock = clock
        # Taken in this order: runs are handed over one after the other, sends go on meanwhile.
        self._handing = threading.Lock()
        self._lock = threading.Lock()
        self._topics: dict[str, Topic] = {}
        self._rows: dict[_Where, list[_Row]] = {}
        self._waiting_records = 0
        self._waiting_bytes = 0
        self._failed: Counter[tuple[str, int, str]] = Counter()
        self._look: dict[str, Topic] = {}
        self._looked_at = 0.0
        self._closed = False
        self._client = self._new_client()

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
        """Send one record; see Producer."""
        check_payloads((value, key))
        stamp_us = self._clock() if timestamp_us is None else timestamp_us
        self._add(topic, partition, [(value, key, headers, int(stamp_us))])

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
        """Send a run of records in order; see Producer."""
        check_columns(values, keys=keys, timestamps_us=timestamps_us, headers=headers)
        check_payloads(values, () if keys is None else keys)
        stamps: Iterable[int] = (
            repeat(self._clock()) if timestamps_us is None else map(int, timestamps_us)
        )
        columns = (
            repeat(None) if keys is None else keys,
            repeat(()) if headers is None else headers,
        )
        rows = list(zip(values, *columns, stamps, strict=False))
        for start in range(0, max(1, len(rows)), _RUN_RECORDS_MAX):
            self._add(topic, partition, rows[start : start + _RUN_RECORDS_MAX])

    def dispatch(self) -> None:
        """Give librdkafka what waits; see Producer."""
        with self._handing:
            self._hand_over(look_age_max_s=_LOOK_AGE_MAX_S)
            self._client.poll(0)
            self._raise_failures()

    def flush(self) -> None:
        """Return when everything sent is in the log, or raise DeliveryError."""
        with self._handing:
            self._hand_over()
            self._wait_for_delivery()
            self._raise_failures()

    def close(self) -> None:
        """Flush and refuse further records."""
        if not self._closed:
            self.flush()
            self.release()

    def release(self) -> None:
        """Drop what was not flushed."""
        with self._lock:
            self._closed = True
            self._rows = {}
        self._client.purge()

    def _add(self, name: str, partition: int, rows: list[_Row]) -> None:
        """Let records wait; hand them over when they are enough for a run."""
        self._cluster.check_open()
        topic = self._topics.get(name)
        if topic is None or partition >= topic.partitions:
            topic = self._cluster.topic(name)
        check_partition(topic, partition)
        size = sum([len(v or b"") + len(k or b"") for v, k, _, _ in rows])
        with self._lock:
            if self._closed:
                msg = f'producer is closed: can\'t send to "{name}"; take a new one from the log'
                raise StateError(msg)
            # One of another id must not take the place of the one that records wait for.
            if self._topics.setdefault(name, topic).id == topic.id:
                self._topics[name] = topic
            self._rows.setdefault((name, int(partition)), []).extend(rows)
            self._waiting_records += len(rows)
            self._waiting_bytes += size
            is_full = (
                self._waiting_bytes > _RUN_BYTES_MAX or self._waiting_records > _RUN_RECORDS_MAX
            )
        if is_full:
            with self._handing:
                self._hand_over()
                self._client.poll(0)
                self._raise_failures()

    def _hand_over(self, *, look_age_max_s: float = 0.0) -> None:
        """Give librdkafka what waits, unless its topic is another one by now."""
        with self._lock:
            names = {name for name, _ in self._rows}
        if not names:
            return
        current = self._looked_up(names, look_age_max_s)
        gone = {name: why for name in names if (why := self._why_gone(name, current))}
        with self._lock:
            rows = {where: run for where, run in self._rows.items() if where[0] in names}
            # What came in meanwhile for another topic waits for the next look.
            self._rows = {w: run for w, run in self._rows.items() if w[0] not in names}
            self._waiting_bytes = self._waiting_records = 0
        for (name, partition), run in rows.items():
            if name in gone:
                self._failed[name, partition, gone[name]] += len(run)
            else:
                self._produce(name, partition, run)
        with self._lock:
            for name in gone:
                self._topics.pop(name, None)

    def _looked_up(self, names: set[str], age_max_s: float) -> dict[str, Topic]:
        """Return topics as they are now, or were at the last look if that is recent enough."""
        now = time.monotonic()
        if now - self._looked_at > age_max_s or not names <= self._look.keys():
            self._look = self._find(sorted(names | self._look.keys()))
            self._looked_at = now
        return self._look

    def _find(self, names: list[str]) -> dict[str, Topic]:
        """Look topics up; wait for a broker, as for the delivery of records."""
        while True:
            try:
                return self._cluster.find(names)
            except KafkaUnreachableError:
                self._cluster.check_open()  # noted as a wait where it was raised

    def _why_gone(self, name: str, current: dict[str, Topic]) -> str:
        """Return what became of the topic we write to, "" if it is still the same."""
        topic, now = self._topics[name], current.get(name)
        if now is not None and now.id == topic.id:
            return ""
        return str(TopicGoneError(name, topic.id, None if now is None else now.id))

    def _produce(self, name: str, partition: int, run: list[_Row]) -> None:
        produce = self._client.produce
        for at, (value, key, headers, stamp_us) in enumerate(run):
            # To librdkafka 0 is "now".
            stamp_ms = max(1, stamp_us // 1_000)
            while True:
                try:
                    produce(
                        name,
                        value,
                        key,
                        partition,
                        timestamp=stamp_ms,
                        headers=list(headers) or None,
                    )
                except BufferError:
                    self._cluster.check_open()
                    self._cluster.note_wait()
                    self._client.poll(_POLL_S)
                    continue
                except KafkaException as error:
                    if error.args[0].code() == KafkaError._FATAL:  # noqa: SLF001 - public there
                        self._failed[name, partition, _reason(error.args[0])] += len(run) - at
                        self._client = self._new_client()
                        return
                    self._failed[name, partition, _reason(error.args[0])] += 1
                break

    def _wait_for_delivery(self) -> None:
        """Return when librdkafka is done with every record, for good or ill."""
        check_at = time.monotonic() + _CHECK_S
        while self._client.flush(_POLL_S):
            self._cluster.check_open()
            self._cluster.note_wait()
            if time.monotonic() < check_at:
                continue
            check_at = time.monotonic() + _CHECK_S
            if (refused := self._cluster.faults.refused) is not None:
                raise self._cluster.failure(refused, "deliver records")

    def _raise_failures(self) -> None:
        failed, self._failed = self._failed, Counter()
        if failed:
            raise DeliveryError(
                *(DeliveryFailure(name, p, count, why) for (name, p, why), count in failed.items())
            )

    def _new_client(self) -> Producer:
        return build(
            Producer,
            self._cluster.servers,
            PRODUCER,
            self._cluster.config,
            error_cb=self._cluster.faults.report,
            on_delivery=self._on_failure,
        )

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        """Count a record that was not delivered; librdkafka reports no others."""
        if error is not None:
            where = (str(message.topic()), int(message.partition() or 0))
            self._failed[*where, _reason(error)] += 1


def _reason(error: KafkaError) -> str:
    return " ".join(error.str().split())
