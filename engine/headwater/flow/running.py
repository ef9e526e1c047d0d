"""The plan that a worker runs now: what is looked up in it all the time, changed as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from headwater.flow.exchange import wires_of
from headwater.flow.service_info import service_info

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater.flow.answer import ServiceInfo
    from headwater.flow.exchange import Wire
    from headwater.plan.plan import Plan, ViewPlan

__all__ = ["CurrentPlan", "Running"]


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """A plan with its number in the plans topic, 0 for one that comes from elsewhere."""

    number: int
    plan: Plan
    wires: Mapping[str, Wire]  # by binding
    views: Mapping[str, tuple[ViewPlan, ...]]  # by binding
    infos: Mapping[str, ServiceInfo]  # by service

    @classmethod
    def of(cls, plan: Plan, number: int = 0) -> Self:
        """Return a plan as it is run; raise RequestError where a service can't be asked for."""
        return cls(
            number,
            plan,
            wires_of(plan),
            {binding.id: plan.views_of(binding) for binding in plan.bindings},
            {name: service_info(plan, name) for name in plan.services},
        )


class CurrentPlan:
    """Holds what runs `now`; it changes under the memory's lock, between two batches.

    Who needs two things of it takes `now` once: the next look may find another plan.
    """

    __slots__ = ("now",)

    def __init__(self, plan: Plan, number: int = 0) -> None:
        self.now = Running.of(plan, number)

    @property
    def plan(self) -> Plan:
        """The plan that is run now."""
        return self.now.plan
