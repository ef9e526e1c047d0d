"""The publisher: decoded rows re-keyed by entity, onto the exchange, each stretch told once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.flow.exchange import RECORD_BYTES_MAX, Header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

    from headwater.definitions.stream import Stream
    from headwater.flow.decode import Rows
    from headwater.flow.exchange import Wire
    from headwater.flow.running import CurrentPlan, Running
    from headwater_connectors.log.log import Producer, Topic

__all__ = ["Publisher"]

_RECORD_ROWS_MAX = 8192


@dataclass(slots=True)
class _Lane:
    """One binding of one source partition: the last offset each shard has been told of."""

    wire: Wire
    partition: int
    told: list[int]


class Publisher:
    """Sends the rows of one source topic to the shards of every binding."""

    def __init__(
        self,
        current: CurrentPlan,
        topic: Topic,
        *,
        exchange: str,
        shards: int,
        producer: Producer,
        published: Callable[[int], None],
    ) -> None:
        self._topic = topic
        self._exchange = exchange
        self._shards = shards
        self._producer = producer
        self._published = published
        self._current = current
        self._running = current.now
        self._wires = self._wires_of(self._running)
        self._lanes: dict[int, list[_Lane]] = {}

    def _wires_of(self, running: Running) -> list[Wire]:
        bindings = running.plan.bindings_of(self._topic.name)
        return [running.wires[binding.id] for binding in bindings]

    def follow(self, positions: Mapping[int, int]) -> Stream | None:
        """Go on with the lanes of the plan that runs now; return its definition of the stream.

        New lanes begin at the next offsets of the partitions, and every shard is told so.
        """
        running = self._current.now
        if running is not self._running:
            self._adopt(running, positions)
        return running.plan.streams.get(self._topic.name)

    def _adopt(self, running: Running, positions: Mapping[int, int]) -> None:
        self._running = running
        self._wires = self._wires_of(running)
        for partition, lanes in self._lanes.items():
            told = {lane.wire.binding.id: lane.told for lane in lanes}
            before = positions[partition] - 1
            self._lanes[partition] = [
                _Lane(wire, partition, told.get(wire.binding.id) or [before] * self._shards)
                for wire in self._wires
            ]
            for lane in self._lanes[partition]:
                if lane.wire.binding.id not in told:
                    self._tell_all(lane, before)
        self._producer.dispatch()

    def begin(self, partition: int, offset: int) -> None:
        """Take a partition on from an offset, and tell every shard so.

        One that has missed what came before then asks history for it, without waiting for an event.
        """
        self._lanes[partition] = [
            _Lane(wire, partition, [offset - 1] * self._shards) for wire in self._wires
        ]
        self.progress(partition, offset - 1)

    def end(self, partition: int) -> None:
        """Send nothing more of a partition."""
        del self._lanes[partition]

    def send(self, runs: Sequence[Rows]) -> None:
        """Send the rows of a poll to their shards, unacknowledged yet."""
        frames = [run.frame for run in runs]
        for number, wire in enumerate(self._wires):
            keyed = wire.keyed(frames, self._shards)
            # Counted first: a full buffer is sent on the way, and a shard may be quick.
            self._published(keyed.rows.num_rows)
            for at, run in enumerate(runs):
                lane = self._lanes[run.records.partition][number]
                for shard in range(self._shards):
                    rows = keyed.of_shard(shard, at)
                    self._send_rows(lane, shard, rows, run.records.next_offset - 1)

    def tell(self, partition: int, to_offset: int, *, at_end: bool) -> None:
        """Send a progress record to every shard that hasn't been told of `to_offset` yet."""
        for lane in self._lanes[partition]:
            for shard in range(self._shards):
                if lane.told[shard] < to_offset:
                    self._send_record(lane, shard, None, to_offset, at_end=at_end)

    def progress(
        self, partition: int, to_offset: int, *, after: Sequence[int] | None = None
    ) -> None:
        """Send a progress record to every shard, whether or not it was told of `to_offset`.

        It shows that this lane is alive, and reveals what the exchange may have lost. With
        `after` it says that the source ended at or before `to_offset` when it was asked, and that
        was after the exchange had ended at these offsets, by shard.
        """
        for lane in self._lanes[partition]:
            self._tell_all(lane, to_offset, after)

    def _tell_all(self, lane: _Lane, to_offset: int, after: Sequence[int] | None = None) -> None:
        for shard in range(self._shards):
            self._send_record(
                lane,
                shard,
                None,
                to_offset,
                at_end=after is not None,
                after_offset=-1 if after is None else after[shard],
            )

    def _send_rows(self, lane: _Lane, shard: int, rows: pa.RecordBatch, to_offset: int) -> None:
        """Send a shard's rows in as few records as they fit."""
        begin, size = 0, _RECORD_ROWS_MAX
        while begin < rows.num_rows:
            part = rows.slice(begin, size)
            stop = begin + part.num_rows
            last = stop == rows.num_rows
            upto = to_offset if last else rows.column(1)[stop - 1].as_py()
            if self._send_record(lane, shard, part, upto, at_end=False):
                begin = stop
            else:
                size = part.num_rows // 2

    def _send_record(
        self,
        lane: _Lane,
        shard: int,
        rows: pa.RecordBatch | None,
        to_offset: int,
        *,
        at_end: bool,
        after_offset: int = -1,
    ) -> bool:
        """Send one record; False when it would be too large and has rows to leave out."""
        count = 0 if rows is None else rows.num_rows
        header = Header(
            topic_id=self._topic.id,
            binding=lane.wire.binding.id,
            partition=lane.partition,
            from_offset=lane.told[shard],
            to_offset=to_offset,
            rows=count,
            at_end=at_end,
            after_offset=after_offset,
            schema=lane.wire.schema_id,
        )
        value = lane.wire.encode(header, rows)
        if len(value) >= RECORD_BYTES_MAX and count > 1:
            return False
        self._producer.send(self._exchange, shard, value)
        lane.told[shard] = to_offset
        return True
