"""Training sets: a spine of entities and times, with a service's features as they were then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.errors import did_you_mean
from headwater.flow.answer import RequestError
from headwater.flow.inputs import coerced
from headwater.offline.buckets import MEMORY_BUDGET_BYTES, Buckets, Sight
from headwater.offline.frontier import check_frontier, frontier_of
from headwater.offline.point_in_time import Events, Reads, features_at, no_events
from headwater.offline.sketch import Sketch
from headwater.state.events import feature_columns
from headwater.state.group import Values
from headwater.state.key_index import KeyIndex
from headwater.state.keys import Keys, canonical_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from headwater.offline.sources import EventSource
    from headwater.plan.plan import Plan, ServicePlan, ViewPlan

__all__ = ["service_columns", "spine_frame", "spine_times", "training_set", "view_values"]

AS_OF = ("event", "arrival")


def training_set(
    plan: Plan,
    service: str,
    spine: pl.DataFrame | pl.LazyFrame | Mapping[str, object],
    *,
    time: str,
    source: EventSource,
    as_of: str = "event",
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
    advance: Callable[[int], None] = lambda _events: None,
) -> pl.LazyFrame:
    """Return the spine's rows, in order, with the service's features at each row's time.

    With `as_of="event"` a row sees the events before its time, however late they came; with
    "arrival" only those that had also arrived by then. Events beyond `memory_budget_bytes` wait
    their turn on disk; `advance` is told of each batch that was read. Raises RequestError for a
    spine without the entities' keys, request inputs, or a datetime column `time` with a time zone,
    and FrontierError for rows that history doesn't reach.
    """
    found = plan.service(service)
    rows = spine_frame(spine)
    if as_of not in AS_OF:
        msg = f'as_of "{as_of}" is neither "event" nor "arrival".{did_you_mean(as_of, AS_OF)}'
        raise RequestError(msg)
    times = spine_times(rows, time)
    check_frontier(times, frontier_of(found, source))
    inputs = _inputs(rows, found)
    values: dict[str, list[pl.Series]] = {}
    for view in found.views:
        keys = canonical_keys(inputs, view.entity.key)
        sight = _sight(as_of, times)
        got = view_values(view, keys, times, sight, source, memory_budget_bytes, advance)
        values[view.view.name] = feature_columns(view.layout, view.feature_names, got)
    columns = service_columns(found, inputs, values)
    clash = [column.name for column in columns if column.name in rows.columns]
    if clash:
        msg = f'spine: column "{clash[0]}" has the name of a feature; rename it in the spine'
        raise RequestError(msg)
    return rows.hstack(columns).lazy()


def view_values(
    view: ViewPlan,
    keys: Keys,
    times: NDArray[np.int64],
    sight: Sight,
    source: EventSource,
    memory_budget_bytes: int,
    advance: Callable[[int], None],
) -> Values:
    """Return a view's features for keys at `times` (n, µs), reading history once.

    What is before the windows of all of them, or after, isn't read where the source can tell.
    """
    index = KeyIndex(max(16, len(keys)))
    slots = index.find_or_add(keys)
    result = Values(len(keys), len(view.layout.output_dtypes))

    def read(rows: NDArray[np.int64], first: int, last: int, found: Events) -> Values:
        at = np.maximum(slots[rows] - first, 0).astype(np.int32)
        reads = Reads(at, times[rows], sight.seen[rows], ages=sight.ages)
        return features_at(view.layout, last - first, found, reads)

    def put(rows: NDArray[np.int64], part: Values) -> None:
        result.bits[rows] = part.bits
        result.valid[rows] = part.valid
        result.found[rows] = part.found

    events = source.rows(view.stream)
    sketch = Sketch.of_reads(keys, times, view.layout.table.windows, len(index))
    with Buckets(
        view, index, sketch, sight.visible, events=events, memory_budget_bytes=memory_budget_bytes
    ) as buckets:
        buckets.read(source, advance)
        for bucket in buckets:
            first, last = buckets.bounds(bucket)
            rows = np.flatnonzero((slots >= first) & (slots < last))
            if len(rows) == len(keys) > 0:
                return read(rows, first, last, buckets.bucket(bucket))
            if len(rows):
                put(rows, read(rows, first, last, buckets.bucket(bucket)))
    unkeyed = np.flatnonzero(slots < 0)
    if len(unkeyed):
        # A null key is an entity that never had an event.
        put(unkeyed, read(unkeyed, 0, 1, no_events(view.layout)))
    return result


def _sight(as_of: str, times: NDArray[np.int64]) -> Sight:
    if as_of == "event":
        return Sight(times, lambda events: events.times, ages=True)
    # Seen at t if ts < t and arrival <= t, that is if max(ts + 1, arrival) < t + 1.
    return Sight(times + 1, lambda events: np.maximum(events.times + 1, events.arrivals), ages=True)


def spine_times(rows: pl.DataFrame, time: str) -> NDArray[np.int64]:
    """Return the times of a spine (n, µs); RequestError if its column isn't one of times."""
    if time not in rows.columns:
        msg = f'spine: no time column "{time}".{did_you_mean(time, rows.columns)}'
        raise RequestError(msg)
    series = rows[time]
    dtype = series.dtype
    if not isinstance(dtype, pl.Datetime):
        msg = f'spine: time column "{time}" is {dtype}; make it a datetime with a time zone'
        raise RequestError(msg)
    if dtype.time_zone is None:
        msg = (
            f'spine: time column "{time}" has no time zone;'
            f' write pl.col("{time}").dt.replace_time_zone("UTC") if it is UTC'
        )
        raise RequestError(msg)
    if series.null_count():
        msg = (
            f'spine: time column "{time}" has {series.null_count()} nulls; fill or drop those rows'
        )
        raise RequestError(msg)
    return series.dt.cast_time_unit("us").to_physical().to_numpy()


def spine_frame(spine: pl.DataFrame | pl.LazyFrame | Mapping[str, object] | object) -> pl.DataFrame:
    """Return a spine as a frame: Polars, pandas or a dictionary of columns."""
    if isinstance(spine, pl.LazyFrame):
        return spine.collect()
    try:
        return pl.DataFrame(spine)  # type: ignore[arg-type]
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        kind = type(spine).__name__
        msg = f"spine: {kind} is no frame ({error}); give a Polars or pandas frame or a dictionary"
        raise RequestError(msg) from error


def _inputs(rows: pl.DataFrame, found: ServicePlan) -> pl.DataFrame:
    """Return a spine's keys and request inputs in the service's types, as online takes them."""
    wanted = {
        name: (dtype, f'key of entity "{view.entity.name}"')
        for view in found.views
        for name, dtype in view.key_dtypes.items()
    }
    for on_demand in found.service.on_demands:
        for one in on_demand.request:
            wanted[one.name] = (one.dtype, f'request input of "{on_demand.name}"')
    columns = []
    for name, (dtype, what) in wanted.items():
        if name not in rows.columns:
            msg = f'spine: no column "{name}" ({what}).{did_you_mean(name, rows.columns)}'
            raise RequestError(msg)
        columns.append(coerced(rows[name], dtype, f'spine: column "{name}" ({what})'))
    return pl.DataFrame(columns)


def service_columns(
    found: ServicePlan, rows: pl.DataFrame, values: dict[str, list[pl.Series]]
) -> list[pl.Series]:
    """Return a service's columns from its views' values and the request inputs in `rows`."""
    parts: list[pl.Series] = []
    for part in found.service.parts:
        if part.name in values:
            parts += values[part.name]
            continue
        used = [column for view in part.views for column in values[view.name]]  # type: ignore[union-attr]
        asked = [rows[one.name].cast(one.dtype) for one in part.request]  # type: ignore[union-attr]
        frame, _ = part.captured.run(pl.DataFrame([*used, *asked]))  # type: ignore[union-attr]
        parts += [frame[name] for name in part.outputs]  # type: ignore[union-attr]
    names = found.service.column_names()
    return [column.alias(name) for column, name in zip(parts, names, strict=True)]
