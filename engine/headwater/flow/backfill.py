"""Backfill: the past of views that are new to a shard, while their present comes live."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import HeadwaterError
from headwater.flow.evaluate import Run, evaluate, evaluate_in_room, rows_at_once
from headwater.flow.pipeline import Tick
from headwater.logs import get_logger
from headwater.state.arrow_views import int64_view
from headwater.state.lane import lane_of, parts_of
from headwater.state.loading import Stretch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from concurrent.futures import Executor, Future

    from headwater.flow.checkpoints import Checkpoints
    from headwater.flow.evaluate import Evaluated
    from headwater.flow.history import History, Past
    from headwater.flow.metrics import Metrics
    from headwater.flow.pipeline import Batches
    from headwater.flow.running import CurrentPlan
    from headwater.flow.starts import Start
    from headwater.state.memory import Memory
    from headwater.state.shard import Shard

__all__ = ["Backfill"]

_log = get_logger(__name__)

# A piece is applied in about 10 ms: so long do live events wait for it.
_PIECE_ROWS = 8_192
_PIECES_IDLE = 4
_RETRY_US = 5_000_000


class Backfill:
    """A stage of the shards: gives views that their state has never seen their past, in pieces.

    What a lane has applied when a shard first sees a view is the view's seam: above it rows come
    live, the rest comes from history, with a cursor for each lane in the mark. So it may stop
    anywhere, and it is right in whatever order the two come. Until the last of it is there the
    view's answers are WARMING.

    The next piece is read by `ahead` while the last one is applied, each once for all shards that
    need it. What can't be read is tried again; live events go on meanwhile.
    """

    def __init__(
        self,
        current: CurrentPlan,
        shards: Mapping[int, Shard],
        memory: Memory,
        metrics: Metrics,
        *,
        history: History,
        starts: Mapping[str, Start],
        checkpoints: Checkpoints,
        ahead: Executor,
    ) -> None:
        self._current = current
        self._shards = shards
        self._memory = memory
        self._metrics = metrics
        self._history = history
        self._starts = starts
        self._checkpoints = checkpoints
        self._ahead = ahead
        self._rows_max = _PIECE_ROWS
        self._lane = ""  # which is being read
        self._pieces: Iterator[Past] | None = None
        self._next: Future[Past | None] | None = None
        self._failed_at_us: int | None = None

    def begin(self, shards: Iterable[Shard]) -> None:
        """Say of shards which views' past they lack, and where it ends.

        They were just opened, or have adopted the plan that runs now.
        """
        for shard in shards:
            awaited = self._awaited(shard)
            for view_id in sorted(shard.unbuilt):
                shard.begin_loading(view_id, self._stretches(shard, view_id, awaited))
            for view_id in list(shard.loading):
                current = self._stretches(shard, view_id, awaited)
                for lane in shard.loading[view_id].lanes.keys() - current.keys():
                    # Of a topic that was made again since: nobody can read its past any more.
                    shard.forgo(view_id, lane)

    def forget(self) -> None:
        """Drop what is being read: of another plan, it may be of no use, or lack a column."""
        self._pieces = self._next = None

    def _stretches(self, shard: Shard, view_id: str, awaited: set[str]) -> dict[str, Stretch]:
        """Return each lane of a view with the offsets that were applied without it."""
        view = self._current.plan.views[view_id]
        start = self._starts[view.stream.topic]
        found = {}
        for lane in {*shard.applied, *awaited}:
            topic_id, binding, partition = parts_of(lane)
            if (topic_id, binding) == (start.topic_id, view.binding.id):
                before = start.position(partition) - 1
                found[lane] = Stretch(before, shard.applied.get(lane, before))
        return found

    def _awaited(self, shard: Shard) -> set[str]:
        """Return the lanes whose first record will say where the past of their views ends.

        That is so where nothing was applied of a lane and none of its views is there yet: what is
        below that record is history. A view that is there already has begun at the lane's start.
        """
        found = set()
        for binding, views in self._current.now.views.items():
            start = self._starts[views[0].stream.topic]
            for partition in start.positions:
                lane = lane_of(start.topic_id, binding, partition)
                if lane not in shard.applied and all(
                    view.id in shard.unbuilt
                    or (view.id in shard.loading and lane in shard.loading[view.id].lanes)
                    for view in views
                ):
                    found.add(lane)
        return found

    @property
    def left(self) -> int:
        """How many source records are still to be read; each is read once for all shards."""
        return sum(upto - after for after, upto in self._lanes_left().values())

    def _lanes_left(self) -> dict[str, tuple[int, int]]:
        """Return of each lane the offsets `(from, to]` that some view in some shard lacks."""
        found: dict[str, tuple[int, int]] = {}
        for shard in list(self._shards.values()):
            for loading in list(shard.loading.values()):
                for lane, one in loading.lanes.items():
                    if one.left:
                        after, upto = found.get(lane, (one.cursor, one.seam))
                        found[lane] = (min(after, one.cursor), max(upto, one.seam))
        return found

    def __call__(self, batches: Batches) -> Batches:
        """Apply what history has brought by now: one piece beside live events, else some more."""
        left = self.left
        self._metrics.history_left.set(left)
        if not left and self._next is None:
            return batches
        return [self._load(batch) if isinstance(batch, Tick) else batch for batch in batches]

    def _load(self, tick: Tick) -> Tick:
        """Apply some pieces; a tick in which there were any isn't idle."""
        for done in range(_PIECES_IDLE if tick.idle else 1):
            past = self._piece(tick.now_us)
            if past is None:
                return replace(tick, idle=tick.idle and not done)
            self._apply(past)
        return replace(tick, idle=False)

    def close(self) -> None:
        """Read nothing more."""
        self._ahead.shutdown(wait=False, cancel_futures=True)

    def _piece(self, now_us: int) -> Past | None:
        """Return the next piece if it is there, and have the one after it read."""
        if self._next is None:
            failed_at_us = self._failed_at_us
            waits = failed_at_us is not None and abs(now_us - failed_at_us) < _RETRY_US
            if waits or not self._begin_reading():
                return None
            self._read_on()
        assert self._next is not None
        if not self._next.done():
            return None
        reading, self._next, self._failed_at_us = self._next, None, None
        try:
            past = reading.result()
        except HeadwaterError as error:
            self._metrics.history_failures.inc()
            _log.warning("history_not_read", lane=self._lane, reason=str(error))
            self._failed_at_us = now_us
            return None
        if past is not None:
            self._read_on()
        return past

    def _begin_reading(self) -> bool:
        """Turn to the lane whose past is furthest behind; False if there is none."""
        wanted = self._lanes_left()
        if not wanted:
            return False
        self._lane = min(wanted, key=lambda lane: (wanted[lane][0], lane))
        _, binding, partition = parts_of(self._lane)
        rows_max = min(self._rows_max, rows_at_once(self._memory, len(self._current.plan.views)))
        self._pieces = self._history.read(
            binding,
            partition,
            wanted[self._lane],
            rows_max=rows_max,
            since_us=self._needed_from_us(self._lane),
        )
        return True

    def _needed_from_us(self, lane: str) -> int | None:
        """Return the time before which no view that lacks a lane's past can use an event.

        What is too old for its windows now will be so for ever: horizons never go back.
        """
        needed = [
            shard.groups[view_id].needs_from_us(shard.horizon_us)
            for shard in self._shards.values()
            for view_id, loading in shard.loading.items()
            if lane in loading.lanes
        ]
        known = [one for one in needed if one is not None]
        return min(known) if known and len(known) == len(needed) else None

    def _read_on(self) -> None:
        assert self._pieces is not None
        self._next = self._ahead.submit(next, self._pieces, None)

    def _apply(self, past: Past) -> None:
        """Fold a piece into every view that has had all before it, and move their cursors."""
        wanted = self._wanted(past)
        runs: dict[str, list[Run]] = defaultdict(list)
        partition = parts_of(self._lane)[2]
        for shard, view_id, stretch in wanted:
            rows = past.of_shard(shard.number)
            bounds = (stretch.cursor, stretch.seam)
            begin, end = np.searchsorted(int64_view(rows.column(1)), bounds, side="right").tolist()
            if begin < end:
                runs[view_id].append(Run(shard, partition, rows.slice(begin, end - begin)))
        evaluated, _ = evaluate_in_room(
            partial(self._evaluate, runs), self._memory, self._checkpoints.make_room
        )
        with self._memory.lock:
            for one in evaluated:
                one.apply()
            for shard, view_id, stretch in wanted:
                shard.loaded(view_id, self._lane, min(past.upto, stretch.seam))
        for view_id in {view_id for shard, view_id, _ in wanted if view_id not in shard.loading}:
            _log.info("view_loaded", view=view_id, lane=self._lane)
        self._metrics.history_rows.inc(past.keyed.rows.num_rows)
        self._checkpoints.relieve()

    def _evaluate(self, runs: Mapping[str, list[Run]]) -> list[Evaluated]:
        return [
            one
            for view_id, found in runs.items()
            for one in evaluate([self._current.plan.views[view_id]], found, self._metrics)
        ]

    def _wanted(self, past: Past) -> list[tuple[Shard, str, Stretch]]:
        """Return who lacks a piece, and nothing before it."""
        return [
            (shard, view_id, stretch)
            for shard in self._shards.values()
            for view_id, loading in shard.loading.items()
            if (stretch := loading.lanes.get(self._lane)) is not None
            and past.after <= stretch.cursor < min(past.upto, stretch.seam)
        ]
