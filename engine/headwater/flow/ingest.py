"""Ingest: source records into typed rows, and on to the publisher; commits what shards know."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from headwater.flow.decode import Rows
from headwater.flow.pipeline import Tick
from headwater.logs import get_logger
from headwater_connectors.log.log import LogUnreachableError, NotAMemberError

if TYPE_CHECKING:
    from headwater.flow.decode import Decoder
    from headwater.flow.metrics import Metrics
    from headwater.flow.pipeline import Batches
    from headwater.flow.publisher import Publisher
    from headwater.flow.source_end import SourceEnd
    from headwater.flow.starts import Start
    from headwater_connectors.dead_letters import DeadLetters
    from headwater_connectors.log.log import Consumer, Producer

__all__ = ["Ingest"]

_log = get_logger(__name__)

_COMMIT_EVERY_US = 500_000


class Ingest:
    """The ingest stage of one source topic, over the partitions that are here.

    With a `source_end` every shard hears of every lane as often as that is asked for, whether or
    not there are events; without, only of what is new.
    """

    def __init__(
        self,
        decoder: Decoder,
        publisher: Publisher,
        *,
        producer: Producer,
        consumer: Consumer,
        dead_letters: DeadLetters,
        metrics: Metrics,
        start: Start,
        source_end: SourceEnd | None,
    ) -> None:
        self._topic = decoder.stream.topic
        self._decoder = decoder
        self._publisher = publisher
        self._producer = producer
        self._consumer = consumer
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._start = start
        self._source_end = source_end
        self._next: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._committed_at_us = 0
        self._commit_failed = False
        self._progress_at_us = 0

    @property
    def positions(self) -> dict[int, int]:
        """The next offset of every partition that is here."""
        return dict(self._next)

    def assigned(self, partitions: list[int]) -> dict[int, int]:
        """Go on with partitions where the group has committed, at first where the stream starts."""
        committed = self._consumer.committed(self._topic)
        for partition in partitions:
            # What was committed may be from before the stream was made to begin anew.
            offset = max(committed.get(partition, 0), self._start.position(partition))
            self._next[partition] = self._committed[partition] = offset
            self._publisher.begin(partition, offset)
        self._producer.flush()
        return {partition: self._next[partition] for partition in partitions}

    def revoked(self, partitions: list[int], *, lost: bool) -> None:
        """Commit partitions, unless another worker has them already, and give them up."""
        if not lost:
            for partition in partitions:
                self._publisher.tell(partition, self._next[partition] - 1, at_end=False)
            self._commit(partitions)
        for partition in partitions:
            self._publisher.end(partition)
            if self._source_end is not None:
                self._source_end.drop(partition)
            del self._next[partition], self._committed[partition]

    def __call__(self, batches: Batches) -> Batches:
        """Take records in, by the plan that runs now."""
        stream = self._publisher.follow(self._next)
        if stream is not None and stream != self._decoder.stream:
            self._decoder = self._decoder.of(stream)
        return self.publish(self.decode(batches))

    def decode(self, batches: Batches) -> Batches:
        """Decode records; what can't be a row goes to the dead letters."""
        ticks = [batch for batch in batches if isinstance(batch, Tick)]
        runs = [batch for batch in batches if not isinstance(batch, Tick)]
        found = self._decoder.decode_all(runs)
        for rows in found:
            self._count(rows)
        return [*found, *ticks]

    def _count(self, rows: Rows) -> None:
        for reject in rows.rejects:
            self._dead_letters.put(rows.records, reject, stage="decode")
            self._metrics.dead_letters.labels(self._topic, reject.reason).inc()
        if rows.rejects:
            why = Counter(reject.reason for reject in rows.rejects)
            _log.warning("dead_letters", topic=self._topic, **why)
        self._metrics.rows.labels(self._topic, "decoded").inc(rows.frame.height)

    def publish(self, batches: Batches) -> Batches:
        """Send rows to their shards; commit what every shard has been told of."""
        # A driver may hold a batch back until its partition has gone to another worker.
        runs = [
            batch
            for batch in batches
            if isinstance(batch, Rows) and batch.records.partition in self._next
        ]
        if runs:
            self._publisher.send(runs)
            self._next.update({run.records.partition: run.records.next_offset for run in runs})
            self._producer.dispatch()
        ticks = [batch for batch in batches if isinstance(batch, Tick)]
        for tick in ticks:
            self._tell(tick)
        return ticks

    def _tell(self, tick: Tick) -> None:
        """Say how far the source has been read, and commit that."""
        waited = abs(tick.now_us - self._committed_at_us) >= _COMMIT_EVERY_US
        due = waited or (tick.idle and not self._commit_failed)
        if due and self._next != self._committed:
            at_end = tick.idle and self._source_end is None
            for partition, offset in self._next.items():
                self._publisher.tell(partition, offset - 1, at_end=at_end)
            self._commit(list(self._next))
            self._committed_at_us = tick.now_us
        if self._source_end is not None:
            self._progress(tick, self._source_end)

    def _progress(self, tick: Tick, source_end: SourceEnd) -> None:
        is_due = abs(tick.now_us - self._progress_at_us) >= source_end.every_us
        if is_due:
            self._progress_at_us = tick.now_us
            source_end.ask(self._next)
        reached = dict(source_end.reached(self._next))
        for partition, after in reached.items():
            to_offset = self._next[partition] - 1
            self._publisher.progress(partition, to_offset, after=after)
        for partition in self._next.keys() - reached.keys() if is_due else ():
            self._publisher.progress(partition, self._next[partition] - 1)
        if reached or is_due:
            self._producer.dispatch()

    def _commit(self, partitions: list[int]) -> None:
        """Commit what has an acknowledged record in every shard; without the log, next time."""
        offsets = {partition: self._next[partition] for partition in partitions}
        self._dead_letters.flush()
        self._producer.flush()
        try:
            self._consumer.commit(self._topic, offsets)
        except (LogUnreachableError, NotAMemberError) as error:
            # Whoever reads these partitions next sends them again, and the shards skip them.
            self._commit_failed = True
            _log.warning("commit_failed", topic=self._topic, reason=str(error))
        else:
            self._commit_failed = False
            self._committed.update(offsets)
