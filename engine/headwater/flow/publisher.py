"""The publisher: decoded rows re-keyed by entity, onto the exchange, each stretch told once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headwater.flow.exchange import RECORD_BYTES_MAX, Header, wires_of
from headwater.kernels.keys import partition_rows, shard_of
from headwater.state.keys import canonical_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from headwater.flow.decode import Rows
    from headwater.flow.exchange import Wire
    from headwater.plan.plan import Plan
    from headwater_connectors.log.log import Producer, Topic

__all__ = ["Publisher"]

_RECORD_ROWS_MAX = 8192


@dataclass(slots=True)
class _Lane:
    """One binding of one source partition: the last offset each shard has been told of."""

    wire: Wire
    partition: int
    told: list[int]


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows of one lane in shard order; `offsets` (n) are theirs, `to_offset` the last covered."""

    rows: pa.RecordBatch
    offsets: NDArray[np.int64]
    to_offset: int


class Publisher:
    """Sends the rows of one source topic to the shards of every binding."""

    def __init__(
        self,
        plan: Plan,
        topic: Topic,
        *,
        exchange: str,
        shards: int,
        producer: Producer,
        positions: Mapping[int, int],
    ) -> None:
        self._topic_id = topic.id
        self._exchange = exchange
        self._shards = shards
        self._producer = producer
        wires = wires_of(plan)
        self._lanes = {
            partition: [
                _Lane(wires[binding.id], partition, [offset - 1] * shards)
                for binding in plan.bindings_of(topic.name)
            ]
            for partition, offset in positions.items()
        }

    def send(self, rows: Rows) -> int:
        """Send rows to their shards, unacknowledged yet; return how many, over all bindings."""
        to_offset = rows.records.next_offset - 1
        return sum(
            self._send_lane(lane, rows, to_offset) for lane in self._lanes[rows.records.partition]
        )

    def tell(self, partition: int, to_offset: int, *, at_end: bool) -> None:
        """Send a progress record to every shard that hasn't been told of `to_offset` yet."""
        for lane in self._lanes[partition]:
            for shard in range(self._shards):
                if lane.told[shard] < to_offset:
                    self._send_record(lane, shard, None, to_offset, at_end=at_end)

    def _send_lane(self, lane: _Lane, rows: Rows, to_offset: int) -> int:
        keys = canonical_keys(rows.frame, lane.wire.binding.columns)
        keyed = np.flatnonzero(keys.valid)
        keys = keys.take(keyed)
        shards = np.empty(len(keys), np.int32)
        shard_of(keys.hashes, self._shards, shards)
        order, starts = partition_rows(shards, self._shards)
        batch = lane.wire.table(rows.frame[keyed[order]], keys.take(order).to_arrow())
        run = _Run(batch, batch.column(1).to_numpy(), to_offset)
        for shard in range(self._shards):
            begin, end = int(starts[shard]), int(starts[shard + 1])
            while begin < end:
                begin = self._send_slice(lane, shard, run, begin, end)
        return len(keys)

    def _send_slice(self, lane: _Lane, shard: int, run: _Run, begin: int, end: int) -> int:
        """Send rows from `begin`, as many as fit one record; return where it ended."""
        stop = min(end, begin + _RECORD_ROWS_MAX)
        while True:
            to_offset = run.to_offset if stop == end else int(run.offsets[stop - 1])
            rows = run.rows.slice(begin, stop - begin)
            if self._send_record(lane, shard, rows, to_offset, at_end=False):
                return stop
            stop = begin + (stop - begin) // 2

    def _send_record(
        self, lane: _Lane, shard: int, rows: pa.RecordBatch | None, to_offset: int, *, at_end: bool
    ) -> bool:
        """Send one record; False when it would be too large and has rows to leave out."""
        count = 0 if rows is None else rows.num_rows
        header = Header(
            topic_id=self._topic_id,
            binding=lane.wire.binding.id,
            partition=lane.partition,
            from_offset=lane.told[shard],
            to_offset=to_offset,
            rows=count,
            at_end=at_end,
        )
        value = lane.wire.encode(header, rows)
        if len(value) >= RECORD_BYTES_MAX and count > 1:
            return False
        self._producer.send(self._exchange, shard, value)
        lane.told[shard] = to_offset
        return True
