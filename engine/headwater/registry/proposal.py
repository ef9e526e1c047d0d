"""A proposal: what would count if definitions were applied, or a view version removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.definitions.dtype_text import dtype_of
from headwater.errors import HeadwaterError, NotFoundError, did_you_mean
from headwater.plan.describe import service_logic, view_logic
from headwater.plan.document import Document, write_document
from headwater.plan.packed import Packed
from headwater.plan.plan import compile_plan
from headwater.registry.changes import Change, changes_of, difference, service_change

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwater.plan.plan import Plan
    from headwater.registry.records import Registered, ServiceRecord

__all__ = ["InUseError", "Proposal", "propose", "propose_removal", "propose_return"]

_IDLE = frozenset(("unchanged", "kept"))


class InUseError(HeadwaterError):
    """A view version that a service is answered from."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is registered, what would count in its place, and the changes between the two."""

    known: Registered
    plan: Plan  # everything that would count, the definitions that stay among it
    document: bytes
    changes: tuple[Change, ...]

    @property
    def refused(self) -> tuple[Change, ...]:
        """The changes that can't be."""
        return tuple(one for one in self.changes if one.action == "refused")

    @property
    def is_needed(self) -> bool:
        """Whether anything would change, or what is registered has not reached the workers."""
        return self.known.pending or any(one.action not in _IDLE for one in self.changes)


def propose(known: Registered, wanted: Plan) -> Proposal:
    """Return what applying a plan would do; what it doesn't name stays as it is.

    Raises DefinitionError where the plan contradicts what stays.
    """
    changes = changes_of(known, wanted)
    if known.document is None or any(one.action == "refused" for one in changes):
        return _proposal(known, wanted, changes)
    below = Document.decode(known.document)
    if not below.is_of_this_engine:
        engine = f"it was applied by the engine {below.engine}, this is {wanted.stamp}"
        return _proposal(known, wanted, tuple(_foreign(one, engine) for one in changes))
    plan = compile_plan(Packed.of(wanted).over(below.packed()).definitions())
    broken = [*_broken_views(known, wanted, plan), *_broken_services(known, wanted, plan)]
    if not broken:
        broken = list(_broken_streams(known, below.packed(), plan))
    names = {(one.kind, one.name) for one in broken}
    others = (one for one in changes if (one.kind, one.name) not in names)
    return _proposal(known, plan, (*others, *broken))


def _broken_views(known: Registered, wanted: Plan, plan: Plan) -> Iterator[Change]:
    """Yield a refusal for each view that stays, and would not stay what it is."""
    for name, one in known.active_views.items():
        view = plan.views[name]
        keys = known.entities[one.entity].keys
        cure = f"leave it as it is, or remove the view first: headwater view remove {one.name}"
        if view.fingerprint != one.fingerprint:
            said = f'refused: it stays, and stream "{one.stream}" would change its logic; {cure}'
            lines = difference(one.logic, view_logic(view))
            yield Change("view", name, "refused", f"{said} {one.version}", lines)
        elif name not in wanted.views and view.entity.key != keys:
            said = f'refused: it stays, and entity "{one.entity}" would have another key; {cure}'
            lines = (
                f"- key         {', '.join(keys)}",
                f"+ key         {', '.join(view.entity.key)}",
            )
            yield Change("view", name, "refused", f"{said} {one.version}", lines)


def _broken_streams(known: Registered, below: Packed, plan: Plan) -> Iterator[Change]:
    """Yield a refusal for each stream with a column of another type than its history has.

    No view that stays reads such a column, but the archive's files keep it as it was.
    """
    for name in {one.stream for one in known.active_views.values()}:
        types = {column: dtype_of(raw) for column, raw in below.streams[name].columns}
        retyped = {
            column: (types[column], dtype)
            for column, dtype in plan.streams[name].schema.items()
            if types.get(column, dtype) != dtype
        }
        if retyped:
            said = "refused: a column keeps its type; give the new one another name"
            lines = (
                f"column {column}: {was} -> {now}" for column, (was, now) in sorted(retyped.items())
            )
            yield Change("stream", name, "refused", said, tuple(lines))


def _broken_services(known: Registered, wanted: Plan, plan: Plan) -> Iterator[Change]:
    """Yield a refusal for each service that stays, and would not answer as it does."""
    for name, one in known.active_services.items():
        service = plan.services[name]
        if name not in wanted.services and service.revision != one.revision:
            said = "refused: it stays, and the file would change its answers; define it there too"
            lines = difference(one.logic, service_logic(service))
            yield Change("service", name, "refused", said, lines)


def _proposal(known: Registered, plan: Plan, changes: tuple[Change, ...]) -> Proposal:
    return Proposal(known, plan, write_document(plan, known.namespace), changes)


def _foreign(change: Change, engine: str) -> Change:
    """Return a change; what another engine has applied can't stay without being defined anew."""
    if change.action != "kept":
        return change
    said = f"refused: {engine}; define it in this file too, so that it is applied anew"
    return Change(change.kind, change.name, "refused", said)


def propose_removal(known: Registered, name: str, version: int) -> Proposal:
    """Return what removing a view version would do.

    Raises NotFoundError for one that isn't there and InUseError for one that a service uses.
    """
    view = f"{name}@{version}"
    if view not in known.active_views or known.document is None:
        raise NotFoundError(_missing(known, name, version))
    users = known.users(view)
    if users:
        listed = ", ".join(f'"{one}"' for one in users)
        msg = (
            f'view "{name}" version {version} is used by service {listed}; apply the service with'
            " another version of the view first"
        )
        raise InUseError(msg)
    below = Document.decode(known.document)
    below.plan(known.namespace)
    plan = compile_plan(below.packed().without_view(view).definitions())
    said = "removed: its state is freed; its record stays, and its number is not used again"
    return _proposal(known, plan, (Change("view", view, "removed", said),))


def propose_return(known: Registered, earlier: ServiceRecord, document: bytes) -> Proposal:
    """Return what going back to an earlier revision of a service would do.

    `document` is the plan it was in. Raises NotFoundError where a view it needs was removed since,
    and StateError for a plan of another engine.
    """
    assert known.document is not None
    for view, fingerprint in earlier.views.items():
        now = known.active_views.get(view)
        if now is None or now.fingerprint != fingerprint:
            msg = (
                f'service "{earlier.name}" number {earlier.number} needs view {view}, which was'
                " removed; apply the view again first"
            )
            raise NotFoundError(msg)
    was, now_counts = Document.decode(document), Document.decode(known.document)
    for one in (was, now_counts):
        one.plan(known.namespace)
    service = was.packed().services[earlier.name]
    alone = Packed(streams={}, entities={}, views={}, services={earlier.name: service})
    plan = compile_plan(alone.over(now_counts.packed()).definitions())
    return _proposal(known, plan, (service_change(known, plan.services[earlier.name]),))


def _missing(known: Registered, name: str, version: int) -> str:
    record = known.views.get(f"{name}@{version}")
    if record is not None:
        by = f" by {record.removed_by}" if record.removed_by else ""
        return f'view "{name}" version {version} was removed{by} already; there is nothing to do'
    versions = [str(one.version) for one in known.active_views.values() if one.name == name]
    if versions:
        return f'view "{name}" has no version {version}; it has {", ".join(versions)}'
    names = {one.name for one in known.active_views.values()}
    return (
        f'no view "{name}" in namespace "{known.namespace}".{did_you_mean(name, names)} See'
        " headwater view list"
    )
