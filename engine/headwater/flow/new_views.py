"""New views: their past, for shards whose state has never seen them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.flow.evaluate import Run, evaluate
from headwater.flow.exchange import lane_of, parts_of
from headwater.state.arrow_views import int64_view

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from headwater.flow.checkpoints import Checkpoints
    from headwater.flow.history import History
    from headwater.flow.metrics import Metrics
    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan, ViewPlan
    from headwater.state.memory import Memory
    from headwater.state.shard import Shard

__all__ = ["NewViews"]


class NewViews:
    """Builds views from history, up to what a shard has applied; what is above comes live."""

    def __init__(
        self,
        plan: Plan,
        memory: Memory,
        metrics: Metrics,
        *,
        history: History,
        starts: Mapping[str, Start],
        checkpoints: Checkpoints,
    ) -> None:
        self._plan = plan
        self._memory = memory
        self._metrics = metrics
        self._history = history
        self._starts = starts
        self._checkpoints = checkpoints

    def build(self, opened: list[Shard]) -> None:
        """Give views that the state of these shards has never seen their past.

        Until it is there the shards' answers are STALE.
        """
        for shard in opened:
            shard.filling = bool(shard.unbuilt)
        for view in self._plan.views.values():
            shards = {shard.number: shard for shard in opened if view.id in shard.unbuilt}
            if shards:
                self._build(view, shards)
            for shard in shards.values():
                shard.unbuilt.discard(view.id)
        for shard in opened:
            shard.filling = False

    def _build(self, view: ViewPlan, shards: Mapping[int, Shard]) -> None:
        start = self._starts[view.stream.topic]
        partitions = {
            partition
            for shard in shards.values()
            for topic_id, binding, partition in map(parts_of, shard.applied)
            if (topic_id, binding) == (start.topic_id, view.binding.id)
        }
        for partition in sorted(partitions):
            lane = lane_of(start.topic_id, view.binding.id, partition)
            before = start.position(partition) - 1
            upto = {number: shard.applied.get(lane, before) for number, shard in shards.items()}
            stretch = (before, max(upto.values()))
            for number, rows in self._history.rows(view.binding.id, partition, stretch):
                if number in shards:
                    self._apply(view, shards[number], partition, rows, upto[number])
                self._checkpoints.relieve()

    def _apply(
        self, view: ViewPlan, shard: Shard, partition: int, rows: pa.RecordBatch, upto: int
    ) -> None:
        known = int(np.searchsorted(int64_view(rows.column(1)), upto, side="right"))
        if not known:
            return
        run = Run(shard, partition, rows.slice(0, known))
        evaluated = evaluate([view], [run], self._metrics)
        if sum(one.words_wanted() for one in evaluated) > self._memory.free_words:
            self._checkpoints.make_room()
            evaluated = evaluate([view], [run], self._metrics)
        with self._memory.lock:
            for one in evaluated:
                one.apply()
