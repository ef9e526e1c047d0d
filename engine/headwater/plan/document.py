"""A plan as one JSON document, and back: what the registry keeps and workers read.

Expressions are Polars' own bytes, checked when they are read by the fingerprints that stand beside
them. No pickle, no source text: a document is rebuilt by the functions users write definitions
with, so nothing can be read that couldn't have been written.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

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
from headwater.errors import DefinitionError, StateError
from headwater.plan.canonical import deserialize_steps, serialize_steps
from headwater.plan.plan import Plan, ServicePlan, ViewPlan, compile_plan
from headwater.plan.stamp import engine_stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from headwater.definitions.expression import Step

__all__ = ["DOCUMENT_BYTES_MAX", "Document", "read_document", "rows_of", "write_document"]

DOCUMENT_BYTES_MAX = 16 << 20

_FORMAT = 1
_CURE = "apply the definitions again: headwater apply"
_AGGREGATES: Mapping[str, type[Aggregate]] = {
    one.kind: one for one in (Count, Sum, Mean, Min, Max, Variance, Std, First, Last)
}
# What hand-made or foreign definitions can raise while they are put together.
_MISFITS = (
    IndexError, KeyError, RecursionError, TypeError, ValueError, pl.exceptions.PolarsError,
)  # fmt: skip

_Raw = Any  # a type, as Polars names it


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Avro(_Part, frozen=True):
    schema: str
    registry: str
    framing: str
    aliases: tuple[tuple[str, tuple[str, ...]], ...]


class _Stream(_Part, frozen=True):
    topic: str
    columns: tuple[tuple[str, _Raw], ...]
    event_time: str
    unit: str | None
    start: str
    avro: _Avro | None  # else JSON
    skew_us: int


class _Entity(_Part, frozen=True):
    name: str
    key: tuple[str, ...]
    types: tuple[_Raw, ...] | None
    description: str


class _Window(_Part, frozen=True):
    name: str
    width_us: int | None
    hop_us: int


class _Aggregate(_Part, frozen=True):
    name: str
    kind: str
    column: str | None
    ddof: int | None


class _View(_Part, frozen=True):
    name: str
    version: int
    fingerprint: str
    owner: str
    description: str
    tags: tuple[str, ...]
    stream: int  # these two are positions in the document
    entity: int
    on: tuple[str, ...]
    steps: bytes
    windows: tuple[_Window, ...]
    aggregates: tuple[_Aggregate, ...]


class _Request(_Part, frozen=True):
    name: str
    type: _Raw


class _OnDemand(_Part, frozen=True):
    name: str
    description: str
    views: tuple[str, ...]
    request: tuple[_Request, ...]
    steps: bytes


class _Service(_Part, frozen=True):
    name: str
    revision: str
    owner: str
    description: str
    parts: tuple[str | _OnDemand, ...]


class _Definitions(_Part, frozen=True):
    streams: tuple[_Stream, ...]
    entities: tuple[_Entity, ...]
    views: tuple[_View, ...]
    services: tuple[_Service, ...]


class Document(msgspec.Struct, frozen=True):
    """The envelope: readable whatever engine wrote the definitions in it."""

    format: int
    namespace: str = ""
    engine: str = ""
    sha256: str = ""
    definitions: msgspec.Raw = msgspec.Raw()

    @classmethod
    def decode(cls, content: bytes) -> Document:
        """Return the envelope of a document; raise StateError if it is cut, changed or too big."""
        if len(content) > DOCUMENT_BYTES_MAX:
            msg = (
                f"the stored plan has {len(content)} bytes, at most {DOCUMENT_BYTES_MAX} are read;"
                " split the definitions into two namespaces"
            )
            raise StateError(msg)
        try:
            found = msgspec.json.decode(content, type=cls)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            msg = f"the stored plan is damaged ({error}); {_CURE}"
            raise StateError(msg) from error
        if found.format != _FORMAT:
            msg = (
                f"the stored plan has format {found.format}, this version reads {_FORMAT}; use the"
                " version that wrote it"
            )
            raise StateError(msg)
        if hashlib.sha256(bytes(found.definitions)).hexdigest() != found.sha256:
            msg = f"the stored plan fails its checksum: it was changed or cut; {_CURE}"
            raise StateError(msg)
        return found

    def plan(self, namespace: str) -> Plan:
        """Return the compiled plan; raise StateError if it is of another namespace or engine."""
        if self.namespace != namespace:
            msg = (
                f'the stored plan is of namespace "{self.namespace}", not "{namespace}"; apply the'
                f" definitions to this one: headwater apply --namespace {namespace}"
            )
            raise StateError(msg)
        if self.engine != str(engine_stamp()):
            msg = (
                f"the stored plan is of the engine {self.engine}, this is {engine_stamp()}: values"
                f" could differ; run the same versions, or {_CURE}"
            )
            raise StateError(msg)
        try:
            raw = msgspec.json.decode(self.definitions, type=_Definitions)
            plan = compile_plan(_parts_of(raw))
        except (msgspec.MsgspecError, *_MISFITS) as error:
            msg = f"the stored plan can't be read ({' '.join(str(error).split())}); {_CURE}"
            raise StateError(msg) from error
        _check(raw, plan)
        return plan


def write_document(plan: Plan, namespace: str) -> bytes:
    """Return a plan as a document; equal plans give equal bytes.

    Raises DefinitionError for a type that can't be stored, and for a document that is too big.
    """
    definitions = msgspec.json.encode(_definitions_of(plan))
    sha256 = hashlib.sha256(definitions).hexdigest()
    envelope = Document(_FORMAT, namespace, str(plan.stamp), sha256, msgspec.Raw(definitions))
    content = msgspec.json.encode(envelope)
    if len(content) > DOCUMENT_BYTES_MAX:
        msg = (
            f"the definitions take {len(content)} bytes, at most {DOCUMENT_BYTES_MAX} can be"
            " stored; split them into two namespaces"
        )
        raise DefinitionError(msg)
    return content


def read_document(content: bytes, namespace: str) -> Plan:
    """Return the plan of a document: its fingerprints, revisions and layouts are as they were.

    Raises StateError for a document that is damaged, of another namespace, or of another engine.
    """
    return Document.decode(content).plan(namespace)


def _check(raw: _Definitions, plan: Plan) -> None:
    """Refuse definitions that mean something else than what was written."""
    views = {f"{one.name}@{one.version}": one.fingerprint for one in raw.views}
    services = {one.name: one.revision for one in raw.services}
    found = {one.id: one.fingerprint for one in plan.views.values()}
    revisions = {name: one.revision for name, one in plan.services.items()}
    for kind, stored, read in (("view", views, found), ("service", services, revisions)):
        for name in stored.keys() | read.keys():
            if stored.get(name) != read.get(name):
                msg = (
                    f'{kind} "{name}" of the stored plan reads as {read.get(name)} and was written'
                    f" as {stored.get(name)}; {_CURE}"
                )
                raise StateError(msg)


# To plain data.


def _definitions_of(plan: Plan) -> _Definitions:
    entities: list[Entity] = []
    for one in plan.views.values():
        if one.entity not in entities:
            entities.append(one.entity)
    topics = list(plan.streams)
    return _Definitions(
        streams=tuple(map(_packed_stream, plan.streams.values())),
        entities=tuple(map(_packed_entity, entities)),
        views=tuple(
            _packed_view(one, topics.index(one.stream.topic), entities.index(one.entity))
            for one in plan.views.values()
        ),
        services=tuple(map(_packed_service, plan.services.values())),
    )


def _packed_stream(one: Stream) -> _Stream:
    avro = one.format
    return _Stream(
        topic=one.topic,
        columns=tuple((name, _raw(dtype, name)) for name, dtype in one.schema.items()),
        event_time=one.event_time.column,
        unit=one.event_time.unit,
        start=one.start if isinstance(one.start, str) else one.start.isoformat(),
        avro=_Avro(avro.schema, avro.registry, avro.framing, avro.aliases)
        if isinstance(avro, Avro)
        else None,
        skew_us=one.skew_us,
    )


def _packed_entity(one: Entity) -> _Entity:
    types = None if one.dtypes is None else tuple(_raw(dtype, one.name) for dtype in one.dtypes)
    return _Entity(one.name, one.key, types, one.description)


def _packed_view(plan: ViewPlan, stream_at: int, entity_at: int) -> _View:
    view, features = plan.view, plan.view.features
    first = features.windows[0]
    return _View(
        name=view.name,
        version=view.version,
        fingerprint=plan.fingerprint,
        owner=view.owner,
        description=view.description,
        tags=view.tags,
        stream=stream_at,
        entity=entity_at,
        on=features.on,
        steps=serialize_steps(features.rows.steps),
        windows=tuple(_Window(w.name, w.width_us, w.hop_us) for w in features.windows),
        aggregates=tuple(
            _Aggregate(
                one.name.removesuffix(f"_{first.name}"),
                one.aggregate.kind,
                one.aggregate.column,
                getattr(one.aggregate, "ddof", None),
            )
            for one in features.features
            if one.window == first
        ),
    )


def _packed_service(plan: ServicePlan) -> _Service:
    one = plan.service
    parts = tuple(
        _id(part) if isinstance(part, View) else _packed_on_demand(part) for part in one.parts
    )
    return _Service(one.name, plan.revision, one.owner, one.description, parts)


def _packed_on_demand(one: OnDemand) -> _OnDemand:
    return _OnDemand(
        name=one.name,
        description=one.description,
        views=tuple(map(_id, one.views)),
        request=tuple(_Request(asked.name, _raw(asked.dtype, asked.name)) for asked in one.request),
        steps=serialize_steps(one.captured.steps),
    )


def _id(one: View) -> str:
    return f"{one.name}@{one.version}"


def _raw(dtype: pl.DataType, name: str) -> _Raw:
    try:
        return dtype_raw(dtype)
    except ValueError as error:
        msg = f'"{name}" can\'t be stored: {error}'
        raise DefinitionError(msg) from error


# And back.


def _parts_of(raw: _Definitions) -> list[View | Service]:
    streams = [_stream(one) for one in raw.streams]
    entities = [_entity(one) for one in raw.entities]
    views = {f"{one.name}@{one.version}": _view(one, streams, entities) for one in raw.views}
    return [*views.values(), *(_service(one, views) for one in raw.services)]


def _stream(raw: _Stream) -> Stream:
    avro = raw.avro
    return stream(
        raw.topic,
        schema={name: dtype_of(dtype) for name, dtype in raw.columns},
        event_time=EventTime(raw.event_time, raw.unit),
        start=raw.start
        if raw.start in {"earliest", "latest"}
        else datetime.fromisoformat(raw.start),
        format=Json()
        if avro is None
        else Avro(avro.schema, avro.registry, avro.framing, avro.aliases),
        skew=timedelta(microseconds=raw.skew_us),
    )


def _entity(raw: _Entity) -> Entity:
    dtypes = None if raw.types is None else [dtype_of(one) for one in raw.types]
    return entity(raw.name, key=raw.key, dtype=dtypes, description=raw.description)


def _view(raw: _View, streams: Sequence[Stream], entities: Sequence[Entity]) -> View:
    steps = deserialize_steps(raw.steps)
    rows = rows_of(streams[raw.stream], steps)
    windows = tuple(Window(one.width_us, one.hop_us, one.name) for one in raw.windows)
    grouped = rows.group_by(entities[raw.entity], on=list(raw.on))
    return view(
        raw.name,
        features=grouped.window(*windows).agg(**{one.name: _of(one) for one in raw.aggregates}),
        version=raw.version,
        owner=raw.owner,
        description=raw.description,
        tags=raw.tags,
    )


def _of(raw: _Aggregate) -> Aggregate:
    kind: Callable[..., Aggregate] = _AGGREGATES[raw.kind]
    return kind(raw.column) if raw.ddof is None else kind(raw.column, raw.ddof)


def rows_of(source: Stream, steps: Iterable[Step | Select]) -> Rows:
    """Return a stream's rows after these steps, checked as if they were written now."""
    rows = Rows(source, (), source.schema)
    for step in steps:
        if isinstance(step, Select):
            msg = f'stream "{source.topic}": a stream has no select; {_CURE}'
            raise DefinitionError(msg)
        rows = (
            rows.filter(step.expr)
            if isinstance(step, Filter)
            else rows.with_columns(**dict(step.exprs))
        )
    return rows


def _service(raw: _Service, views: Mapping[str, View]) -> Service:
    parts = [
        views[part] if isinstance(part, str) else _on_demand(part, views) for part in raw.parts
    ]
    return service(raw.name, parts, owner=raw.owner, description=raw.description)


def _on_demand(raw: _OnDemand, views: Mapping[str, View]) -> OnDemand:
    where = f'on-demand "{raw.name}"'
    read = tuple(views[one] for one in raw.views)
    request = tuple(RequestInput(one.name, dtype_of(one.type)) for one in raw.request)
    steps = deserialize_steps(raw.steps)

    def again(frame: pl.LazyFrame) -> pl.LazyFrame:
        for step in steps:
            if isinstance(step, Filter):
                frame = frame.filter(step.expr)
                continue
            columns = [expr.alias(name) for name, expr in step.exprs]
            frame = (
                frame.select(columns) if isinstance(step, Select) else frame.with_columns(columns)
            )
        return frame

    captured = capture(again, input_schema(read, request, where), where)
    return OnDemand(raw.name, read, request, captured, raw.description)
