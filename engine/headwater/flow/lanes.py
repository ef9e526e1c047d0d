"""The lanes that a view's values come by: one for each partition of its stream's topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.flow.exchange import lane_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater.flow.starts import Start
    from headwater.plan.plan import Binding, Plan, ViewPlan

__all__ = ["Lanes"]


class Lanes:
    """Every lane of every view, heard of or not; topics may gain partitions."""

    def __init__(
        self, plan: Plan, starts: Mapping[str, Start], partitions: Mapping[str, int]
    ) -> None:
        self._bindings = plan.bindings
        self._starts = starts
        self._partitions = dict(partitions)
        self._by_binding = {binding.id: self._of(binding) for binding in plan.bindings}

    def learn(self, partitions: Mapping[str, int]) -> None:
        """Take note of how many partitions the topics have now."""
        if dict(partitions) != self._partitions:
            self._partitions = dict(partitions)
            self._by_binding = {binding.id: self._of(binding) for binding in self._bindings}

    def of_view(self, view: ViewPlan) -> tuple[str, ...]:
        """Return the lanes of a view."""
        return self._by_binding[view.binding.id]

    def all(self) -> tuple[str, ...]:
        """Return the lanes of all views."""
        return tuple(lane for lanes in self._by_binding.values() for lane in lanes)

    def _of(self, binding: Binding) -> tuple[str, ...]:
        topic_id = self._starts[binding.topic].topic_id
        count = self._partitions[binding.topic]
        return tuple(lane_of(topic_id, binding.id, partition) for partition in range(count))
