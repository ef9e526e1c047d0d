"""Definitions as plain data, and back: names, numbers and Polars' own bytes of expressions.

They are put together again by the functions that users write them with, so nothing can be read
that couldn't have been written.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec reads it
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from headwater.definitions.aggregate import (
    Aggregate,
    Count,
    First,
    Last,
    Max,
    Mean,
    Min,
    Std,
    Sum,
    Variance,
)
from headwater.definitions.capture import capture
from headwater.definitions.dtype_text import dtype_of, dtype_raw
from headwater.definitions.entity import Entity, entity
from headwater.definitions.event_time import EventTime
from headwater.definitions.expression import Filter, Select
from headwater.definitions.format import Avro, Json
from headwater.definitions.on_demand import OnDemand, RequestInput, input_schema
from headwater.definitions.service import Service, service
from headwater.definitions.stream import Rows, Stream, stream
from headwater.definitions.view import View, view
from headwater.definitions.window import Window
from headwater.errors import DefinitionError
from headwater.plan.canonical import deserialize_steps, serialize_steps

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

    from headwater.plan.plan import Plan, ServicePlan, ViewPlan

__all__ = ["Packed", "PackedService", "PackedStream", "PackedView"]

_AGGREGATES: Mapping[str, type[Aggregate]] = {
    one.kind: one for one in (Count, Sum, Mean, Min, Max, Variance, Std, First, Last)
}

_Raw = Any  # a type, as Polars names it


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Avro(_Part, frozen=True):
    schema: str
    registry: str
    framing: str
    aliases: tuple[tuple[str, tuple[str, ...]], ...]


class PackedStream(_Part, frozen=True):
    """A stream; `avro` is None for JSON."""

    columns: tuple[tuple[str, _Raw], ...]
    event_time: str
    unit: str | None
    start: str
    avro: _Avro | None
    skew_us: int

    @classmethod
    def of(cls, one: Stream) -> PackedStream:
        """Return a stream as plain data."""
        avro = one.format
        return cls(
            columns=tuple((name, _raw(dtype, name)) for name, dtype in one.schema.items()),
            event_time=one.event_time.column,
            unit=one.event_time.unit,
            start=one.start if isinstance(one.start, str) else one.start.isoformat(),
            avro=_Avro(avro.schema, avro.registry, avro.framing, avro.aliases)
            if isinstance(avro, Avro)
            else None,
            skew_us=one.skew_us,
        )

    def definition(self, topic: str) -> Stream:
        """Return the stream."""
        avro, start = self.avro, self.start
        return stream(
            topic,
            schema={name: dtype_of(dtype) for name, dtype in self.columns},
            event_time=EventTime(self.event_time, self.unit),
            start=start if start in {"earliest", "latest"} else datetime.fromisoformat(start),
            format=Json()
            if avro is None
            else Avro(avro.schema, avro.registry, avro.framing, avro.aliases),
            skew=timedelta(microseconds=self.skew_us),
        )


class PackedEntity(_Part, frozen=True):
    """An entity; without `types` it takes those of the stream."""

    key: tuple[str, ...]
    types: tuple[_Raw, ...] | None
    description: str

    @classmethod
    def of(cls, one: Entity) -> PackedEntity:
        """Return an entity as plain data."""
        types = None if one.dtypes is None else tuple(_raw(dtype, one.name) for dtype in one.dtypes)
        return cls(one.key, types, one.description)

    def definition(self, name: str) -> Entity:
        """Return the entity."""
        dtypes = None if self.types is None else [dtype_of(one) for one in self.types]
        return entity(name, key=self.key, dtype=dtypes, description=self.description)


class _Window(_Part, frozen=True):
    name: str
    width_us: int | None
    hop_us: int


class _Aggregate(_Part, frozen=True):
    name: str
    kind: str
    column: str | None
    ddof: int | None

    def definition(self) -> Aggregate:
        kind: Callable[..., Aggregate] = _AGGREGATES[self.kind]
        return kind(self.column) if self.ddof is None else kind(self.column, self.ddof)


class PackedView(_Part, frozen=True):
    """A view version, with the fingerprint of its logic."""

    name: str
    version: int
    fingerprint: str
    owner: str
    description: str
    tags: tuple[str, ...]
    stream: str
    entity: str
    on: tuple[str, ...]
    steps: bytes
    windows: tuple[_Window, ...]
    aggregates: tuple[_Aggregate, ...]

    @classmethod
    def of(cls, plan: ViewPlan) -> PackedView:
        """Return a view as plain data."""
        one, features = plan.view, plan.view.features
        first = features.windows[0]
        return cls(
            name=one.name,
            version=one.version,
            fingerprint=plan.fingerprint,
            owner=one.owner,
            description=one.description,
            tags=one.tags,
            stream=plan.stream.topic,
            entity=plan.entity.name,
            on=features.on,
            steps=serialize_steps(features.rows.steps),
            windows=tuple(_Window(w.name, w.width_us, w.hop_us) for w in features.windows),
            # Each is there once for every window, under its name and the window's.
            aggregates=tuple(
                _Aggregate(
                    feature.name.removesuffix(f"_{first.name}"),
                    feature.aggregate.kind,
                    feature.aggregate.column,
                    getattr(feature.aggregate, "ddof", None),
                )
                for feature in features.features
                if feature.window == first
            ),
        )

    def definition(self, streams: Mapping[str, Stream], entities: Mapping[str, Entity]) -> View:
        """Return the view, on these streams and entities."""
        source = streams[self.stream]
        rows = Rows(source, (), source.schema)
        for step in deserialize_steps(self.steps):
            if isinstance(step, Filter):
                rows = rows.filter(step.expr)
            else:
                rows = rows.with_columns(**dict(step.exprs))
        windows = (Window(one.width_us, one.hop_us, one.name) for one in self.windows)
        grouped = rows.group_by(entities[self.entity], on=list(self.on)).window(*windows)
        return view(
            self.name,
            features=grouped.agg(**{one.name: one.definition() for one in self.aggregates}),
            version=self.version,
            owner=self.owner,
            description=self.description,
            tags=self.tags,
        )


class _Request(_Part, frozen=True):
    name: str
    type: _Raw


class _OnDemand(_Part, frozen=True):
    name: str
    description: str
    views: tuple[str, ...]
    request: tuple[_Request, ...]
    steps: bytes

    @classmethod
    def of(cls, one: OnDemand) -> _OnDemand:
        return cls(
            name=one.name,
            description=one.description,
            views=tuple(view.id for view in one.views),
            request=tuple(_Request(each.name, _raw(each.dtype, each.name)) for each in one.request),
            steps=serialize_steps(one.captured.steps),
        )

    def definition(self, views: Mapping[str, View]) -> OnDemand:
        where = f'on-demand "{self.name}"'
        read = tuple(views[one] for one in self.views)
        request = tuple(RequestInput(one.name, dtype_of(one.type)) for one in self.request)
        steps = deserialize_steps(self.steps)

        def again(frame: pl.LazyFrame) -> pl.LazyFrame:
            for step in steps:
                if isinstance(step, Filter):
                    frame = frame.filter(step.expr)
                    continue
                columns = [expr.alias(name) for name, expr in step.exprs]
                is_select = isinstance(step, Select)
                frame = frame.select(columns) if is_select else frame.with_columns(columns)
            return frame

        captured = capture(again, input_schema(read, request, where), where)
        return OnDemand(self.name, read, request, captured, self.description)


class PackedService(_Part, frozen=True):
    """A service, with its revision; its parts are ids of views, and on-demand functions."""

    revision: str
    owner: str
    description: str
    parts: tuple[str | _OnDemand, ...]

    @classmethod
    def of(cls, plan: ServicePlan) -> PackedService:
        """Return a service as plain data."""
        one = plan.service
        parts = tuple(
            part.id if isinstance(part, View) else _OnDemand.of(part) for part in one.parts
        )
        return cls(plan.revision, one.owner, one.description, parts)

    @property
    def views(self) -> tuple[str, ...]:
        """The ids of every view it needs, those that only an on-demand function reads as well."""
        ids = [(part,) if isinstance(part, str) else part.views for part in self.parts]
        return tuple(dict.fromkeys(one for each in ids for one in each))

    def definition(self, name: str, views: Mapping[str, View]) -> Service:
        """Return the service, of these views."""
        parts = [
            views[part] if isinstance(part, str) else part.definition(views) for part in self.parts
        ]
        return service(name, parts, owner=self.owner, description=self.description)


class Packed(_Part, frozen=True):
    """A set of definitions; views by id, the rest by name."""

    streams: dict[str, PackedStream]
    entities: dict[str, PackedEntity]
    views: dict[str, PackedView]
    services: dict[str, PackedService]

    @classmethod
    def of(cls, plan: Plan) -> Packed:
        """Return a plan's definitions; raise DefinitionError for a type that can't be stored."""
        return cls(
            streams={name: PackedStream.of(one) for name, one in plan.streams.items()},
            entities={name: PackedEntity.of(one) for name, one in plan.entities.items()},
            views={name: PackedView.of(one) for name, one in plan.views.items()},
            services={name: PackedService.of(one) for name, one in plan.services.items()},
        )

    def over(self, below: Packed) -> Packed:
        """Return these definitions, and those of `below` that have other names."""
        return Packed(
            streams={**below.streams, **self.streams},
            entities={**below.entities, **self.entities},
            views={**below.views, **self.views},
            services={**below.services, **self.services},
        )

    def without_view(self, view: str) -> Packed:
        """Return these definitions without a view version."""
        views = {name: one for name, one in self.views.items() if name != view}
        return Packed(self.streams, self.entities, views, self.services)

    def definitions(self) -> list[View | Service]:
        """Return the views and services, in the order in which they were compiled.

        Raises DefinitionError, or what Python raises for a name that isn't there, for definitions
        that don't fit together.
        """
        streams = {name: one.definition(name) for name, one in self.streams.items()}
        entities = {name: one.definition(name) for name, one in self.entities.items()}
        views = {name: one.definition(streams, entities) for name, one in self.views.items()}
        services = [one.definition(name, views) for name, one in self.services.items()]
        return [*views.values(), *services]


def _raw(dtype: pl.DataType, name: str) -> _Raw:
    try:
        return dtype_raw(dtype)
    except ValueError as error:
        msg = f'"{name}" can\'t be stored: {error}'
        raise DefinitionError(msg) from error
