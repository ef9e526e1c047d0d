"""Ingest: source records into typed rows, and on to the publisher; commits what shards know."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from headwater.flow.decode import Decoder, Rows
from headwater.flow.pipeline import Tick
from headwater.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater.definitions.stream import Stream
    from headwater.flow.metrics import Metrics
    from headwater.flow.pipeline import Batches
    from headwater.flow.publisher import Publisher
    from headwater_connectors.dead_letters import DeadLetters
    from headwater_connectors.log.log import Consumer, Producer, Records

__all__ = ["Ingest"]

_log = get_logger(__name__)

_COMMIT_EVERY_US = 500_000


class Ingest:
    """The ingest stages of one source topic."""

    def __init__(
        self,
        stream: Stream,
        publisher: Publisher,
        *,
        producer: Producer,
        consumer: Consumer,
        dead_letters: DeadLetters,
        metrics: Metrics,
        positions: Mapping[int, int],
    ) -> None:
        self._topic = stream.topic
        self._decoder = Decoder(stream)
        self._publisher = publisher
        self._producer = producer
        self._consumer = consumer
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._next = dict(positions)
        self._committed = dict(positions)
        self._committed_at_us = 0
        publisher.announce()
        producer.flush()

    def decode(self, batches: Batches) -> Batches:
        """Decode records; what can't be a row goes to the dead letters."""
        return [batch if isinstance(batch, Tick) else self._decode(batch) for batch in batches]

    def _decode(self, records: Records) -> Rows:
        rows = self._decoder.decode(records)
        for reject in rows.rejects:
            self._dead_letters.put(records, reject, stage="decode")
            self._metrics.dead_letters.labels(self._topic, reject.reason).inc()
        if rows.rejects:
            why = Counter(reject.reason for reject in rows.rejects)
            _log.warning("dead_letters", topic=self._topic, **why)
        self._metrics.rows.labels(self._topic, "decoded").inc(rows.frame.height)
        return rows

    def publish(self, batches: Batches) -> Batches:
        """Send rows to their shards; commit what every shard has been told of."""
        rows = [batch for batch in batches if isinstance(batch, Rows)]
        for batch in rows:
            self._publisher.send(batch)
            self._next[batch.records.partition] = batch.records.next_offset
        if rows:
            self._producer.flush()
        ticks = [batch for batch in batches if isinstance(batch, Tick)]
        for tick in ticks:
            self._commit(tick)
        return ticks

    def _commit(self, tick: Tick) -> None:
        due = tick.idle or tick.now_us - self._committed_at_us >= _COMMIT_EVERY_US
        if not due or self._next == self._committed:
            return
        for partition, offset in self._next.items():
            self._publisher.tell(partition, offset - 1, at_end=tick.idle)
        self._dead_letters.flush()
        self._producer.flush()
        self._consumer.commit(self._topic, self._next)
        self._committed = dict(self._next)
        self._committed_at_us = tick.now_us
