"""The audit: vectors that were served, computed again from history and compared bit for bit.

A sample says which events each row was made of: those of its entity that its shard had applied,
with times before the read. So what was served is compared, however many events came since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.errors import NotFoundError
from headwater.flow.answer import Status
from headwater.offline.audited_columns import Audited, ColumnAgain, Comparison
from headwater.offline.audited_plans import Plans
from headwater.offline.audited_view import Reasons, Rows, view_again
from headwater.offline.training_set import service_columns
from headwater.state.keys import canonical_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from headwater.flow.samples import Block, Origin
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


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A view to compute again, once for all groups that have it."""

    view: ViewPlan
    history: History
    groups: list[_Group]


class Audit:
    """An audit of samples by the plans that were applied, the newest first.

    `history_of` gives the history of a plan's streams; NotFoundError where one isn't there any more
    is a reason not to compare. `events` is about how many events will be read.
    """

    def __init__(
        self,
        plans: Iterable[Plan],
        blocks: Sequence[Block],
        history_of: Callable[[Plan], History],
        starts: Mapping[str, Start],
    ) -> None:
        self._starts = starts
        self._audited = Audited()
        self._groups: list[_Group] = []
        self._jobs: dict[tuple[str, str, int], _Job] = {}
        known = Plans(plans, starts)
        by_origin: dict[Origin, list[Block]] = {}
        for block in blocks:
            by_origin.setdefault(block.origin, []).append(block)
        for origin, found in by_origin.items():
            rows = sum(one.values.height for one in found)
            self._audited.vectors += rows
            plan, reason = known.of(origin)
            if plan is not None:
                try:
                    self._add(plan, history_of(plan), origin, found)
                except NotFoundError as error:
                    reason = str(error)
            if reason:
                self._audited.not_compared[reason] += rows * found[0].values.width

    def _add(self, plan: Plan, history: History, origin: Origin, blocks: list[Block]) -> None:
        service = plan.services[origin.service] if origin.service else None
        views = service.views if service else tuple(plan.views[one.id] for one in origin.views)
        group = _Group(origin, views, service, tuple(blocks))
        self._groups.append(group)
        for view in views:
            key = (view.id, view.fingerprint, origin.shard_count)
            self._jobs.setdefault(key, _Job(view, history, [])).groups.append(group)

    @property
    def events(self) -> int:
        """About how many events there are to read."""
        return sum(one.history.source.rows(one.view.stream) for one in self._jobs.values())

    def run(self, advance: Callable[[int], None] = lambda _events: None) -> Audited:
        """Read history once for each view, and compare; `advance` is told of events as they come.

        What can't be read is not compared, and the reason is kept.
        """
        reasons = Reasons()
        again: dict[tuple[_Group, str], ViewAgain] = {}
        for job in self._jobs.values():
            found = view_again(
                job.view,
                _rows(job),
                self._starts[job.view.stream.topic].complete_from_us,
                job.history,
                reasons,
                advance,
            )
            first = 0
            for group in job.groups:
                again[group, job.view.id] = found.part(first, first + group.height)
                first += group.height
        for group in self._groups:
            found_of = {view.id: again[group, view.id] for view in group.views}
            comparison = Comparison(group.blocks, reasons, self._audited)
            for number, column in enumerate(_columns_again(group, found_of)):
                comparison.compare(number, column)
        return self._audited


def _rows(job: _Job) -> Rows:
    key = job.view.entity.key
    keys = pl.concat([group.inputs().select(key) for group in job.groups])
    asked = [one for group in job.groups for block in group.blocks for one in block.asked]
    return Rows(canonical_keys(keys, key), asked, job.groups[0].origin.shard_count)


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
