"""A proposal for people and for machines: what each change will do, before anyone agrees."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headwater.cli.place import clock_us

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater.cli.place import Place
    from headwater.registry.changes import Change
    from headwater.registry.proposal import Proposal
    from headwater.registry.reach import Reach

__all__ = ["Proposed"]

_SUMMED = {"unchanged": "unchanged", "kept": "not in this file, kept"}


@dataclass(frozen=True)
class Proposed:
    """A proposal, and how far the history reaches of the streams that new views read.

    `note` says why history isn't known; a stream without a reach has no topic yet.
    """

    proposal: Proposal
    reaches: Mapping[str, Reach | None] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def at(cls, place: Place, proposal: Proposal) -> Proposed:
        """Ask a place for the history of every stream that a new view reads."""
        streams = {
            view.stream.topic: view.stream
            for change in proposal.changes
            if change.kind == "view" and change.action == "new"
            for view in (proposal.plan.views[change.name],)
        }
        return cls(proposal, {name: place.reach(one) for name, one in streams.items()})

    def lines(self) -> list[str]:
        """Return every change with what it does, unchanged ones as their number."""
        known = self.proposal.known
        after = f" after plan number {known.number}" if known.number else ""
        lines = [f'changes to namespace "{known.namespace}"{after}:']
        for change in self.proposal.changes:
            if change.action not in _SUMMED:
                lines.append(f"  {change}")
                lines += [f"      {line}" for line in (*change.details, *self._history(change))]
        for action, words in _SUMMED.items():
            names = [one.name for one in self.proposal.changes if one.action == action]
            if names:
                lines.append(f"  {len(names)} {words}: {', '.join(names)}")
        if known.pending and known.revision:
            lines.append("  what is registered has not reached the workers yet, and now will")
        elif not self.proposal.is_needed:
            lines.append("  nothing to do")
        return [*lines, *([f"  {self.note}"] if self.note else [])]

    def _history(self, change: Change) -> tuple[str, ...]:
        if change.kind != "view" or change.action != "new":
            return ()
        view = self.proposal.plan.views[change.name]
        topic = view.stream.topic
        if topic not in self.reaches:
            return ()
        reach = self.reaches[topic]
        if reach is None:
            return (f"topic {topic} is not there yet; make it before workers start",)
        return reach.sentences(view.view.features.windows, clock_us())

    def facts(self) -> dict[str, Any]:
        """Return the same as plain data that can be written as JSON."""
        known = self.proposal.known
        return {
            "namespace": known.namespace,
            "number": known.number,
            "needed": self.proposal.is_needed,
            "changes": [
                {
                    "kind": one.kind,
                    "name": one.name,
                    "action": one.action,
                    "says": one.sentence,
                    "details": list(one.details),
                    "history": list(self._history(one)),
                }
                for one in self.proposal.changes
            ],
            "history": {
                name: None
                if one is None
                else {
                    "events": one.events,
                    "size_bytes": one.size_bytes,
                    "begins_us": one.begins_us,
                }
                for name, one in self.reaches.items()
            },
            "note": self.note,
        }
