"""Reads: features of a service for the entities of a request, from the shards in this process."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.errors import HeadwaterError, NotFoundError, did_you_mean
from headwater.flow.answer import Answer, RequestError, ServiceInfo, Status
from headwater.kernels.keys import partition_rows, shard_of
from headwater.kernels.rows import NO_HORIZON, left_edges
from headwater.plan.fingerprint import fingerprint
from headwater.state.events import feature_columns
from headwater.state.group import Values
from headwater.state.keys import canonical_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from headwater.plan.plan import Plan, ViewPlan
    from headwater.state.memory import Memory
    from headwater.state.shard import Shard

__all__ = ["ShardReader", "service_info"]

_LATEST_US = 1 << 60


def service_info(plan: Plan, name: str) -> ServiceInfo:
    """Return what a request to a service looks like; raise NotFoundError for an unknown one."""
    found = plan.service(name)
    service = found.service
    names = service.column_names()
    return ServiceInfo(
        name=name,
        revision=found.revision,
        join_keys=_join_keys(found.views),
        request_inputs={one.name: one.dtype for od in service.on_demands for one in od.request},
        entities={view.entity.name: view.entity.key for view in found.views},
        features={n: dtype for n, (_, _, dtype) in zip(names, service.columns, strict=True)},
    )


def _join_keys(views: Sequence[ViewPlan]) -> dict[str, pl.DataType]:
    keys: dict[str, pl.DataType] = {}
    for view in views:
        for key, dtype in view.key_dtypes.items():
            if keys.setdefault(key, dtype) != dtype:
                msg = (
                    f'key "{key}" is {dtype} in view "{view.view.name}" and {keys[key]} in another;'
                    " ask for their features in two requests"
                )
                raise RequestError(msg)
    return keys


class ShardReader:
    """Answers reads from shards that are all in this process."""

    def __init__(
        self,
        plan: Plan,
        shards: Mapping[int, Shard],
        memory: Memory,
        clock: Callable[[], int],
        *,
        complete_from: Mapping[str, int],
    ) -> None:
        self._complete_from = complete_from
        # Raises where what stands behind these shards has stopped: old values aren't served as new.
        self.check: Callable[[], None] = lambda: None
        self._plan = plan
        self._shards = shards
        self._memory = memory
        self._clock = clock
        self._infos = {name: service_info(plan, name) for name in plan.services}

    def warm_up(self) -> None:
        """Read once from every service, so that no kernel is compiled while a caller waits."""
        for info in self._infos.values():
            row = {**info.join_keys, **info.request_inputs}
            self.read(info, pl.DataFrame({name: [None] for name in row}, schema=row), 0)

    def services(self) -> Sequence[str]:
        """Return the names of all services."""
        return sorted(self._infos)

    def describe(self, service: str) -> ServiceInfo:
        """Return what a service takes and gives."""
        self._plan.service(service)
        return self._infos[service]

    def describe_features(self, features: Sequence[str]) -> ServiceInfo:
        """Return what a list of features takes and gives; names are short or `view.feature`."""
        columns = [self._column(name) for name in features]
        views = list(dict.fromkeys(view.id for view, _ in columns))
        text = " ".join(
            f"{v.id}={v.fingerprint} by {' '.join(v.entity.key)} {i}" for v, i in columns
        ) + str(self._plan.stamp)
        return ServiceInfo(
            name="",
            revision=fingerprint(text),
            join_keys=_join_keys([self._plan.views[one] for one in views]),
            request_inputs={},
            entities={v.entity.name: v.entity.key for v, _ in columns},
            features={
                name: view.layout.output_dtypes[i]
                for name, (view, i) in zip(features, columns, strict=True)
            },
        )

    def _column(self, name: str) -> tuple[ViewPlan, int]:
        view_name, _, feature = name.rpartition(".")
        found = [
            (view, view.feature_names.index(feature))
            for view in self._plan.views.values()
            if feature in view.feature_names and view_name in ("", view.view.name)
        ]
        if not found:
            known = [
                f"{view.view.name}.{one}"
                for view in self._plan.views.values()
                for one in view.feature_names
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

    def read(self, info: ServiceInfo, inputs: pl.DataFrame, at_us: int | None) -> Answer:
        """Return every feature of `info` for the rows of `inputs`, all at one time.

        The time is `at_us`, or else this worker's clock. Raises RequestError for a time that can't
        be one.
        """
        self.check()
        t_us = self._clock() if at_us is None else at_us
        if not -_LATEST_US < t_us < _LATEST_US:
            msg = f"at: {t_us} µs since 1970 is not a time; give a datetime with a time zone"
            raise RequestError(msg)
        offsets: dict[int, int] = {}
        if info.name:
            columns, statuses = self._read_service(info, inputs, t_us, offsets)
        else:
            columns, statuses = self._read_features(info, inputs, t_us, offsets)
        return Answer(
            values=pl.DataFrame(columns),
            statuses=statuses,
            t_us=t_us,
            t_from_request=at_us is not None,
            exchange_offsets=dict(sorted(offsets.items())),
            revision=info.revision,
        )

    def _read_service(
        self, info: ServiceInfo, inputs: pl.DataFrame, t_us: int, offsets: dict[int, int]
    ) -> tuple[list[pl.Series], NDArray[np.uint8]]:
        found = self._plan.service(info.name)
        read: dict[str, tuple[list[pl.Series], NDArray[np.uint8]]] = {}
        # One hold for all views: a vector is of one moment, not torn between two batches.
        with self._open():
            for view in found.views:
                read[view.view.name] = self._read_view(view, inputs, t_us, offsets)
        parts: list[tuple[list[pl.Series], NDArray[np.uint8]]] = []
        for part in found.service.parts:
            if part.name in read:
                parts.append(read[part.name])
                continue
            used = [column for view in part.views for column in read[view.name][0]]  # type: ignore[union-attr]
            asked = [inputs[one.name] for one in part.request]  # type: ignore[union-attr]
            frame, _ = part.captured.run(pl.DataFrame([*used, *asked]))  # type: ignore[union-attr]
            made = [frame[name] for name in part.outputs]  # type: ignore[union-attr]
            over = [read[view.name][1] for view in part.views]  # type: ignore[union-attr]
            parts.append(_on_demand_answer(made, over))
        names = list(info.features)
        columns = [column for columns, _ in parts for column in columns]
        statuses = np.concatenate([one for _, one in parts])
        return [c.alias(n) for c, n in zip(columns, names, strict=True)], statuses

    def _read_features(
        self, info: ServiceInfo, inputs: pl.DataFrame, t_us: int, offsets: dict[int, int]
    ) -> tuple[list[pl.Series], NDArray[np.uint8]]:
        wanted = [self._column(name) for name in info.features]
        read: dict[str, tuple[list[pl.Series], NDArray[np.uint8]]] = {}
        with self._open():
            for view, _ in wanted:
                if view.id not in read:
                    read[view.id] = self._read_view(view, inputs, t_us, offsets)
        columns = [
            read[view.id][0][i].alias(name)
            for name, (view, i) in zip(info.features, wanted, strict=True)
        ]
        return columns, np.stack([read[view.id][1][i] for view, i in wanted])

    def _read_view(
        self, view: ViewPlan, inputs: pl.DataFrame, t_us: int, offsets: dict[int, int]
    ) -> tuple[list[pl.Series], NDArray[np.uint8]]:
        keys = canonical_keys(inputs, view.entity.key)
        count = len(self._shards)
        shards = np.empty(len(keys), np.int32)
        shard_of(keys.hashes, count, shards)
        order, starts = partition_rows(shards, count)
        values = Values(len(keys), len(view.layout.output_dtypes))
        too_old = np.zeros(len(keys), np.bool_)
        stale = np.zeros(len(keys), np.bool_)
        for number, shard in self._shards.items():
            rows = order[starts[number] : starts[number + 1]]
            if not len(rows):
                continue
            offsets[number] = shard.next_offset
            part = shard.read(view.id, keys.take(rows), np.full(len(rows), t_us, np.int64))
            values.bits[rows] = part.bits
            values.valid[rows] = part.valid
            values.found[rows] = part.found & keys.valid[rows]
            stale[rows] = shard.filling
            if t_us < shard.horizon_us:
                values.valid[rows] = 0
                too_old[rows] = True
        statuses = np.where(values.valid.T == 1, Status.PRESENT, Status.NULL).astype(np.uint8)
        statuses[:, ~values.found] = Status.NOT_FOUND
        statuses[self._warming(view, t_us), :] = Status.WARMING
        statuses[:, stale] = Status.STALE
        statuses[:, too_old] = Status.OUT_OF_RANGE
        return feature_columns(view.layout, view.feature_names, values), statuses

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Hold the rows still; refuse when they are gone."""
        with self._memory.lock:
            if self._memory.released:
                msg = "the store is closed; open it again"
                raise HeadwaterError(msg)
            yield

    def _warming(self, view: ViewPlan, t_us: int) -> NDArray[np.bool_]:
        """Return which features look back past where the stream's history begins."""
        table = view.layout.table
        edges = np.empty(len(table.windows), np.int64)
        left_edges(table.windows, t_us, edges)
        warming: NDArray[np.bool_] = (
            edges[table.features[:, 0]] < self._complete_from[view.stream.topic]
        ) & (self._complete_from[view.stream.topic] > NO_HORIZON)
        return warming


def _on_demand_answer(
    made: Sequence[pl.Series], inputs: Sequence[NDArray[np.uint8]]
) -> tuple[list[pl.Series], NDArray[np.uint8]]:
    """Return values and statuses: PRESENT or NULL by value; OUT_OF_RANGE where an input was.

    What is out of range has no value, whatever a function makes of nulls.
    """
    if any((one == Status.OUT_OF_RANGE).any() for one in inputs):
        too_old = np.any([(one == Status.OUT_OF_RANGE).any(axis=0) for one in inputs], axis=0)
        kept = pl.when(pl.Series(~too_old))
        made = list(pl.select(kept.then(series).alias(series.name) for series in made))
    else:
        too_old = np.zeros(len(made[0]), np.bool_)
    null = np.stack([series.is_null().to_numpy() for series in made])
    statuses = np.where(null, Status.NULL, Status.PRESENT).astype(np.uint8)
    for one in inputs:
        for uncertain in (Status.WARMING, Status.STALE):
            statuses[:, (one == uncertain).any(axis=0)] = uncertain
    statuses[:, too_old] = Status.OUT_OF_RANGE
    return list(made), statuses
