"""A plan in words: what is read, re-keyed, computed and served, for people and for machines."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from headwater.definitions.duration import format_duration
from headwater.definitions.expression import step_text
from headwater.definitions.on_demand import OnDemand

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    import polars as pl

    from headwater.definitions.stream import Stream
    from headwater.plan.plan import Plan, ServicePlan, ViewPlan

__all__ = ["plan_facts", "plan_text", "service_logic", "stream_logic", "view_logic"]

_WORD_BYTES = 8


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain data that can be written as JSON."""
    return {
        "engine": str(plan.stamp),
        "streams": {
            name: {
                "format": str(stream.format),
                "event_time": stream.event_time.column,
                "start": str(stream.start),
                "skew": format_duration(stream.skew_us),
                "schema": {column: str(dtype) for column, dtype in stream.schema.items()},
                "keyed_by": [
                    {"entity": one.entity, "columns": list(one.columns)}
                    for one in plan.bindings_of(name)
                ],
            }
            for name, stream in plan.streams.items()
        },
        "views": {one.id: _view_facts(one) for one in plan.views.values()},
        "services": {name: _service_facts(one) for name, one in plan.services.items()},
    }


def _view_facts(view: ViewPlan) -> dict[str, Any]:
    return {
        "fingerprint": view.fingerprint,
        "owner": view.view.owner,
        "description": view.view.description,
        "tags": list(view.view.tags),
        "stream": view.stream.topic,
        "entity": view.entity.name,
        "key": {key: str(dtype) for key, dtype in view.key_dtypes.items()},
        "on": list(view.binding.columns),
        "steps": [step_text(step) for step in view.steps],
        "windows": [str(window) for window in view.view.features.windows],
        "tile_bytes": _tile_bytes(view),
        "event_bytes": view.layout.event_words * _WORD_BYTES,
        "features": {
            feature.name: {
                "aggregate": str(feature.aggregate),
                "window": feature.window.name,
                "type": str(feature.dtype),
            }
            for feature in view.view.features.features
        },
    }


def _service_facts(found: ServicePlan) -> dict[str, Any]:
    service = found.service
    names = service.column_names()
    types = [str(dtype) for _, _, dtype in service.columns]
    return {
        "revision": found.revision,
        "owner": service.owner,
        "description": service.description,
        "views": {view.id: view.fingerprint for view in found.views},
        "on_demand": {
            one.name: {
                "inputs": [view.name for view in one.views],
                "request": {asked.name: str(asked.dtype) for asked in one.request},
                "features": {name: str(dtype) for name, dtype in one.outputs.items()},
            }
            for one in service.on_demands
        },
        "columns": dict(zip(names, types, strict=True)),
    }


def _tile_bytes(view: ViewPlan) -> int:
    return int(view.layout.table.shape[0]) * _WORD_BYTES


def plan_text(plan: Plan, *, details: bool = True) -> str:
    """Return the plan as text; without `details` a line for each stream, view and service."""
    lines: list[str] = []
    for name in plan.streams:
        lines += _stream_lines(plan, name, details=details)
    for view in plan.views.values():
        lines += _view_lines(view, details=details)
    for service in plan.services.values():
        lines += _service_lines(service, details=details)
    lines.append(f"engine  {plan.stamp}")
    return "\n".join(lines)


def _stream_lines(plan: Plan, name: str, *, details: bool) -> list[str]:
    stream = plan.streams[name]
    bound = [f"{one.entity}({', '.join(one.columns)})" for one in plan.bindings_of(name)]
    lines = [f"stream {name}: {stream.format}, {_count(stream.schema, 'column')}"]
    lines[0] += f", re-keyed by {', '.join(bound)}"
    if details:
        lines.append(
            f"  event time  {stream.event_time.column}, skew {format_duration(stream.skew_us)}"
        )
        lines.append(f"  start       {stream.start}")
        lines.append(f"  columns     {_typed(stream.schema.items())}")
        lines.append("")
    return lines


def _view_lines(view: ViewPlan, *, details: bool) -> list[str]:
    features = view.view.features
    head = f"view {view.id} [{view.fingerprint}]: {_count(features.features, 'feature')}"
    lines = [f"{head} of {view.entity.name} from {view.stream.topic}"]
    if not details:
        return lines
    lines += [f"  {label:<11} {text}" for label, text in _about(view) if text]
    lines += [f"  {line}" for line in _computed(view)]
    rows = [
        (one.name, str(one.aggregate), one.window.name, str(one.dtype)) for one in features.features
    ]
    lines += [f"  feature     {row}" for row in _aligned(rows)]
    lines.append(
        f"  state       {_tile_bytes(view)} bytes a tile, {view.layout.event_words * _WORD_BYTES}"
        " an event"
    )
    return [*lines, ""]


def _computed(view: ViewPlan) -> list[str]:
    features = view.view.features
    lines = [f"step        {step_text(step)}" for step in view.steps]
    for window in features.windows:
        # "7d (hop 3h)" says both; a name of its own needs the width too.
        text = str(window)
        named = text.split(" ", maxsplit=1)[0] == window.name
        lines.append(f"window      {text if named else f'{window.name} = {text}'}")
    return lines


def stream_logic(stream: Stream, columns: Container[str] | None = None) -> list[str]:
    """Return what of a stream decides about values, a line for each thing that can change.

    With `columns` only of those; their order means nothing.
    """
    unit = f" in {stream.event_time.unit}" if stream.event_time.unit else ""
    return [
        f"stream      {stream.topic}: {stream.format}",
        f"event time  {stream.event_time.column}{unit}, skew {format_duration(stream.skew_us)}",
        *(
            f"column      {name} {dtype}"
            for name, dtype in sorted(stream.schema.items(), key=itemgetter(0))
            if columns is None or name in columns
        ),
    ]


def view_logic(view: ViewPlan) -> list[str]:
    """Return what decides about a view's values, a line for each thing that can change."""
    key = f"key         {view.entity.name}: {_typed(view.key_dtypes.items())}"
    read = {*view.binding.columns, *view.columns, view.stream.event_time.column}
    return [
        *stream_logic(view.stream, read),
        f"{key} on {', '.join(view.binding.columns)}",
        *_computed(view),
        *(
            f"feature     {one.name} {one.aggregate} {one.window.name} {one.dtype}"
            for one in view.view.features.features
        ),
    ]


def service_logic(found: ServicePlan) -> list[str]:
    """Return what decides about a service's answers, a line for each thing that can change."""
    names, columns = found.service.column_names(), found.service.columns
    lines = [f"view        {one.id} by {', '.join(one.entity.key)}" for one in found.views]
    for part in found.service.on_demands:
        lines.append(f"on demand   {part.name} from {', '.join(one.name for one in part.views)}")
        lines += [f"request     {one.name} {one.dtype}" for one in part.request]
        lines += [f"step        {step_text(step)}" for step in part.captured.steps]
    typed = zip(names, columns, strict=True)
    return [*lines, *(f"column      {name} {dtype}" for name, (_, _, dtype) in typed)]


def _about(view: ViewPlan) -> tuple[tuple[str, str], ...]:
    renamed = view.binding.columns != view.entity.key
    on = f" on {', '.join(view.binding.columns)}" if renamed else ""
    return (
        ("owner", view.view.owner),
        ("about", view.view.description),
        ("tags", ", ".join(view.view.tags)),
        ("key", f"{_typed(view.key_dtypes.items())}{on}"),
    )


def _service_lines(found: ServicePlan, *, details: bool) -> list[str]:
    service = found.service
    count = _count(service.columns, "feature")
    lines = [f"service {service.name} [{found.revision}]: {count}"]
    if not details:
        return lines
    for part in service.parts:
        if not isinstance(part, OnDemand):
            lines.append(f"  view        {part.id}")
            continue
        asked = _typed((one.name, one.dtype) for one in part.request)
        inputs = ", ".join([*(view.name for view in part.views), *([asked] if asked else [])])
        lines.append(f"  on demand   {part.name} from {inputs}")
        lines.append(f"              gives {_typed(part.outputs.items())}")
    return [*lines, ""]


def _typed(columns: Iterable[tuple[str, pl.DataType]]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in columns)


def _count(things: Sequence[object] | object, name: str) -> str:
    number = len(things)  # type: ignore[arg-type]
    return f"{number} {name}{'' if number == 1 else 's'}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
