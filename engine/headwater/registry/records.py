"""What a registry knows of a namespace at one moment, and what it knows after a plan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from headwater.plan.describe import service_logic, stream_logic, view_logic

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from headwater.definitions.entity import Entity
    from headwater.definitions.stream import Stream
    from headwater.plan.plan import Plan, ServicePlan, ViewPlan

__all__ = [
    "ChangeRecord",
    "EntityRecord",
    "Registered",
    "ServiceRecord",
    "StreamRecord",
    "ViewRecord",
    "on_demand_features",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRecord:
    """A view version; times in µs UTC, `removed_us` None while it counts.

    `features` are names with what they are, as text.
    """

    name: str
    version: int
    fingerprint: str
    engine: str
    stream: str
    entity: str
    owner: str
    description: str
    tags: tuple[str, ...]
    features: Mapping[str, str]
    logic: str
    added_us: int
    added_by: str
    removed_us: int | None = None
    removed_by: str | None = None

    @property
    def id(self) -> str:
        """The name of the view version's state."""
        return f"{self.name}@{self.version}"

    @property
    def is_removed(self) -> bool:
        """Whether the version no longer counts; its number can't be used for other logic."""
        return self.removed_us is not None

    @classmethod
    def of(cls, view: ViewPlan, engine: str, *, at_us: int, author: str) -> ViewRecord:
        """Return the record of a view that is added now."""
        one = view.view
        return cls(
            name=one.name,
            version=one.version,
            fingerprint=view.fingerprint,
            engine=engine,
            stream=view.stream.topic,
            entity=view.entity.name,
            owner=one.owner,
            description=one.description,
            tags=one.tags,
            features={
                each.name: f"{each.aggregate} over {each.window.name}, {each.dtype}"
                for each in one.features.features
            },
            logic="\n".join(view_logic(view)),
            added_us=at_us,
            added_by=author,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """A service from one change of it to the next; `views` are ids with their fingerprints.

    `features` are those of its on-demand functions, with what they are; `applied_in` is the
    registry's revision whose plan has it, to go back to it.
    """

    name: str
    number: int
    revision: str
    applied_in: int
    views: Mapping[str, str]
    features: Mapping[str, str]
    owner: str
    description: str
    logic: str
    added_us: int
    added_by: str
    removed_us: int | None = None
    removed_by: str | None = None

    @property
    def about(self) -> tuple[str, str, str, Mapping[str, str]]:
        """What makes it another one if it changes."""
        return self.revision, self.owner, self.description, self.features

    @property
    def is_removed(self) -> bool:
        """Whether nobody serves it any more."""
        return self.removed_us is not None

    @classmethod
    def of(
        cls, service: ServicePlan, number: int, applied_in: int, *, at_us: int, author: str
    ) -> ServiceRecord:
        """Return the record of a service that is changed now."""
        return cls(
            name=service.service.name,
            number=number,
            revision=service.revision,
            applied_in=applied_in,
            views={view.id: view.fingerprint for view in service.views},
            features=on_demand_features(service),
            owner=service.service.owner,
            description=service.service.description,
            logic="\n".join(service_logic(service)),
            added_us=at_us,
            added_by=author,
        )


def on_demand_features(service: ServicePlan) -> dict[str, str]:
    """Return the features of a service's on-demand functions, with what they are."""
    return {
        name: ": ".join(filter(None, (f"on demand by {one.name}, {dtype}", one.description)))
        for one in service.service.on_demands
        for name, dtype in one.outputs.items()
    }


_Removable = TypeVar("_Removable", ViewRecord, ServiceRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRecord:
    """A stream: what decides about its rows, as text, and where it begins."""

    name: str
    logic: str
    start: str

    @classmethod
    def of(cls, stream: Stream) -> StreamRecord:
        """Return the record of a stream."""
        logic = "\n".join(stream_logic(stream))
        return cls(name=stream.topic, logic=logic, start=str(stream.start))


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityRecord:
    """An entity and its key columns."""

    name: str
    keys: tuple[str, ...]
    description: str

    @classmethod
    def of(cls, entity: Entity) -> EntityRecord:
        """Return the record of an entity."""
        return cls(name=entity.name, keys=entity.key, description=entity.description)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRecord:
    """A line of the change log."""

    revision: int
    position: int
    at_us: int
    author: str
    kind: str
    name: str
    action: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A namespace: all that was ever applied, what was removed included.

    `number` is that of the plans topic this corresponds to; `pending` that it was written here and
    perhaps not there. `document` is None where nothing was ever applied.
    """

    namespace: str
    revision: int = 0
    number: int = 0
    pending: bool = False
    document: bytes | None = None
    views: Mapping[str, ViewRecord] = field(default_factory=dict)
    services: Mapping[str, ServiceRecord] = field(default_factory=dict)
    streams: Mapping[str, StreamRecord] = field(default_factory=dict)
    entities: Mapping[str, EntityRecord] = field(default_factory=dict)

    @property
    def active_views(self) -> Mapping[str, ViewRecord]:
        """The view versions that count, by id."""
        return {name: one for name, one in self.views.items() if not one.is_removed}

    @property
    def active_services(self) -> Mapping[str, ServiceRecord]:
        """The services that count, by name."""
        return {name: one for name, one in self.services.items() if not one.is_removed}

    def versions(self, name: str) -> tuple[int, ...]:
        """Return the versions a view ever had, ascending."""
        return tuple(sorted(one.version for one in self.views.values() if one.name == name))

    def users(self, view: str) -> tuple[str, ...]:
        """Return the services that use a view version."""
        return tuple(name for name, one in self.active_services.items() if view in one.views)

    def after(self, plan: Plan, document: bytes, *, at_us: int, author: str) -> Registered:
        """Return what is known once a plan counts: what it lacks is removed."""
        revision = self.revision + 1
        engine = str(plan.stamp)
        left_views = _left(self.views, plan.views, at_us, author)
        left_services = _left(self.services, plan.services, at_us, author)
        views = {one.id: self._view(one, engine, at_us, author) for one in plan.views.values()}
        services = {
            name: self._service(one, revision, at_us, author) for name, one in plan.services.items()
        }
        streams = {name: StreamRecord.of(one) for name, one in plan.streams.items()}
        entities = {name: EntityRecord.of(one) for name, one in plan.entities.items()}
        return Registered(
            namespace=self.namespace,
            revision=revision,
            number=self.number,
            pending=True,
            document=document,
            views={**left_views, **views},
            services={**left_services, **services},
            streams={**self.streams, **streams},
            entities={**self.entities, **entities},
        )

    def _view(self, view: ViewPlan, engine: str, at_us: int, author: str) -> ViewRecord:
        made = ViewRecord.of(view, engine, at_us=at_us, author=author)
        known = self.views.get(view.id)
        if known is None or known.fingerprint != made.fingerprint:
            return made
        return replace(made, added_us=known.added_us, added_by=known.added_by)

    def _service(
        self, service: ServicePlan, revision: int, at_us: int, author: str
    ) -> ServiceRecord:
        known = self.services.get(service.service.name)
        number = 1 if known is None else known.number + 1
        made = ServiceRecord.of(service, number, revision, at_us=at_us, author=author)
        if known is None or known.is_removed:
            return made
        return known if known.about == made.about else made


def _left(
    records: Mapping[str, _Removable], kept: Container[str], at_us: int, author: str
) -> dict[str, _Removable]:
    """Return records, those that aren't kept as removed now."""
    return {
        name: one
        if one.is_removed or name in kept
        else replace(one, removed_us=at_us, removed_by=author)
        for name, one in records.items()
    }
