"""Reads: features of a service for the entities of a request, from shards here and elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.errors import HeadwaterError, NotFoundError, did_you_mean
from headwater.flow.answer import (
    Answer,
    PlanChangedError,
    RequestError,
    ServiceInfo,
    Status,
    UnavailableError,
)
from headwater.flow.completeness import incomplete_features
from headwater.flow.peers import check_same_plan
from headwater.flow.row_router import RowRouter
from headwater.flow.samples import Origin, ViewRef
from headwater.flow.service_info import join_keys_of
from headwater.flow.shard_reads import EntityRows, NotOwnerError, RowFlag, ShardReads
from headwater.plan.fingerprint import fingerprint
from headwater.state.events import feature_columns
from headwater.state.keys import canonical_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from headwater.flow.freshness import Guard
    from headwater.flow.peers import Peers, RowsRequest
    from headwater.flow.running import CurrentPlan, Running
    from headwater.flow.sample_log import SampleLog
    from headwater.flow.shard_reads import RowsAnswer, ViewRows
    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan, ServicePlan, ViewPlan
    from headwater.state.memory import Memory
    from headwater.state.shard import Shard

__all__ = ["ShardReader"]

_LATEST_US = 1 << 60


class ShardReader:
    """Answers reads: from the shards of this process, and through `peers` from other workers'.

    `shards` is the worker's own table, which changes under the memory's lock; without `shard_count`
    those that are in it are all there are. With a `guard` a read that may be too old is marked
    `STALE`, or refused with UnavailableError; so is one that no worker can be asked for, which has
    no value. Without a guard nothing is too old.
    """

    def __init__(
        self,
        current: CurrentPlan,
        shards: Mapping[int, Shard],
        memory: Memory,
        clock: Callable[[], int],
        *,
        starts: Mapping[str, Start],
        shard_count: int | None = None,
        guard: Guard | None = None,
        peers: Peers | None = None,
    ) -> None:
        self._starts = starts
        # Raises where what stands behind these shards has stopped: old values aren't served as new.
        self.check: Callable[[], None] = lambda: None
        # Where a few of the answers are written down for audits, if anywhere.
        self.samples: SampleLog | None = None
        self._current = current
        self._clock = clock
        self._refuses = guard is not None and guard.on_stale == "refuse"
        self._reads = ShardReads(current, shards, memory, shard_count=shard_count, guard=guard)
        self._router = RowRouter(self._reads, peers)

    def warm_up(self) -> None:
        """Read once from every service, so that no kernel is compiled while a caller waits."""
        self._reads.warm_up()
        running = self._current.now
        # What isn't here stays unread: others may not be up yet.
        read_rows = partial(RowRouter(self._reads, None).read, running.plan)
        for info in running.infos.values():
            row = {**info.join_keys, **info.request_inputs}
            inputs = pl.DataFrame({name: [None] for name in row}, schema=row)
            self._columns_of(running.plan, info, inputs, 0, read_rows)

    def close(self) -> None:
        """Let go of the threads that ask other workers, and write the samples down."""
        self._router.close()
        if self.samples is not None:
            self.samples.close()

    def services(self) -> Sequence[str]:
        """Return the names of all services."""
        return sorted(self._current.now.infos)

    def describe(self, service: str) -> ServiceInfo:
        """Return what a service takes and gives."""
        running = self._current.now
        running.plan.service(service)
        return running.infos[service]

    def describe_features(self, features: Sequence[str]) -> ServiceInfo:
        """Return what a list of features takes and gives; names are short or `view.feature`."""
        return _features_info(self._current.plan, features)

    def read(self, info: ServiceInfo, inputs: pl.DataFrame, at_us: int | None) -> Answer:
        """Return every feature of `info` for the rows of `inputs`, all at one time.

        The time is `at_us`, or else this worker's clock. Raises RequestError for a time that can't
        be one, and PlanChangedError where `info` describes what was there before another plan came.
        """
        self.check()
        t_us = self._clock() if at_us is None else at_us
        if not -_LATEST_US < t_us < _LATEST_US:
            msg = f"at: {t_us} µs since 1970 is not a time; give a datetime with a time zone"
            raise RequestError(msg)
        running = self._current.now
        _check_described(running, info)
        samples = self.samples if self.samples is not None and self.samples.is_due() else None
        read_rows = partial(self._router.read, running.plan, with_provenance=samples is not None)
        columns, statuses, rows = self._columns_of(running.plan, info, inputs, t_us, read_rows)
        if self._refuses:
            _check_fresh(rows)
        answer = Answer(
            values=pl.DataFrame(columns),
            statuses=statuses,
            t_us=t_us,
            t_from_request=at_us is not None,
            exchange_offsets=dict(sorted(rows.offsets.items())),
            revision=info.revision,
        )
        if samples is not None:
            samples.put(inputs, answer, self._origin(running, info), rows.provenance)
        return answer

    def _origin(self, running: Running, info: ServiceInfo) -> Origin:
        """Return what computes the answers of a service, or of a list of features."""
        plan = running.plan
        columns = [] if info.name else [_column(plan, name) for name in info.features]
        views = (
            plan.service(info.name).views
            if info.name
            else {view.id: view for view, _ in columns}.values()
        )
        return Origin(
            service=info.name,
            columns=tuple(f"{view.id}.{view.feature_names[i]}" for view, i in columns),
            revision=info.revision,
            stamp=str(plan.stamp),
            plan_number=running.number,
            shard_count=self._reads.shard_count,
            views=tuple(
                ViewRef(view.id, view.fingerprint, self._starts[view.stream.topic].complete_from_us)
                for view in views
            ),
        )

    def read_rows(self, request: RowsRequest) -> RowsAnswer:
        """Return rows for another worker, from the shards of this process and no others.

        Never asks anyone else, so requests don't go round in circles. Raises NotOwnerError where a
        shard isn't here and UnavailableError where this worker can't answer now.
        """
        plan = self._current.plan
        check_same_plan(plan, self._reads.shard_count, request)
        try:
            self.check()
            return self._reads.read(
                plan, request.entities, request.t_us, with_provenance=request.with_provenance
            )
        except NotOwnerError:
            raise
        except HeadwaterError as error:
            # What has stopped this worker is no answer to a question about its rows.
            raise UnavailableError(str(error)) from error

    def _columns_of(
        self,
        plan: Plan,
        info: ServiceInfo,
        inputs: pl.DataFrame,
        t_us: int,
        read_rows: Callable[[Sequence[EntityRows], int], RowsAnswer],
    ) -> tuple[list[pl.Series], NDArray[np.uint8], RowsAnswer]:
        """Return the values and statuses (features, rows) of `info`, and the rows they are from."""
        wanted: list[tuple[ViewPlan, int]] = []
        if info.name:
            views: Sequence[ViewPlan] = plan.service(info.name).views
        else:
            wanted = [_column(plan, name) for name in info.features]
            views = list({view.id: view for view, _ in wanted}.values())
        rows = read_rows(_entities_of(views, inputs), t_us)
        read = {view.id: self._view_columns(view, rows.views[view.id], t_us) for view in views}
        if info.name:
            columns, statuses = _service_columns(plan.service(info.name), inputs, read)
        else:
            columns = [read[view.id].columns[i] for view, i in wanted]
            statuses = np.stack([read[view.id].statuses[i] for view, i in wanted])
        named = [one.alias(name) for one, name in zip(columns, info.features, strict=True)]
        return named, statuses, rows

    def _view_columns(self, view: ViewPlan, rows: ViewRows, t_us: int) -> _ViewColumns:
        values, flags = rows.values, rows.flags
        statuses = np.where(values.valid.T == 1, Status.PRESENT, Status.NULL).astype(np.uint8)
        statuses[:, ~values.found] = Status.NOT_FOUND
        complete_from_us = self._starts[view.stream.topic].complete_from_us
        statuses[incomplete_features(view, t_us, complete_from_us), :] = Status.WARMING
        statuses[:, (flags & RowFlag.WARMING) != 0] = Status.WARMING
        statuses[:, (flags & RowFlag.STALE) != 0] = Status.STALE
        statuses[:, (flags & RowFlag.TOO_OLD) != 0] = Status.OUT_OF_RANGE
        void = (flags & (RowFlag.TOO_OLD | RowFlag.UNREAD | RowFlag.WARMING)) != 0
        columns = feature_columns(view.layout, view.feature_names, values)
        return _ViewColumns(columns, statuses, void)


@dataclass(frozen=True, slots=True, eq=False)
class _ViewColumns:
    """A view's columns, their statuses (features, rows), and which rows can't have values."""

    columns: list[pl.Series]
    statuses: NDArray[np.uint8]
    void: NDArray[np.bool_]


def _service_columns(
    found: ServicePlan, inputs: pl.DataFrame, read: Mapping[str, _ViewColumns]
) -> tuple[list[pl.Series], NDArray[np.uint8]]:
    by_name = {view.view.name: read[view.id] for view in found.views}
    columns: list[pl.Series] = []
    statuses: list[NDArray[np.uint8]] = []
    for part in found.service.parts:
        if part.name in by_name:
            columns += by_name[part.name].columns
            statuses.append(by_name[part.name].statuses)
            continue
        over = [by_name[view.name] for view in part.views]  # type: ignore[union-attr]
        used = [column for one in over for column in one.columns]
        asked = [inputs[one.name] for one in part.request]  # type: ignore[union-attr]
        frame, _ = part.captured.run(pl.DataFrame([*used, *asked]))  # type: ignore[union-attr]
        made, status = _on_demand_answer([frame[n] for n in part.outputs], over)  # type: ignore[union-attr]
        columns += made
        statuses.append(status)
    return columns, np.concatenate(statuses)


def _check_described(running: Running, info: ServiceInfo) -> None:
    """Raise PlanChangedError unless the plan that runs now means what `info` says."""
    if info.name:
        running.plan.service(info.name)
        now = running.infos[info.name]
    else:
        now = _features_info(running.plan, list(info.features))
    if now.revision != info.revision:
        what = f'service "{info.name}"' if info.name else "what the features stand for"
        msg = f"{what} has just changed to revision {now.revision}; ask for it again"
        raise PlanChangedError(msg)


def _features_info(plan: Plan, features: Sequence[str]) -> ServiceInfo:
    columns = [_column(plan, name) for name in features]
    views = list(dict.fromkeys(view.id for view, _ in columns))
    text = " ".join(
        f"{v.id}={v.fingerprint} by {' '.join(v.entity.key)} {i}" for v, i in columns
    ) + str(plan.stamp)
    return ServiceInfo(
        name="",
        revision=fingerprint(text),
        join_keys=join_keys_of([plan.views[one] for one in views]),
        request_inputs={},
        entities={v.entity.name: v.entity.key for v, _ in columns},
        features={
            name: view.layout.output_dtypes[i]
            for name, (view, i) in zip(features, columns, strict=True)
        },
    )


def _column(plan: Plan, name: str) -> tuple[ViewPlan, int]:
    view_name, _, feature = name.rpartition(".")
    found = [
        (view, view.feature_names.index(feature))
        for view in plan.views.values()
        if feature in view.feature_names and view_name in ("", view.view.name)
    ]
    if not found:
        known = [
            f"{view.view.name}.{one}" for view in plan.views.values() for one in view.feature_names
        ]
        short = [one.rpartition(".")[2] for one in known]
        msg = f'no feature "{name}" here.{did_you_mean(name, known if view_name else short)}'
        raise NotFoundError(msg)
    latest = max(found, key=lambda one: one[0].view.version)
    if len({view.view.name for view, _ in found}) > 1:
        names = ", ".join(sorted(f"{view.view.name}.{feature}" for view, _ in found))
        msg = f'feature "{name}" is in several views; write one of {names}'
        raise RequestError(msg)
    return latest


def _entities_of(views: Iterable[ViewPlan], inputs: pl.DataFrame) -> list[EntityRows]:
    """Return the keys of each entity once, with the views to read for them."""
    by_key: dict[tuple[str, ...], list[str]] = {}
    for view in views:
        by_key.setdefault(view.entity.key, []).append(view.id)
    return [EntityRows(canonical_keys(inputs, key), tuple(ids)) for key, ids in by_key.items()]


def _check_fresh(rows: RowsAnswer) -> None:
    """Raise UnavailableError where a row would be STALE."""
    stale = sum(int(np.count_nonzero(one.flags & RowFlag.STALE)) for one in rows.views.values())
    if stale:
        total = sum(len(one.flags) for one in rows.views.values())
        msg = (
            f"{stale} of {total} rows can't be read as fresh as max_staleness demands: their shards"
            " are behind, or on their way to another worker; try again"
        )
        raise UnavailableError(msg)


def _on_demand_answer(
    made: Sequence[pl.Series], inputs: Sequence[_ViewColumns]
) -> tuple[list[pl.Series], NDArray[np.uint8]]:
    """Return values and statuses: PRESENT or NULL by value, or as uncertain as an input is.

    What is out of range, or couldn't be read, has no value, whatever a function makes of nulls.
    """
    void = np.any([one.void for one in inputs], axis=0)
    if void.any():
        kept = pl.when(pl.Series(~void))
        made = list(pl.select(kept.then(series).alias(series.name) for series in made))
    null = np.stack([series.is_null().to_numpy() for series in made])
    statuses = np.where(null, Status.NULL, Status.PRESENT).astype(np.uint8)
    for uncertain in (Status.WARMING, Status.STALE, Status.OUT_OF_RANGE):
        for one in inputs:
            statuses[:, (one.statuses == uncertain).any(axis=0)] = uncertain
    return list(made), statuses
