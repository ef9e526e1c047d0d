"""Where history comes from: the log, the archive and the log's tail, or Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import polars as pl

from headwater.errors import NotFoundError, did_you_mean
from headwater.flow.answer import RequestError
from headwater.flow.decode import EARLIEST_US, LATEST_US, Decoder
from headwater.flow.history import raw_records
from headwater.state.events import SYSTEM_COLUMNS
from headwater_connectors.archive.archive import NO_FRONTIER_US

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from headwater.definitions.stream import Stream
    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan
    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.archive.snapshot import Snapshot, TopicSnapshot
    from headwater_connectors.formats.schema_registry import RegistrySettings
    from headwater_connectors.log.log import Log

__all__ = [
    "ALL_TIME",
    "ArchiveEvents",
    "EventSource",
    "LogEvents",
    "ParquetEvents",
    "Span",
    "WholeHistory",
]

_BATCH_ROWS = 131_072
_POLL_RECORDS = 65_536

# Event times from, and before, which events matter to a reader, in µs; None has no bound.
Span = tuple[int | None, int | None]
ALL_TIME: Span = (None, None)
Stretches: TypeAlias = Mapping[int, tuple[int, int]]  # by partition, offsets (from, to]


class EventSource(Protocol):
    """History by stream."""

    def rows(self, stream: Stream) -> int:
        """Return about how many events there are."""
        ...

    def frontier_us(self, stream: Stream) -> int | None:
        """Return the arrival up to which every event is there; None if nothing can be missing."""
        ...

    def scan(
        self, stream: Stream, columns: Sequence[str], span: Span = ALL_TIME
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield (partition, frame) with the system columns and `columns`, a batch at a time.

        Events outside `span` may be left out.
        """
        ...


class LogEvents:
    """What the log holds from where each stream begins to where it ends when that is first asked.

    So every reader of one of these reads the same events, whatever comes meanwhile.
    """

    def __init__(
        self,
        log: Log,
        starts: Mapping[str, Start],
        namespace: str,
        *,
        after: Mapping[str, Mapping[int, int]] | None = None,
        registry: RegistrySettings | None = None,
    ) -> None:
        self._log = log
        self._registry = registry
        self._starts = starts
        self._namespace = namespace
        self._after = after or {}
        self._known_ends: dict[str, list[int]] = {}

    def _ends(self, topic: str) -> list[int]:
        if topic not in self._known_ends:
            self._known_ends[topic] = self._log.end_offsets(topic)
        return self._known_ends[topic]

    def rows(self, stream: Stream) -> int:
        """Return how many records there are."""
        ends = self._ends(stream.topic)
        return sum(max(0, end - self._first(stream.topic, p)) for p, end in enumerate(ends))

    def _first(self, topic: str, partition: int) -> int:
        done = self._after.get(topic, {}).get(partition)
        start = self._starts[topic].position(partition)
        return start if done is None else max(start, done + 1)

    def frontier_us(self, stream: Stream) -> None:
        """Return None: the log has all that was ever sent."""

    def scan(
        self,
        stream: Stream,
        columns: Sequence[str],
        span: Span = ALL_TIME,  # noqa: ARG002 - a log must be read to know
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield decoded rows."""
        ends = self._ends(stream.topic)
        first = {p: self._first(stream.topic, p) for p, end in enumerate(ends)}
        left = {p: end for p, end in enumerate(ends) if end > first[p]}
        decoder = Decoder(stream, self._namespace, self._registry)
        consumer = self._log.consumer(None)
        try:
            consumer.assign(stream.topic, {p: first[p] for p in left})
            while left:
                for records in consumer.poll(_POLL_RECORDS, 1.0):
                    end = left.get(records.partition)
                    if end is None:
                        continue
                    frame = decoder.decode(records).frame
                    if records.next_offset >= end:
                        del left[records.partition]
                        frame = frame.filter(pl.col("__offset") < end)
                    yield records.partition, frame.select(*SYSTEM_COLUMNS, *columns)
        finally:
            consumer.close()


class ArchiveEvents:
    """What a snapshot of an archive holds: the same rows whenever they are read.

    `stretches` narrows streams to offsets (from, to] by partition.
    """

    def __init__(
        self,
        archive: Archive,
        snapshot: Snapshot,
        *,
        stretches: Mapping[str, Stretches] | None = None,
        registry: RegistrySettings | None = None,
    ) -> None:
        self._archive = archive
        self._registry = registry
        self._stretches = stretches or {}
        self.snapshot = snapshot

    def _part(self, stream: Stream) -> TopicSnapshot:
        for part in self.snapshot.topics:
            if part.topic == stream.topic:
                return part
        known = [part.topic for part in self.snapshot.topics]
        msg = (
            f"snapshot {self.snapshot} holds nothing of stream"
            f' "{stream.topic}".{did_you_mean(stream.topic, known)} Take one that names it.'
        )
        raise RequestError(msg)

    def frontier_us(self, stream: Stream) -> int:
        """Return the arrival in µs up to which the snapshot holds every event of a stream."""
        part = self._part(stream)
        if not part.numbers:
            return NO_FRONTIER_US
        partitions = range(len(part.numbers))
        return self._archive.frontier_us(part.topic, part.topic_id, partitions, self.snapshot)

    def rows(self, stream: Stream) -> int:
        """Return how many rows there are."""
        part = self._part(stream)
        return self._archive.rows(part.topic, part.topic_id, self.snapshot)

    def scan(
        self, stream: Stream, columns: Sequence[str], span: Span = ALL_TIME
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the rows in the span.

        Rows from before a column was archived have it in their raw records alone.
        """
        part = self._part(stream)
        typed, raw = self._by_form(part, columns)
        if raw:
            # An archive has no records of other namespaces.
            decoder = Decoder(stream, namespace="", registry=self._registry)
            for partition, batch in self._scan(part, {}, span, raw, raw=True):
                records = raw_records(batch, part.topic, part.topic_id, partition)
                yield partition, decoder.decode(records).frame.select(*SYSTEM_COLUMNS, *columns)
        types = {name: stream.schema[name] for name in columns}
        for partition, frame in self._scan(part, types, span, typed, raw=False):
            yield partition, frame.select(*SYSTEM_COLUMNS, *columns)

    def _by_form(
        self, part: TopicSnapshot, columns: Sequence[str]
    ) -> tuple[Stretches | None, Stretches]:
        """Return what can be read as typed columns, None for all, and what as raw records."""
        stretches = self._stretches.get(part.topic)
        lacking = {
            partition: until
            for partition, number in enumerate(part.numbers)
            if number
            and (
                until := self._archive.lacks_until(
                    part.topic, part.topic_id, partition, columns, self.snapshot
                )
            )
            is not None
        }
        if not lacking:
            return stretches, {}
        if stretches is None:
            stretches = self._archive.extents(part.topic, part.topic_id, self.snapshot)
        raw = {
            partition: (after, min(lacking[partition], upto))
            for partition, (after, upto) in stretches.items()
            if lacking.get(partition, after) > after
        }
        typed = {
            partition: (raw[partition][1] if partition in raw else after, upto)
            for partition, (after, upto) in stretches.items()
        }
        return typed, raw

    def _scan(
        self,
        part: TopicSnapshot,
        columns: Mapping[str, pl.DataType],
        span: Span,
        stretches: Stretches | None,
        *,
        raw: bool,
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        return self._archive.scan(
            part.topic,
            part.topic_id,
            columns=columns,
            snapshot=self.snapshot,
            ts_from_us=span[0],
            ts_before_us=span[1],
            stretches=stretches,
            raw=raw,
            batch_rows=_BATCH_ROWS,
        )


class WholeHistory:
    """The archive, and above its end the log: everything there is of some topics now."""

    def __init__(
        self,
        topics: Iterable[str],
        archive: Archive,
        log: Log,
        starts: Mapping[str, Start],
        namespace: str,
        *,
        registry: RegistrySettings | None = None,
    ) -> None:
        ids = {name: log.topic(name).id for name in topics}
        stretches: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in ids}
        after: dict[str, dict[int, int]] = {name: {} for name in ids}
        # Positions before the snapshot: what is archived from here on is read from the log.
        for name, topic_id in ids.items():
            for partition in range(log.topic(name).partitions):
                done = archive.position(name, topic_id, partition)
                if done is not None:
                    after[name][partition] = done
                    # From its own beginning: a stream that was made to begin anew keeps its past.
                    begins = archive.beginning(name, topic_id, partition)
                    first = done if begins is None else begins.after_offset
                    stretches[name][partition] = (first, done)
        self._archived = ArchiveEvents(
            archive, archive.snapshot(ids), stretches=stretches, registry=registry
        )
        self._tail = LogEvents(log, starts, namespace, after=after, registry=registry)

    def rows(self, stream: Stream) -> int:
        """Return how many rows and records there are."""
        return self._archived.rows(stream) + self._tail.rows(stream)

    def frontier_us(self, stream: Stream) -> None:
        """Return None: with the log nothing is missing."""

    def scan(
        self, stream: Stream, columns: Sequence[str], span: Span = ALL_TIME
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the archive's rows, then the log's."""
        yield from self._archived.scan(stream, columns, span)
        yield from self._tail.scan(stream, columns, span)


class ParquetEvents:
    """Events in lazy frames or Parquet files, one per stream, all in partition 0 in row order."""

    def __init__(
        self, plan: Plan, events: Mapping[str, pl.LazyFrame | pl.DataFrame | str | Path]
    ) -> None:
        self._frames: dict[str, pl.LazyFrame] = {}
        for topic, given in events.items():
            if topic not in plan.streams:
                msg = f'events: no stream "{topic}" in the plan.{did_you_mean(topic, plan.streams)}'
                raise NotFoundError(msg)
            self._frames[topic] = (
                pl.scan_parquet(given) if isinstance(given, str | Path) else given.lazy()
            )

    def _frame(self, stream: Stream) -> pl.LazyFrame:
        if stream.topic not in self._frames:
            msg = f'events: nothing given for stream "{stream.topic}"; add it to events='
            raise RequestError(msg)
        frame = self._frames[stream.topic]
        try:
            names = frame.collect_schema().names()
        except (OSError, pl.exceptions.PolarsError) as error:
            reason = " ".join(str(error).split())
            msg = f'events for stream "{stream.topic}" can\'t be read: {reason}'
            raise RequestError(msg) from error
        for name, dtype in stream.schema.items():
            if name not in names:
                msg = (
                    f'events for stream "{stream.topic}": no column'
                    f' "{name}".{did_you_mean(name, names)}'
                )
                raise RequestError(msg)
            given = frame.collect_schema()[name]
            if given != dtype:
                msg = (
                    f'events for stream "{stream.topic}": column "{name}" is {given}, the stream'
                    f" says {dtype}; cast it"
                )
                raise RequestError(msg)
        return frame

    def rows(self, stream: Stream) -> int:
        """Return how many rows there are."""
        return int(self._frame(stream).select(pl.len()).collect().item())

    def frontier_us(self, stream: Stream) -> None:
        """Return None: what is given is taken as all there is."""

    def scan(
        self,
        stream: Stream,
        columns: Sequence[str],
        span: Span = ALL_TIME,  # noqa: ARG002 - frames are cheap to read whole
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the rows with an event time; the arrival is the event time.

        Rows without one, or outside the years 1 to 9999, are left out as ingest leaves them out.
        """
        time = stream.event_time.microseconds(stream.schema)
        wanted = list(dict.fromkeys([*columns, stream.event_time.column]))
        first = 0
        for batch in (
            self._frame(stream)
            .select(wanted)
            .collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True)
        ):
            frame = batch.with_columns(
                time.alias("__ts"),
                pl.Series("__offset", np.arange(first, first + batch.height)),
            ).with_columns(__arrival=pl.col("__ts"))
            first += batch.height
            in_time = pl.col("__ts").is_between(EARLIEST_US, LATEST_US)
            yield 0, frame.filter(in_time).select(*SYSTEM_COLUMNS, *columns)
