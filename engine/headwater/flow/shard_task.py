"""The shard task: exchange records into rows, each row once, whatever is sent twice."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from headwater.flow.evaluate import Evaluated, Run, evaluate, evaluate_in_room, rows_at_once
from headwater.flow.exchange import split
from headwater.flow.pipeline import Tick
from headwater.kernels.rows import NO_HORIZON
from headwater.logs import get_logger
from headwater.state.arrow_views import int64_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pyarrow as pa

    from headwater.flow.checkpoints import Checkpoints
    from headwater.flow.exchange import Header
    from headwater.flow.history import History, Past
    from headwater.flow.metrics import Metrics
    from headwater.flow.pipeline import Batches
    from headwater.flow.running import CurrentPlan
    from headwater.state.memory import Memory
    from headwater.state.shard import Shard
__all__ = ["ShardTask"]

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of a lane for one shard: its rows, and where it leaves lane and exchange."""

    shard: Shard
    lane: str
    binding: str
    partition: int
    rows: pa.RecordBatch | None
    to_offset: int | None  # None leaves the lane as it is
    next_offset: int
    arrival_us: int
    fills: bool = False  # part of a hole, with more to come
    begins: bool = False  # the first of a lane that was waited for: above `to_offset` it is live
    end_after: int | None = None  # the source had ended here after the exchange had ended there

    @property
    def count(self) -> int:
        return 0 if self.rows is None else int(self.rows.num_rows)


class ShardTask:
    """Applies exchange records to the shards of this worker, a bounded slice at a time.

    `heard` is told (shard, lane, exchange offset) of every record that says its source ended there
    after this shard's exchange had ended at that offset.
    """

    def __init__(
        self,
        current: CurrentPlan,
        shards: Mapping[int, Shard],
        memory: Memory,
        metrics: Metrics,
        *,
        history: History,
        applied: Callable[[int], None],
        checkpoints: Checkpoints,
        heard: Callable[[int, str, int], None] | None = None,
    ) -> None:
        self._shards = shards
        self._memory = memory
        self._metrics = metrics
        self._history = history
        self._applied = applied
        self._checkpoints = checkpoints
        self._heard = heard
        self._current = current
        self._running = current.now

    def __call__(self, batches: Batches) -> Batches:
        """Apply every record of a poll, then let the checkpoint policy act."""
        self._running = self._current.now
        pending: list[_Piece] = []
        rows, rows_max = 0, self._slice_rows()
        for piece in self._pieces(batches):
            pending.append(piece)
            rows += piece.count
            if rows >= rows_max:
                self._apply(pending)
                pending, rows = [], 0
        if pending:
            self._apply(pending)
        ticks = [batch for batch in batches if isinstance(batch, Tick)]
        for tick in ticks:
            self._checkpoints(tick)
        return ticks

    def _pieces(self, batches: Batches) -> Iterator[_Piece]:
        """Yield what the records of a poll bring that isn't applied yet, in their order."""
        for records in batches:
            if isinstance(records, Tick):
                continue
            shard = self._shards.get(records.partition)
            if shard is None:
                # Held back by a driver until the shard had gone to another worker.
                continue
            lanes = dict(shard.applied)
            brought = 0
            offsets = records.offsets.tolist()
            found = [split(value or b"") for value in records.values]
            headers = [header for header, _ in found]
            reach, last = self._foreign(headers, offsets)
            for (header, body), offset, arrival_us in zip(
                found, offsets, records.timestamps_us.tolist(), strict=True
            ):
                brought += header.rows
                for piece in self._brought(shard, lanes, header, body, (offset, arrival_us), reach):
                    # What history has brought ahead is that of no single exchange offset.
                    is_ahead = piece.next_offset <= last
                    yield replace(piece, fills=True) if is_ahead else piece
            self._applied(brought)

    def _brought(
        self,
        shard: Shard,
        lanes: dict[str, int],
        header: Header,
        body: memoryview,
        at: tuple[int, int],
        reach: Mapping[str, int],
    ) -> Iterator[_Piece]:
        """Yield what one record brings, by its exchange offset and arrival; move its lane on."""
        offset, arrival_us = at
        if header.binding not in self._running.wires:
            # Of a view that the plan has no more: passed over, not in the way.
            yield _Piece(
                shard, header.lane, header.binding, header.partition, None, None, offset + 1,
                arrival_us,
            )  # fmt: skip
            return
        # A lane that was never applied need not have what is before its start.
        before = self._history.before(header.binding, header.partition)
        done = max(lanes.get(header.lane, -1), before)
        if header.lane not in lanes and shard.waits_for(header.lane):
            done = max(header.from_offset, before)
            yield _Piece(
                shard, header.lane, header.binding, header.partition, None, done, offset,
                arrival_us, begins=True,
            )  # fmt: skip
        if self._is_foreign(header):
            header = structs.replace(header, to_offset=reach[header.lane])
        lanes[header.lane] = max(done, header.to_offset)
        yield from self._chained(shard, header, body, done, offset, arrival_us)

    def _is_foreign(self, header: Header) -> bool:
        """Tell whether rows were written for another definition of their stream than ours."""
        wire = self._running.wires[header.binding]
        return bool(header.rows) and header.schema != wire.schema_id

    def _foreign(self, headers: list[Header], offsets: list[int]) -> tuple[dict[str, int], int]:
        """Return how far foreign rows go in each lane, and the last exchange offset that has some.

        They are read from history, those of one poll at once: each by itself would be a look into
        the archive or the topic for a few rows.
        """
        reach: dict[str, int] = {}
        last = -1
        for header, offset in zip(headers, offsets, strict=True):
            if header.binding in self._running.wires and self._is_foreign(header):
                reach[header.lane] = max(header.to_offset, reach.get(header.lane, -1))
                last = offset
        return reach, last

    def _chained(
        self,
        shard: Shard,
        header: Header,
        body: memoryview,
        done: int,
        offset: int,
        arrival_us: int,
    ) -> Iterator[_Piece]:
        """Yield a record's rows above `done`, and before them those of a hole (the chain rule)."""

        def piece(
            rows: pa.RecordBatch | None,
            to_offset: int | None,
            next_offset: int,
            *,
            fills: bool = False,
        ) -> _Piece:
            # What lags behind the lane comes from a worker that was given up on.
            is_news = header.to_offset >= done and not fills and next_offset > offset
            at_end = header.at_end and is_news
            return _Piece(
                shard, header.lane, header.binding, header.partition, rows, to_offset, next_offset,
                arrival_us, fills, end_after=header.after_offset if at_end else None,
            )  # fmt: skip

        # Rows that can't be read here are as good as missing: history has them as they are now.
        is_foreign = self._is_foreign(header)
        missing = header.to_offset if is_foreign else header.from_offset
        if missing > done:
            for past in self._fill(shard, header, (done, missing)):
                yield piece(past.of_shard(shard.number), past.upto, offset, fills=True)
            yield piece(None, missing, offset)
        if is_foreign or header.to_offset <= done:
            yield piece(None, None, offset + 1)
        elif header.rows:
            rows = self._running.wires[header.binding].decode(body)
            if header.from_offset < done:
                offsets = int64_view(rows.column(1))
                rows = rows.slice(int(np.searchsorted(offsets, done, side="right")))
            # Whole: what a reader sees is always the state of one exchange offset.
            yield piece(rows, header.to_offset, offset + 1)
        else:
            yield piece(None, header.to_offset, offset + 1)

    def _fill(self, shard: Shard, header: Header, stretch: tuple[int, int]) -> Iterator[Past]:
        self._metrics.holes.labels(str(shard.number)).inc()
        _log.warning(
            "exchange_hole_filled",
            lane=header.lane,
            after=stretch[0],
            to=stretch[1],
            shard=shard.number,
        )
        return self._history.read(
            header.binding, header.partition, stretch, rows_max=self._slice_rows()
        )

    def _slice_rows(self) -> int:
        return rows_at_once(self._memory, len(self._running.plan.views))

    def _apply(self, pieces: list[_Piece]) -> None:
        """Apply pieces, all at once for a reader; half at a time where memory is too small."""
        runs: dict[str, list[Run]] = defaultdict(list)
        for piece in pieces:
            if piece.rows is not None and piece.count:
                runs[piece.binding].append(Run(piece.shard, piece.partition, piece.rows))
        evaluated, fits = evaluate_in_room(
            partial(self._evaluate, runs), self._memory, self._checkpoints.make_room
        )
        if not fits and sum(piece.count for piece in pieces) > 1:
            # In one hold: no reader sees a record half applied.
            with self._memory.lock:
                for half in _halves(pieces):
                    self._apply(half)
            return
        with self._memory.lock:
            for one in evaluated:
                one.apply()
            for piece in pieces:
                if piece.begins:
                    assert piece.to_offset is not None
                    piece.shard.begin_lane(piece.lane, piece.to_offset)
                elif piece.to_offset is not None:
                    piece.shard.applied[piece.lane] = piece.to_offset
                piece.shard.advance(piece.next_offset, _newest_us(piece))
                piece.shard.filling = piece.fills
        self._tell(pieces)
        self._checkpoints.relieve()

    def _tell(self, pieces: list[_Piece]) -> None:
        for piece in pieces:
            if piece.end_after is not None and self._heard is not None:
                self._heard(piece.shard.number, piece.lane, piece.end_after)

    def _evaluate(self, runs: Mapping[str, list[Run]]) -> list[Evaluated]:
        return [
            one
            for binding, found in runs.items()
            for one in evaluate(self._running.views[binding], found, self._metrics)
        ]


def _newest_us(piece: _Piece) -> int:
    if piece.rows is None or not piece.count:
        return NO_HORIZON
    return min(int(int64_view(piece.rows.column(2)).max()), piece.arrival_us)


def _halves(pieces: list[_Piece]) -> tuple[list[_Piece], list[_Piece]]:
    """Cut pieces in two; a single piece by its rows."""
    with_rows = [i for i, piece in enumerate(pieces) if piece.count]
    if len(with_rows) > 1:
        middle = with_rows[len(with_rows) // 2]
        return pieces[:middle], pieces[middle:]
    at = with_rows[0]
    whole = pieces[at]
    assert whole.rows is not None
    first = whole.rows.slice(0, whole.count // 2)
    second = whole.rows.slice(whole.count // 2)
    upto = first.column(1)[first.num_rows - 1].as_py()
    return (
        # The record isn't behind us before its second half is.
        [
            *pieces[:at],
            replace(whole, rows=first, to_offset=upto, next_offset=whole.next_offset - 1),
        ],
        [replace(whole, rows=second), *pieces[at + 1 :]],
    )
