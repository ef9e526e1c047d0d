"""Applying: the registry is written, then the plans topic; whatever stops in between is healed.

The plans topic is the truth for workers, and several registries may write to it. So what the
registry knows is brought into step with the topic before anything is proposed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from headwater.errors import StateError
from headwater.plan.document import Document
from headwater.plan.stamp import engine_stamp
from headwater.registry.changes import Change, changes_of
from headwater.registry.errors import ConflictError

if TYPE_CHECKING:
    from headwater.flow.plans_topic import PlansTopic
    from headwater.registry.proposal import Proposal
    from headwater.registry.records import Registered
    from headwater.registry.registry import Registry

__all__ = ["Step", "apply", "in_step"]


@dataclass(frozen=True, slots=True)
class Step:
    """What a registry knows, and what the plans topic says; `changes` are between the two."""

    known: Registered
    found: Registered
    changes: tuple[Change, ...] = ()

    def write(self, registry: Registry, *, at_us: int) -> None:
        """Write down what was found, so that the registry is in step with the topic."""
        known, found = self.known, self.found
        if found.revision > known.revision:
            registry.write(known, found, self.changes, author="", at_us=at_us)
        elif found != known and not found.pending:
            registry.confirm(found.namespace, found.revision, found.number)


def in_step(known: Registered, topic: PlansTopic, *, at_us: int) -> Step:
    """Return what is registered as the plans topic says it is.

    Raises StateError for a plan in the topic that this registry never saw and that can't be read.
    """
    document = None if topic.applied is None else topic.applied.document
    if document == known.document:
        return Step(known, replace(known, number=topic.number, pending=False))
    if document is None or topic.number < known.number:
        # The topic was deleted and made again: what was applied is only in the registry.
        return Step(known, replace(known, number=topic.number, pending=True))
    if known.pending and topic.number == known.number:
        return Step(known, known)
    engine = Document.decode(document).engine
    if engine != str(engine_stamp()):
        msg = (
            f"plan number {topic.number} was applied with another registry by the engine {engine},"
            f" this is {engine_stamp()}: what it means can't be told here; use that registry"
            " (registry.url), or run this command once with that engine"
        )
        raise StateError(msg)
    plan = topic.plan()
    assert plan is not None
    found = known.after(plan, document, at_us=at_us, author="")
    said = f"plan number {topic.number}, applied with another registry"
    changes = tuple(
        replace(
            one,
            sentence=f"{one.sentence} ({said})",
            action="removed" if one.action == "kept" else one.action,
        )
        for one in changes_of(known, plan)
    )
    return Step(known, replace(found, number=topic.number, pending=False), changes)


def apply(
    registry: Registry, topic: PlansTopic, proposal: Proposal, *, author: str, at_us: int
) -> int:
    """Make a proposal count, and return its number in the plans topic.

    Raises ConflictError if somebody else applied since it was made. Applying again is always
    right: it does what is left to do.
    """
    assert not proposal.refused
    known = proposal.known
    wanted = known
    if proposal.document != known.document:
        wanted = known.after(proposal.plan, proposal.document, at_us=at_us, author=author)
        registry.write(known, wanted, proposal.changes, author=author, at_us=at_us)
    number = known.number + 1
    if not topic.apply(proposal.document, after=known.number):
        msg = (
            f'somebody else applied to namespace "{known.namespace}" at the same time: plan number'
            f" {number} is theirs; run it again: it shows what is left to change"
        )
        raise ConflictError(msg)
    registry.confirm(known.namespace, wanted.revision, number)
    return number
