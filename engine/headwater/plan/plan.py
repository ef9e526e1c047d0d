"""The plan: definitions checked together and compiled to what ingest, shards and reads need."""

from __future__ import annotations

import html
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from headwater.definitions.service import Service
from headwater.definitions.view import View
from headwater.errors import DefinitionError, NotFoundError, did_you_mean
from headwater.plan.describe import plan_text
from headwater.plan.fingerprint import canonical_on_demand, canonical_view, fingerprint
from headwater.plan.layout import Layout, layout_of
from headwater.plan.stamp import Stamp, engine_stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import polars as pl

    from headwater.definitions.entity import Entity
    from headwater.definitions.expression import Step
    from headwater.definitions.stream import Stream

__all__ = ["Binding", "Plan", "ServicePlan", "ViewPlan", "compile_plan"]


@dataclass(frozen=True, slots=True)
class Binding:
    """A stream re-keyed by an entity: what ingest sends to the exchange, once for all its views."""

    topic: str
    entity: str
    columns: tuple[str, ...]

    @property
    def id(self) -> str:
        """The binding's name in exchange records and marks."""
        return f"{self.topic}/{self.entity}/{','.join(self.columns)}"


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """One view version, compiled."""

    view: View
    fingerprint: str
    binding: Binding
    layout: Layout
    columns: tuple[str, ...]  # of the stream: what row logic and aggregates read, keys apart

    @property
    def id(self) -> str:
        """The name of the view version's state."""
        return self.view.id

    @property
    def stream(self) -> Stream:
        """The stream it is computed from."""
        return self.view.features.rows.stream

    @property
    def entity(self) -> Entity:
        """The entity it describes."""
        return self.view.features.entity

    @property
    def steps(self) -> tuple[Step, ...]:
        """The row logic between stream and aggregates."""
        return self.view.features.rows.steps

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Its features, in order."""
        return tuple(f.name for f in self.view.features.features)

    @property
    def key_dtypes(self) -> Mapping[str, pl.DataType]:
        """The entity's key columns and the types they have in this view's stream."""
        schema = self.stream.schema
        pairs = zip(self.entity.key, self.binding.columns, strict=True)
        return {key: schema[column] for key, column in pairs}


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """A service, pinned to view versions; `revision` changes when anything it answers does."""

    service: Service
    views: tuple[ViewPlan, ...]
    revision: str


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """Everything a worker needs to know of the definitions."""

    streams: Mapping[str, Stream]
    bindings: tuple[Binding, ...]
    views: Mapping[str, ViewPlan]
    services: Mapping[str, ServicePlan]
    stamp: Stamp

    def __repr__(self) -> str:
        """Spell the plan so that a person can follow it."""
        return plan_text(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(plan_text(self))}</pre>"

    @property
    def entities(self) -> Mapping[str, Entity]:
        """The entities by name, as the first view that has each spells it."""
        found: dict[str, Entity] = {}
        for view in self.views.values():
            found.setdefault(view.entity.name, view.entity)
        return found

    @property
    def definitions(self) -> list[View | Service]:
        """What it was compiled from: compiled again it is the same plan."""
        views = [view.view for view in self.views.values()]
        return [*views, *(service.service for service in self.services.values())]

    def service(self, name: str) -> ServicePlan:
        """Return a service by name; raise NotFoundError with the closest one."""
        if name not in self.services:
            if any(view.view.name == name for view in self.views.values()):
                msg = f'"{name}" is a view; wrap it: hw.service("{name}_service", [{name}])'
                raise NotFoundError(msg)
            known = ", ".join(sorted(self.services)) or "none"
            msg = f'no service "{name}" here (known: {known}).{did_you_mean(name, self.services)}'
            raise NotFoundError(msg)
        return self.services[name]

    def views_of(self, binding: Binding) -> tuple[ViewPlan, ...]:
        """Return the views fed by a binding."""
        return tuple(view for view in self.views.values() if view.binding == binding)

    def bindings_of(self, topic: str) -> tuple[Binding, ...]:
        """Return the bindings of a stream."""
        return tuple(binding for binding in self.bindings if binding.topic == topic)


def compile_plan(parts: Iterable[Service | View]) -> Plan:
    """Compile services and views; raise DefinitionError where two of them contradict each other."""
    services: dict[str, Service] = {}
    views: dict[str, View] = {}
    for part in parts:
        if isinstance(part, Service):
            if services.setdefault(part.name, part) is not part:
                msg = f'service "{part.name}" is defined twice; rename one'
                raise DefinitionError(msg)
            for view in part.views:
                _add_view(views, view)
        elif isinstance(part, View):
            _add_view(views, part)
        else:
            msg = f"{part!r} is neither a service nor a view; list hw.service(...) or hw.view(...)"
            raise DefinitionError(msg)
    compiled = {one.id: one for one in (_view_plan(view) for view in views.values())}
    streams: dict[str, Stream] = {}
    for one in compiled.values():
        if streams.setdefault(one.stream.topic, one.stream) != one.stream:
            msg = (
                f'stream "{one.stream.topic}" is defined in two ways; define it once and use that'
                " object in every view"
            )
            raise DefinitionError(msg)
    _check_entities(compiled)
    bindings = tuple(dict.fromkeys(one.binding for one in compiled.values()))
    stamp = engine_stamp()
    return Plan(
        MappingProxyType(streams),
        bindings,
        MappingProxyType(compiled),
        MappingProxyType({s.name: _service_plan(s, compiled, stamp) for s in services.values()}),
        stamp,
    )


def _add_view(views: dict[str, View], view: View) -> None:
    known = views.setdefault(view.id, view)
    if known is not view and canonical_view(known) != canonical_view(view):
        msg = (
            f'view "{view.name}" version {view.version} is defined in two ways; give one'
            f" version={view.version + 1}"
        )
        raise DefinitionError(msg)


def _view_plan(view: View) -> ViewPlan:
    features = view.features
    layout = layout_of(features, f'view "{view.name}"')
    return ViewPlan(
        view,
        fingerprint(canonical_view(view)),
        Binding(features.rows.stream.topic, features.entity.name, features.on),
        layout,
        features.columns,
    )


def _service_plan(service: Service, views: Mapping[str, ViewPlan], stamp: Stamp) -> ServicePlan:
    used = tuple(views[view.id] for view in service.views)
    text = " ".join(
        [
            *(f"{one.id}={one.fingerprint} by {' '.join(one.entity.key)}" for one in used),
            *(canonical_on_demand(one) for one in service.on_demands),
            *service.column_names(),
            str(stamp),
        ]
    )
    return ServicePlan(service, used, fingerprint(text))


def _check_entities(views: Mapping[str, ViewPlan]) -> None:
    known: dict[str, ViewPlan] = {}
    for one in views.values():
        other = known.setdefault(one.entity.name, one)
        if other.entity.key != one.entity.key:
            msg = (
                f'entity "{one.entity.name}" is defined with keys {other.entity.key} and'
                f" {one.entity.key}"
            )
            raise DefinitionError(msg)
        if dict(other.key_dtypes) != dict(one.key_dtypes):
            msg = (
                f'entity "{one.entity.name}": views "{other.view.name}" and "{one.view.name}" give'
                " its"
                f" key different types ({dict(other.key_dtypes)} and {dict(one.key_dtypes)}); cast"
                " one"
            )
            raise DefinitionError(msg)
