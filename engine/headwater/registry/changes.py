"""What definitions would change of what is registered, in words a person can agree to."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from headwater.plan.describe import service_logic, stream_logic, view_logic
from headwater.registry.records import on_demand_features

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from headwater.plan.plan import Plan, ServicePlan, ViewPlan
    from headwater.registry.records import Registered, ViewRecord

__all__ = [
    "Action",
    "Change",
    "causes",
    "changes_of",
    "difference",
    "lines_of",
    "service_change",
    "view_difference",
]

Action: TypeAlias = Literal["new", "changed", "metadata", "unchanged", "kept", "removed", "refused"]
Kind: TypeAlias = Literal["stream", "entity", "view", "service"]


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one definition: one sentence, and the lines that show it."""

    kind: Kind
    name: str
    action: Action
    sentence: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.sentence}"


def changes_of(registered: Registered, plan: Plan) -> tuple[Change, ...]:
    """Return what a plan would change, refused changes among them; nothing is written."""
    views, services = registered.active_views, registered.active_services
    kept: list[tuple[Kind, str]] = [("view", view) for view in views if view not in plan.views]
    kept += [("service", name) for name in services if name not in plan.services]
    return (
        *_streams(registered, plan),
        *_entities(registered, plan),
        *(_view(registered, view) for view in plan.views.values()),
        *(service_change(registered, service) for service in plan.services.values()),
        *(Change(kind, name, "kept", "kept: it is not in this file") for kind, name in kept),
    )


def lines_of(changes: Iterable[Change]) -> list[str]:
    """Return changes as lines of text, the details below each."""
    lines = []
    for change in changes:
        lines += [str(change), *(f"    {line}" for line in change.details)]
    return lines


def _streams(registered: Registered, plan: Plan) -> Iterable[Change]:
    for name, stream in plan.streams.items():
        logic = stream_logic(stream)
        known = registered.streams.get(name)
        if known is None:
            yield Change("stream", name, "new", "new: workers will read its topic")
        elif lines := difference(known.logic, logic):
            yield Change("stream", name, "changed", _stream_sentence(lines), lines)
        elif known.start != str(stream.start):
            begins = f"start: {known.start} -> {stream.start}"
            sentence = "start changed; it counts only where a stream begins anew"
            yield Change("stream", name, "metadata", sentence, (begins,))
        else:
            yield Change("stream", name, "unchanged", "unchanged")


def _stream_sentence(lines: Iterable[str]) -> str:
    if not all(line.startswith("+ column") for line in lines):
        return "changed"
    return (
        "has more columns: views that don't read them stay as they are; a record that has another"
        " type in one becomes a dead letter"
    )


def _entities(registered: Registered, plan: Plan) -> Iterable[Change]:
    for name, entity in plan.entities.items():
        known = registered.entities.get(name)
        keys = ", ".join(entity.key)
        if known is None:
            yield Change("entity", name, "new", f"new: keyed by {keys}")
        elif known.keys != entity.key:
            detail = f"key: {', '.join(known.keys)} -> {keys}"
            yield Change("entity", name, "changed", "changed", (detail,))
        elif known.description != entity.description:
            detail = _edit("description", known.description, entity.description)
            yield Change("entity", name, "metadata", "description changed", (detail,))
        else:
            yield Change("entity", name, "unchanged", "unchanged")


def _view(registered: Registered, view: ViewPlan) -> Change:
    known = registered.views.get(view.id)
    versions = registered.versions(view.view.name)
    if known is None:
        beside = [one for one in versions if f"{view.view.name}@{one}" in registered.active_views]
        others = ", ".join(f"{view.view.name}@{one}" for one in beside)
        sentence = f"new, beside {others}" if others else "new"
        return Change("view", view.id, "new", f"{sentence}: state of its own, built from history")
    if known.fingerprint != view.fingerprint:
        return _refused(known, view, max(versions) + 1)
    if known.is_removed:
        sentence = "was removed and comes back: its state is built anew, from history"
        return Change("view", view.id, "new", sentence)
    edits = _view_edits(known, view)
    if edits:
        return Change("view", view.id, "metadata", "logic unchanged, metadata changed", edits)
    return Change("view", view.id, "unchanged", "unchanged")


def _refused(known: ViewRecord, view: ViewPlan, free: int) -> Change:
    was = "was removed, and had other logic" if known.is_removed else "has other logic"
    return Change(
        "view",
        view.id,
        "refused",
        f"refused: version {known.version} {was}; give the new logic version={free}",
        difference(known.logic, view_logic(view)),
    )


def _view_edits(known: ViewRecord, view: ViewPlan) -> tuple[str, ...]:
    pairs = (
        ("owner", known.owner, view.view.owner),
        ("description", known.description, view.view.description),
        ("tags", ", ".join(known.tags), ", ".join(view.view.tags)),
    )
    return tuple(_edit(label, old, new) for label, old, new in pairs if old != new)


def service_change(registered: Registered, service: ServicePlan) -> Change:
    """Return what would become of a service."""
    name, one = service.service.name, service.service
    known, views = registered.active_services.get(name), registered.active_views
    if known is None:
        uses = ", ".join(view.id for view in service.views)
        return Change("service", name, "new", f"new: {len(one.columns)} features of {uses}")
    pairs = (
        ("owner", known.owner, one.owner),
        ("description", known.description, one.description),
    )
    said = on_demand_features(service)
    about = ((name, known.features.get(name, ""), text) for name, text in said.items())
    edits = tuple(_edit(label, old, new) for label, old, new in (*pairs, *about) if old != new)
    if known.revision != service.revision:
        lines = difference(known.logic, service_logic(service))
        why = lines or ("the logic of its views, or the engine",)
        sentence = "changed: answers come from the new revision at once"
        details = (*why, *edits, *_warming(service, views))
        return Change("service", name, "changed", sentence, details)
    if edits:
        return Change("service", name, "metadata", "answers unchanged, metadata changed", edits)
    return Change("service", name, "unchanged", "unchanged")


def _warming(service: ServicePlan, views: Container[str]) -> Iterable[str]:
    """Yield a warning where a service that is being served moves to a view that has no values."""
    new = [view.id for view in service.views if view.id not in views]
    if new:
        yield (
            f"{', '.join(new)} is new: its values say WARMING until it is built; apply the view"
            " first and the service when it is there, to answer all the time"
        )


def difference(known: str, logic: Iterable[str]) -> tuple[str, ...]:
    """Return the lines that differ, those of before with a minus, those of now with a plus."""
    lines = difflib.ndiff(known.splitlines(), list(logic))
    return tuple(line.rstrip() for line in lines if line[0] in "+-")


def view_difference(old: ViewPlan, new: ViewPlan) -> tuple[str, ...]:
    """Return the lines in which the logic of two views differs."""
    return difference("\n".join(view_logic(old)), view_logic(new))


def causes(old: ViewPlan, new: ViewPlan, feature: str) -> tuple[str, ...]:
    """Say what in two views can make a feature of that name differ; nothing where nothing can."""
    changed = dict.fromkeys(map(_changed, view_difference(old, new)))
    rows = [name for name in changed if name not in {"window", "feature"}]
    found = [f"other rows: {', '.join(rows)}"] if rows else []
    before, after = (_meaning(view, feature) for view in (old, new))
    pairs = zip(before, after, strict=True)
    return (*found, *(f"{was} -> {now}" for was, now in pairs if was != now))


def _changed(line: str) -> str:
    """Return what a line of a difference is about; of a step, which one it is."""
    label, _, text = line[2:].partition("  ")
    return text.strip(" (").split(" ")[0] if label == "step" else label


def _meaning(view: ViewPlan, feature: str) -> tuple[str, ...]:
    (one,) = (one for one in view.view.features.features if one.name == feature)
    return str(one.aggregate), f"window {one.window}", str(one.dtype)


def _edit(label: str, old: str, new: str) -> str:
    before, after = (" ".join(text.split()) or "(none)" for text in (old, new))
    return f"{label}: {before} -> {after}"
