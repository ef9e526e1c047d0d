"""The archive task: a reader of its own that keeps every row of a stream as Parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from headwater.flow.decode import Decoder
from headwater.flow.pipeline import Tick

if TYPE_CHECKING:
    from headwater.definitions.stream import Stream
    from headwater.flow.metrics import Metrics
    from headwater.flow.pipeline import Batches
    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.log.log import Consumer, Records

__all__ = ["ArchiveTask"]

_ROWS_MAX = 200_000
_WAIT_US = 10_000_000


class _Pending:
    """Rows of one partition that are not in a file yet."""

    def __init__(self, now_us: int) -> None:
        self.frames: list[pl.DataFrame] = []
        self.rows = 0
        self.to_offset = -1
        self.arrival_us = 0
        self.since_us = now_us


class ArchiveTask:
    """Collects decoded rows and appends them in large files; commits what is durable."""

    def __init__(
        self,
        stream: Stream,
        topic_id: str,
        *,
        archive: Archive,
        consumer: Consumer,
        metrics: Metrics,
        positions: dict[int, int],
    ) -> None:
        self._decoder = Decoder(stream)
        self._stream = stream
        self._topic_id = topic_id
        self._archive = archive
        self._consumer = consumer
        self._metrics = metrics
        self._pending: dict[int, _Pending] = {}
        self._now_us = 0
        self.archived = {partition: offset - 1 for partition, offset in positions.items()}

    def __call__(self, batches: Batches) -> Batches:
        """Take records in; write the partitions that are full or old enough."""
        ticks = []
        for batch in batches:
            if isinstance(batch, Tick):
                self._now_us = batch.now_us
                ticks.append(batch)
            else:
                self._take(batch)
        for partition, pending in list(self._pending.items()):
            if pending.rows >= _ROWS_MAX or self._now_us - pending.since_us >= _WAIT_US:
                self._write(partition)
        return ticks

    def _take(self, records: Records) -> None:
        pending = self._pending.setdefault(records.partition, _Pending(self._now_us))
        rows = self._decoder.decode(records)
        at = rows.frame["__offset"].to_numpy() - int(records.offsets[0])
        contiguous = int(records.offsets[-1]) - int(records.offsets[0]) + 1 == len(records)
        if not contiguous:
            at = records.offsets.searchsorted(rows.frame["__offset"].to_numpy())
        raw = pl.Series("__raw", list(records.values), pl.Binary).gather(at)
        pending.frames.append(rows.frame.with_columns(raw))
        pending.rows += rows.frame.height
        pending.to_offset = records.next_offset - 1
        pending.arrival_us = max(pending.arrival_us, int(records.timestamps_us.max()))

    def _write(self, partition: int) -> None:
        pending = self._pending.pop(partition)
        frame = pl.concat(pending.frames)
        self._archive.append(
            self._stream.topic,
            self._topic_id,
            partition,
            frame,
            from_offset=self.archived[partition],
            to_offset=pending.to_offset,
            frontier_us=pending.arrival_us,
        )
        self._consumer.commit(self._stream.topic, {partition: pending.to_offset + 1})
        self.archived[partition] = pending.to_offset
        self._metrics.archived_rows.labels(self._stream.topic).inc(pending.rows)

    def flush(self) -> None:
        """Write everything taken in so far."""
        for partition in list(self._pending):
            self._write(partition)
