"""The audit: vectors that were served, computed again from history and compared bit for bit.

A sample says which events each row was made of: those of its entity that its shard had applied,
with times before the read. So what was served is compared, however many events came since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.flow.answer import Status
from headwater.offline.audited_columns import Audited, ColumnAgain, Comparison
from headwater.offline.audited_view import Reasons, Rows, view_again
from headwater.offline.training_set import service_columns
from headwater.state.keys import canonical_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from headwater.flow.samples import Block, Origin, ViewRef
    from headwater.flow.starts import Start
    from headwater.offline.audited_view import History, ViewAgain
    from headwater.plan.plan import Plan, ServicePlan, ViewPlan

__all__ = ["Audit"]


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """All vectors (n) of one origin, and what they are compared with."""

    origin: Origin
    views: tuple[ViewPlan, ...]
    service: ServicePlan | None
    blocks: tuple[Block, ...]

    def inputs(self) -> pl.DataFrame:
        return pl.concat([one.inputs for one in self.blocks])

    @property
    def height(self) -> int:
        return sum(one.inputs.height for one in self.blocks)


class Audit:
    """An audit of samples by the plan that is applied; `events` is about how many it will read."""

    def __init__(
        self,
        plan: Plan,
        blocks: Sequence[Block],
        history: History,
        starts: Mapping[str, Start],
    ) -> None:
        self._plan = plan
        self._history = history
        self._starts = starts
        self._audited = Audited()
        by_origin: dict[Origin, list[Block]] = {}
        for block in blocks:
            by_origin.setdefault(block.origin, []).append(block)
        self._groups = []
        for origin, found in by_origin.items():
            rows = sum(one.values.height for one in found)
            self._audited.vectors += rows
            reason = self._why_not(origin)
            if reason:
                self._audited.not_compared[reason] += rows * found[0].values.width
            else:
                self._groups.append(self._group(origin, found))
        self._jobs: dict[tuple[str, int], list[_Group]] = {}
        for group in self._groups:
            for view in group.views:
                users = self._jobs.setdefault((view.id, group.origin.shard_count), [])
                users.append(group)

    @property
    def events(self) -> int:
        """About how many events there are to read."""
        views = (self._plan.views[view_id] for view_id, _ in self._jobs)
        return sum(self._history.source.rows(view.stream) for view in views)

    def _why_not(self, origin: Origin) -> str:
        """Return why vectors can't be computed again, empty where they can."""
        plan = self._plan
        if origin.stamp != str(plan.stamp):
            return f"served by another engine ({origin.stamp}; this one is {plan.stamp})"
        for ref in origin.views:
            reason = self._why_not_view(ref)
            if reason:
                return reason
        if origin.service and origin.service not in plan.services:
            return f'service "{origin.service}" is not applied any more'
        if origin.service and plan.services[origin.service].revision != origin.revision:
            return f'service "{origin.service}" was at another revision when it was served'
        return ""

    def _why_not_view(self, ref: ViewRef) -> str:
        view = self._plan.views.get(ref.id)
        if view is None:
            return f"view {ref.id} is not applied any more"
        if view.fingerprint != ref.fingerprint:
            return f"view {ref.id} was another one when it was served"
        start = self._starts.get(view.stream.topic)
        if start is None or start.complete_from_us != ref.complete_from_us:
            return f'stream "{view.stream.topic}" begins elsewhere since'
        return ""

    def _group(self, origin: Origin, blocks: list[Block]) -> _Group:
        if origin.service:
            service = self._plan.services[origin.service]
            return _Group(origin, service.views, service, tuple(blocks))
        views = tuple(self._plan.views[ref.id] for ref in origin.views)
        return _Group(origin, views, None, tuple(blocks))

    def run(self, advance: Callable[[int], None] = lambda _events: None) -> Audited:
        """Read history once for each view, and compare; `advance` is told of events as they come.

        What can't be read is not compared, and the reason is kept.
        """
        reasons = Reasons()
        again: dict[tuple[_Group, str], ViewAgain] = {}
        for (view_id, shard_count), users in self._jobs.items():
            view = self._plan.views[view_id]
            found = view_again(
                view,
                _rows(view, users, shard_count),
                self._starts[view.stream.topic].complete_from_us,
                self._history,
                reasons,
                advance,
            )
            first = 0
            for group in users:
                again[group, view_id] = found.part(first, first + group.height)
                first += group.height
        for group in self._groups:
            found_of = {view.id: again[group, view.id] for view in group.views}
            comparison = Comparison(group.blocks, reasons, self._audited)
            for number, column in enumerate(_columns_again(group, found_of)):
                comparison.compare(number, column)
        return self._audited


def _rows(view: ViewPlan, users: Sequence[_Group], shard_count: int) -> Rows:
    keys = pl.concat([group.inputs().select(view.entity.key) for group in users])
    asked = [one for group in users for block in group.blocks for one in block.asked]
    return Rows(canonical_keys(keys, view.entity.key), asked, shard_count)


def _columns_again(group: _Group, again: Mapping[str, ViewAgain]) -> Iterator[ColumnAgain]:
    """Yield the columns of an answer, in order, as they must have been."""
    if group.service is not None:
        yield from _of_service(group.service, group.inputs(), again)
        return
    for column in group.origin.columns:
        view_id, _, feature = column.rpartition(".")
        view = next(one for one in group.views if one.id == view_id)
        yield _of_view(view, view.feature_names.index(feature), again[view_id])


def _of_view(view: ViewPlan, number: int, again: ViewAgain) -> ColumnAgain:
    return ColumnAgain(
        f"{view.view.name}.{view.feature_names[number]}",
        view.entity.key,
        again.columns[number],
        again.statuses[number],
        again.why_not[number],
        again.void,
    )


def _of_service(
    service: ServicePlan, inputs: pl.DataFrame, again: Mapping[str, ViewAgain]
) -> Iterator[ColumnAgain]:
    by_name = {view.view.name: view for view in service.views}
    values = {view.view.name: again[view.id].columns for view in service.views}
    made = iter(service_columns(service, inputs, values))
    for part in service.service.parts:
        if part.name in by_name:
            view = by_name[part.name]
            for number in range(len(view.feature_names)):
                next(made)
                yield _of_view(view, number, again[view.id])
            continue
        over = [by_name[view.name] for view in part.views]  # type: ignore[union-attr]
        found = [again[view.id] for view in over]
        keys = tuple(dict.fromkeys(key for view in over for key in view.entity.key))
        why_not = np.max([one.why_not.max(axis=0) for one in found], axis=0)
        warming = np.any([(one.statuses == Status.WARMING).any(axis=0) for one in found], axis=0)
        for name in part.outputs:  # type: ignore[union-attr]
            column = next(made)
            by_value = np.where(column.is_null().to_numpy(), Status.NULL, Status.PRESENT)
            yield ColumnAgain(
                f"{part.name}.{name}",
                keys,
                column,
                np.where(warming, Status.WARMING, by_value).astype(np.uint8),
                why_not,
                np.any([one.void for one in found], axis=0),
            )
