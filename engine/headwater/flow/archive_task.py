"""The archive task: a reader of its own that keeps every row of a stream as Parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from headwater.flow.archive_care import ArchiveCare
from headwater.flow.pipeline import Tick
from headwater.logs import get_logger
from headwater_connectors.archive.errors import ArchiveConflictError, StoreUnavailableError
from headwater_connectors.log.log import LogUnreachableError, NotAMemberError
from headwater_connectors.log.packed_column import BytesColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headwater.flow.archive_care import CareSettings
    from headwater.flow.decode import Decoder
    from headwater.flow.metrics import Metrics
    from headwater.flow.pipeline import Batches
    from headwater.flow.running import CurrentPlan
    from headwater.flow.starts import Start
    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.log.log import Consumer, Records

__all__ = ["ArchiveTask", "raw_column"]

_log = get_logger(__name__)

_ROWS_MAX = 200_000
_WAIT_US = 10_000_000
_AGAIN_US = 5_000_000
# A partition without new records says this often that nothing is missing.
_FRONTIER_EVERY_US = 60_000_000
# A worker that stood still writes once what it had; another archive's writer does so all the time.
_CONFLICTS_MAX = 5
_CONFLICTS_WITHIN_US = 120_000_000


class _Pending:
    """Rows of one partition that are not in a file yet."""

    def __init__(self, now_us: int) -> None:
        self.frames: list[pl.DataFrame] = []
        self.rows = 0
        self.to_offset = -1
        self.arrival_us = 0
        self.since_us = now_us
        # While the store fails they wait for it.
        self.not_before_us = now_us


class ArchiveTask:
    """Collects decoded rows and appends them in large files; commits what is durable.

    `ends` asks the log where the topic's partitions end now: a partition that is archived up to
    there holds all that had arrived before that was asked, and its frontier moves on.
    """

    def __init__(
        self,
        decoder: Decoder,
        current: CurrentPlan,
        *,
        archive: Archive,
        consumer: Consumer,
        metrics: Metrics,
        start: Start,
        care: CareSettings,
        ends: Callable[[], Sequence[int]],
    ) -> None:
        self._decoder = decoder
        self._stream = decoder.stream
        self._current = current
        self._topic_id = start.topic_id
        self._archive = archive
        self._consumer = consumer
        self._metrics = metrics
        self._pending: dict[int, _Pending] = {}
        self._start = start
        self._ends = ends
        self._now_us = 0
        self._ends_asked_us: int | None = None
        self._frontiers: dict[int, int] = {}
        self.archived: dict[int, int] = {}
        # Numbers of who wants all of it archived now, and of whom that has been done for.
        self._wanted = 0
        self.completed = 0
        self._care = ArchiveCare(archive, self._stream.topic, start.topic_id, care)
        # When others have extended partitions that are ours.
        self._conflicts: dict[int, list[int]] = {}

    @property
    def positions(self) -> dict[int, int]:
        """The next offset to archive of every partition that is here."""
        return {partition: offset + 1 for partition, offset in self.archived.items()}

    def assigned(self, partitions: list[int]) -> dict[int, int]:
        """Go on with partitions where their archive ends."""
        for partition in partitions:
            done = self._archive.position(self._stream.topic, self._topic_id, partition)
            first = self._start.position(partition)
            self.archived[partition] = first - 1 if done is None else done
        # Where a stream was made to begin anew, the manifests go on without a gap all the same.
        return {
            partition: max(self.archived[partition] + 1, self._start.position(partition))
            for partition in partitions
        }

    def revoked(self, partitions: list[int], *, lost: bool) -> None:
        """Write partitions out, unless another worker has them already, and give them up."""
        for partition in partitions:
            if lost:
                self._pending.pop(partition, None)
            elif partition in self._pending:
                self._write(partition)
                # What the store didn't take the next owner reads again.
                self._pending.pop(partition, None)
            del self.archived[partition]
            self._care.forget(partition)
            self._frontiers.pop(partition, None)

    def complete(self) -> int:
        """Ask, from any thread, for everything the log holds now to be archived soon.

        It is done once `completed` has reached the number returned.
        """
        self._wanted += 1
        return self._wanted

    def __call__(self, batches: Batches) -> Batches:
        """Take records in; write the partitions that are full or old enough."""
        self._follow()
        ticks = []
        for batch in batches:
            if isinstance(batch, Tick):
                self._now_us = batch.now_us
                ticks.append(batch)
            elif batch.partition in self.archived:
                self._take(batch)
        wanted = self._wanted
        hurries = wanted > self.completed
        for partition, pending in list(self._pending.items()):
            is_old = self._now_us - pending.since_us >= _WAIT_US
            is_due = hurries or is_old or pending.rows >= _ROWS_MAX
            if is_due and self._now_us >= pending.not_before_us:
                self._write(partition)
        if self._ends_asked_us is None:
            self._ends_asked_us = self._now_us
        is_due = abs(self._now_us - self._ends_asked_us) >= _FRONTIER_EVERY_US
        if ticks and (hurries or is_due) and self._extend(hurries=hurries):
            self.completed = wanted
        self._care.visit(sorted(self.archived), self._now_us)
        return ticks

    def _follow(self) -> None:
        """Go on with the columns of the plan that runs now, once the rows in hand are written."""
        stream = self._current.plan.streams.get(self._stream.topic, self._stream)
        if stream is self._stream or stream == self._stream:
            return
        self.flush()
        if not self._pending:
            self._decoder, self._stream = self._decoder.of(stream), stream

    def is_full(self) -> bool:
        """Whether a store that fails has left as many rows here as there may be."""
        return any(pending.rows >= _ROWS_MAX for pending in self._pending.values())

    def _extend(self, *, hurries: bool) -> bool:
        """Move the frontier of partitions that are at their end; return whether all of them are."""
        self._ends_asked_us = now_us = self._now_us
        try:
            ends = self._ends()
        except LogUnreachableError:
            return False
        all_at_end = True
        for partition, done in self.archived.items():
            if done + 1 < ends[partition] or partition in self._pending:
                all_at_end = False
            elif hurries or now_us - self._frontiers.get(partition, 0) >= _FRONTIER_EVERY_US:
                all_at_end &= self._says(partition, done, now_us)
        return all_at_end

    def _says(self, partition: int, done: int, frontier_us: int) -> bool:
        """Write down that nothing is missing up to a moment; return whether it is written."""
        try:
            self._append(partition, pl.DataFrame(), done, frontier_us)
        except ArchiveConflictError:
            # Another writer has it by now: that one says how far it is.
            return True
        except StoreUnavailableError as error:
            self._store_failed(error)
            return False
        return True

    def _append(self, partition: int, rows: pl.DataFrame, to_offset: int, frontier_us: int) -> None:
        self._archive.append(
            self._stream.topic,
            self._topic_id,
            partition,
            rows,
            from_offset=self.archived[partition],
            to_offset=to_offset,
            frontier_us=frontier_us,
        )
        self.archived[partition] = to_offset
        self._frontiers[partition] = frontier_us

    def _take(self, records: Records) -> None:
        pending = self._pending.setdefault(records.partition, _Pending(self._now_us))
        rows = self._decoder.decode(records)
        at = rows.frame["__offset"].to_numpy() - int(records.offsets[0])
        contiguous = int(records.offsets[-1]) - int(records.offsets[0]) + 1 == len(records)
        if not contiguous:
            at = records.offsets.searchsorted(rows.frame["__offset"].to_numpy())
        raw = raw_column(records.values).gather(at)
        pending.frames.append(rows.frame.with_columns(raw))
        pending.rows += rows.frame.height
        pending.to_offset = records.next_offset - 1
        pending.arrival_us = max(pending.arrival_us, int(records.timestamps_us.max()))

    def _write(self, partition: int) -> None:
        pending = self._pending[partition]
        pending.frames = [pl.concat(pending.frames)]
        try:
            written = self._append_all(partition, pending)
        except StoreUnavailableError as error:
            self._store_failed(error)
            pending.not_before_us = self._now_us + _AGAIN_US
            return
        del self._pending[partition]
        try:
            self._consumer.commit(self._stream.topic, {partition: self.archived[partition] + 1})
        except (LogUnreachableError, NotAMemberError) as error:
            # The manifests say where to go on; the commit is for people's eyes.
            _log.warning("commit_failed", topic=self._stream.topic, reason=str(error))
        self._metrics.archived_rows.labels(self._stream.topic).inc(written)

    def _append_all(self, partition: int, pending: _Pending) -> int:
        """Make rows durable; return how many of them were not there yet."""
        (frame,) = pending.frames
        written = 0
        while (done := self.archived[partition]) < pending.to_offset:
            rows = frame.filter(pl.col("__offset") > done)
            try:
                self._append(partition, rows, pending.to_offset, pending.arrival_us)
            except ArchiveConflictError as error:
                self._go_on(partition, error)
            else:
                written = rows.height
        return written

    def _go_on(self, partition: int, error: ArchiveConflictError) -> None:
        """Go on where another writer has left a partition.

        This worker stood still and another has taken over; or the one before us stood still, and
        wrote what it had before it heard that the partition is ours. What is there is right either
        way: rows are functions of their records.
        """
        known = self.archived[partition]
        done = self._archive.position(self._stream.topic, self._topic_id, partition)
        if done is None or done <= known:
            raise error
        _log.warning("archive_conflict", partition=partition, reason=str(error))
        since_us = self._now_us - _CONFLICTS_WITHIN_US
        recent = [at for at in self._conflicts.get(partition, ()) if at > since_us]
        self._conflicts[partition] = [*recent, self._now_us]
        if len(recent) >= _CONFLICTS_MAX:
            msg = (
                f"archive of {self._stream.topic}[{partition}]: something else writes it while"
                " it is ours; give each namespace an archive of its own, then restart"
            )
            raise ArchiveConflictError(msg) from error
        self.archived[partition] = done

    def _store_failed(self, error: StoreUnavailableError) -> None:
        _log.warning("archive_waits", topic=self._stream.topic, reason=str(error))
        self._metrics.archive_failures.inc()

    def flush(self) -> None:
        """Write everything taken in so far."""
        for partition in list(self._pending):
            self._write(partition)


def raw_column(values: Sequence[bytes | None]) -> pl.Series:
    """Return records' values as a column; of a packed one the bytes stay where they are."""
    if not isinstance(values, BytesColumn) or values.nulls is not None:
        return pl.Series("__raw", list(values), pl.Binary)
    buffers = [None, pa.py_buffer(values.bounds), pa.py_buffer(values.buffer)]
    packed = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(values), buffers)
    # The first byte of each is the newline before it.
    return pl.Series("__raw", packed).bin.slice(1)
