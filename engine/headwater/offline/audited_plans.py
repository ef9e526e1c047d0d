"""The plans of an audit: which of those that were applied computes what was served."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from headwater.flow.samples import Origin, ViewRef
    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan

__all__ = ["Plans"]


class Plans:
    """Plans, the newest first; older ones are read only when no newer one fits."""

    def __init__(self, plans: Iterable[Plan], starts: Mapping[str, Start]) -> None:
        self._starts = starts
        self._read: list[Plan] = []
        self._left = iter(plans)

    def __iter__(self) -> Iterator[Plan]:
        yield from self._read
        for plan in self._left:
            self._read.append(plan)
            yield plan

    def of(self, origin: Origin) -> tuple[Plan | None, str]:
        """Return the newest plan that computes what an origin did; else None, and why not."""
        reasons = []
        for plan in self:
            reason = self._why_not(plan, origin)
            if not reason:
                return plan, ""
            reasons.append(reason)
        return None, reasons[0] if reasons else "nothing is applied"

    def _why_not(self, plan: Plan, origin: Origin) -> str:
        if origin.stamp != str(plan.stamp):
            return f"served by another engine ({origin.stamp}; this one is {plan.stamp})"
        for ref in origin.views:
            reason = self._why_not_view(plan, ref)
            if reason:
                return reason
        if origin.service and origin.service not in plan.services:
            return f'service "{origin.service}" is not applied any more'
        if origin.service and plan.services[origin.service].revision != origin.revision:
            return f'service "{origin.service}" was at another revision when it was served'
        return ""

    def _why_not_view(self, plan: Plan, ref: ViewRef) -> str:
        view = plan.views.get(ref.id)
        if view is None:
            return f"view {ref.id} is not applied any more"
        if view.fingerprint != ref.fingerprint:
            return f"view {ref.id} was another one when it was served"
        start = self._starts.get(view.stream.topic)
        if start is None or start.complete_from_us != ref.complete_from_us:
            return f'stream "{view.stream.topic}" begins elsewhere since'
        return ""
