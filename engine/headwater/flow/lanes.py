"""The lanes that a view's values come by: one for each partition of its stream's topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.state.lane import lane_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater.flow.running import CurrentPlan, Running
    from headwater.flow.starts import Start
    from headwater.plan.plan import Binding, ViewPlan

__all__ = ["Lanes"]


class Lanes:
    """Every lane of every view, heard of or not; plans change, and topics may gain partitions."""

    def __init__(
        self, current: CurrentPlan, starts: Mapping[str, Start], partitions: Mapping[str, int]
    ) -> None:
        self._current = current
        self._starts = starts
        self._partitions = dict(partitions)
        self._table = self._made(current.now)

    def learn(self, partitions: Mapping[str, int]) -> None:
        """Take note of how many partitions the topics have now."""
        if dict(partitions) != self._partitions:
            self._partitions = dict(partitions)
            self._table = self._made(self._current.now)

    def of_view(self, view: ViewPlan) -> tuple[str, ...]:
        """Return the lanes of a view."""
        # A view of a plan that has just been replaced has lanes all the same.
        return self._by_binding().get(view.binding.id) or self._of(view.binding)

    def _by_binding(self) -> Mapping[str, tuple[str, ...]]:
        running, lanes = self._table
        if running is not self._current.now:
            running, lanes = self._table = self._made(self._current.now)
        return lanes

    def _made(self, running: Running) -> tuple[Running, dict[str, tuple[str, ...]]]:
        return running, {binding.id: self._of(binding) for binding in running.plan.bindings}

    def _of(self, binding: Binding) -> tuple[str, ...]:
        start = self._starts[binding.topic]
        # Of a stream that is new nothing else is known yet.
        count = self._partitions.get(binding.topic, len(start.positions))
        return tuple(lane_of(start.topic_id, binding.id, partition) for partition in range(count))
