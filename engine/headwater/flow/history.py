"""History: a stretch of a stream's past, from the archive and, above its end, from the topic.

It serves a hole in the exchange, a shard whose state is gone, and a view that is new to a shard.
It is right whenever it runs: merges commute, and checkpoints are atomic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.flow.decode import Decoder
from headwater.flow.patience import patiently
from headwater.state.events import SYSTEM_COLUMNS
from headwater_connectors.log.log import Records

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from headwater.definitions.stream import Stream
    from headwater.flow.exchange import Keyed, Wire
    from headwater.flow.running import CurrentPlan
    from headwater.flow.settings import WorkerSettings
    from headwater.flow.starts import Start
    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.formats.schema_registry import RegistrySettings
    from headwater_connectors.log.log import Log

__all__ = ["History", "Past", "raw_records"]

_POLL_RECORDS = 16_384
_POLL_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Past:
    """The rows of one lane in the source offsets `(after, upto]`, by shard."""

    after: int
    upto: int
    keyed: Keyed

    def of_shard(self, shard: int) -> pa.RecordBatch:
        """Return a shard's rows, by offset."""
        return self.keyed.of_shard(shard)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The offsets `(after, upto]` of a partition; events before `since_us` don't matter."""

    stream: Stream
    partition: int
    after: int
    upto: int
    since_us: int | None


class History:
    """Reads what ingest has sent, or would have sent, once more."""

    def __init__(
        self,
        current: CurrentPlan,
        log: Log,
        settings: WorkerSettings,
        starts: Mapping[str, Start],
        registry: RegistrySettings | None,
        archive: Archive | None = None,
    ) -> None:
        self._log = log
        self._starts = starts
        self._shards = settings.shards
        self._archive = archive
        self._current = current
        self._namespace = settings.namespace
        self._registry = registry
        self._decoders: dict[str, Decoder] = {}

    def before(self, binding: str, partition: int) -> int:
        """Return the last offset of a partition that isn't part of its stream any more."""
        topic = self._current.now.wires[binding].stream.topic
        return self._starts[topic].position(partition) - 1

    def read(
        self,
        binding: str,
        partition: int,
        stretch: tuple[int, int],
        *,
        rows_max: int,
        since_us: int | None = None,
    ) -> Iterator[Past]:
        """Return what the offsets `(from, to]` of a partition hold, in pieces of `rows_max` rows.

        Events before `since_us` may be left out, and files that hold no others unread. Raises
        OffsetLostError where neither the archive nor the topic holds the stretch any more. While
        the log can't be reached it waits: what asked for a stretch can't go on without it.
        """
        # Looked up now: what is read later, on another thread, is of this plan all the same.
        wire = self._current.now.wires[binding]
        return self._read(wire, _Asked(wire.stream, partition, *stretch, since_us), rows_max)

    def _read(self, wire: Wire, asked: _Asked, rows_max: int) -> Iterator[Past]:
        done = asked.after
        for frame, upto in self._frames(asked):
            for begin in range(0, max(1, frame.height), rows_max):
                part = frame.slice(begin, rows_max)
                is_last = begin + rows_max >= frame.height
                end = upto if is_last else int(part["__offset"][-1])
                yield Past(done, end, wire.keyed([part], self._shards))
                done = end
        name = wire.binding.id
        assert done >= asked.upto, f"history of {name} ends at {done}, not at {asked.upto}"

    def _frames(self, asked: _Asked) -> Iterator[tuple[pl.DataFrame, int]]:
        """Yield decoded rows and the offset up to which they are all."""
        done = asked.after
        if self._archive is not None and done < asked.upto:
            for frame, upto in self._archived(self._archive, asked):
                yield frame, upto
                done = upto
        if done < asked.upto:
            yield from self._from_topic(replace(asked, after=done))

    def _from_topic(self, asked: _Asked) -> Iterator[tuple[pl.DataFrame, int]]:
        stream, done, last = asked.stream, asked.after, asked.upto
        consumer = self._log.consumer(None)
        try:
            patiently(partial(consumer.assign, stream.topic, {asked.partition: done + 1}))
            while done < last:
                poll = partial(consumer.poll, _POLL_RECORDS, _POLL_TIMEOUT_S)
                for records in patiently(poll):
                    frame = self._decoder(stream).decode(records).frame
                    frame = frame[: int(frame["__offset"].search_sorted(last, side="right"))]
                    if asked.since_us is not None:
                        frame = frame.filter(pl.col("__ts") >= asked.since_us)
                    done = records.next_offset - 1
                    yield frame, min(done, last)
        finally:
            consumer.close()

    def _archived(self, archive: Archive, asked: _Asked) -> Iterator[tuple[pl.DataFrame, int]]:
        """Yield what is archived of a stretch, from its start on; nothing if that isn't there."""
        stream, partition = asked.stream, asked.partition
        topic_id = self._starts[stream.topic].topic_id
        end = archive.position(stream.topic, topic_id, partition)
        if end is None or end <= asked.after:
            return
        done, last = asked.after, min(end, asked.upto)
        # Rows from before a column was part of the stream have it in their raw records alone.
        for upto, is_complete in self._complete(archive, stream, partition, (done, last)):
            scanned = archive.scan(
                stream.topic,
                topic_id,
                columns=dict(stream.schema) if is_complete else {},
                ts_from_us=asked.since_us,
                stretches={partition: (done, upto)},
                raw=not is_complete,
                batch_rows=_POLL_RECORDS * 4,
            )
            for _, batch in scanned:
                frame = batch if is_complete else self._decoded(stream, partition, batch)
                yield frame, int(batch["__offset"][-1])
            # Records that became no rows lie at the end.
            yield pl.DataFrame(schema=_schema_of(stream)), upto
            done = upto

    def _complete(
        self, archive: Archive, stream: Stream, partition: int, stretch: tuple[int, int]
    ) -> Iterator[tuple[int, bool]]:
        """Yield (offset, whether the archive has every column of the stream up to there)."""
        after, last = stretch
        topic_id = self._starts[stream.topic].topic_id
        beginning = archive.beginning(stream.topic, topic_id, partition)
        if beginning is None or beginning.after_offset > after:
            return  # the archive begins later: the topic has to have it
        lacking = archive.lacks_until(stream.topic, topic_id, partition, stream.schema)
        incomplete = after if lacking is None else min(max(lacking, after), last)
        if incomplete > after:
            yield incomplete, False
        if last > incomplete:
            yield last, True

    def _decoded(self, stream: Stream, partition: int, batch: pl.DataFrame) -> pl.DataFrame:
        """Decode archived raw records as ingest would now."""
        topic_id = self._starts[stream.topic].topic_id
        records = raw_records(batch, stream.topic, topic_id, partition)
        return self._decoder(stream).decode(records).frame

    def _decoder(self, stream: Stream) -> Decoder:
        known = self._decoders.get(stream.topic)
        if known is None or known.stream != stream:
            known = self._decoders[stream.topic] = Decoder(stream, self._namespace, self._registry)
        return known


def raw_records(batch: pl.DataFrame, topic: str, topic_id: str, partition: int) -> Records:
    """Return archived rows as the records that they were decoded from."""
    return Records(
        topic=topic,
        topic_id=topic_id,
        partition=partition,
        offsets=np.array(batch["__offset"]),
        timestamps_us=np.array(batch["__arrival"]),
        keys=[None] * batch.height,
        values=batch["__raw"].to_list(),
        headers=[()] * batch.height,
    )


def _schema_of(stream: Stream) -> dict[str, pl.DataType]:
    return {**dict.fromkeys(SYSTEM_COLUMNS, pl.Int64()), **stream.schema}
