"""Adoption: another plan takes the place of the one that runs, between two batches."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from headwater.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater.flow.backfill import Backfill
    from headwater.flow.checkpoints import Checkpoints
    from headwater.flow.pipeline import Batches
    from headwater.flow.running import CurrentPlan, Running
    from headwater.state.memory import Memory
    from headwater.state.shard import Shard

__all__ = ["Adoption"]

_log = get_logger(__name__)


class Adoption:
    """A stage of the shards: takes on the plan that was last offered.

    Views that are new begin as at a start: what the shards have applied is their seam, and their
    past is loaded. Views that have left are gone from memory at once and from disk before anything
    else happens, so that one that comes back finds nothing of itself. The other pipelines see
    `current` change and follow.
    """

    def __init__(
        self,
        current: CurrentPlan,
        shards: Mapping[int, Shard],
        memory: Memory,
        *,
        checkpoints: Checkpoints,
        backfill: Backfill,
    ) -> None:
        self._current = current
        self._shards = shards
        self._memory = memory
        self._checkpoints = checkpoints
        self._backfill = backfill
        # The newest one only: what it has replaced nobody needs.
        self._offered: deque[Running] = deque(maxlen=1)

    def offer(self, running: Running) -> None:
        """Have a plan adopted before long; any thread may call it."""
        self._offered.append(running)

    def __call__(self, batches: Batches) -> Batches:
        """Adopt what was offered since the last time."""
        if self._offered:
            self._adopt(self._offered.popleft())
        return batches

    def _adopt(self, offered: Running) -> None:
        before = self._current.plan
        shards = list(self._shards.values())
        # A copy that is being written refers to rows of the plan before.
        self._checkpoints.wait()
        self._backfill.forget()
        for shard in shards:
            # A crash may have left rows of an earlier life, which no mark names.
            shard.remove(offered.plan.views.keys() - before.views.keys())
        with self._memory.lock:
            gone = [(shard, shard.adopt(offered.plan)) for shard in shards]
            self._current.now = offered
            self._backfill.begin(shards)
        for shard, views in gone:
            shard.remove(views)
        _log.info(
            "plan_adopted",
            number=offered.number,
            added=sorted(offered.plan.views.keys() - before.views.keys()),
            removed=sorted(before.views.keys() - offered.plan.views.keys()),
        )
