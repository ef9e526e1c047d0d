"""Two people with a registry each, one topic, and crashes anywhere: nothing heard is ever lost.

What was applied is what workers hear, a version never changes its logic while it is there, and
the next command heals whatever stopped in the middle.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from registry_harness import known_of, plan_of, service, view

from headwater.errors import HeadwaterError, NotFoundError
from headwater.flow.plans_topic import PlansTopic
from headwater.registry.application import apply
from headwater.registry.errors import ConflictError
from headwater.registry.proposal import InUseError, Proposal, propose, propose_removal
from headwater.registry.registry import Registry
from headwater_connectors.log.memory import MemoryLog

PEOPLE = ("ann", "bob")
VERSIONS = st.integers(1, 3)
THRESHOLDS = st.integers(1, 2)


class CrashError(Exception):
    """The process died here."""


class Crashing:
    """A plans topic whose process dies before or after it has spoken."""

    def __init__(self, topic: PlansTopic, where: str) -> None:
        self._topic = topic
        self._where = where

    def apply(self, document: bytes, *, after: int) -> bool:
        if self._where == "before":
            raise CrashError
        heard = self._topic.apply(document, after=after)
        if self._where == "after":
            raise CrashError
        return heard


class People(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.log = MemoryLog()
        self.at_us = 0
        self.waiting: dict[str, tuple[PlansTopic, Proposal]] = {}
        self.heard: dict[str, str] = {}
        self.removed: set[str] = set()

    def registry(self, person: str) -> Registry:
        return Registry(f"sqlite:///{Path(self.folder.name)}/{person}.db")

    @rule(person=st.sampled_from(PEOPLE), version=VERSIONS, above=THRESHOLDS, serve=st.booleans())
    def propose(self, person: str, version: int, above: int, serve: bool) -> None:
        one = view(version, above)
        topic = PlansTopic(self.log, "shop")
        self.at_us += 1
        known = known_of(self.registry(person), topic, self.at_us)
        # In step: what is registered is what workers have heard, unless it waits to be told.
        if not known.pending:
            self._check(known.active_views, topic)
        proposal = propose(known, plan_of(service(one)) if serve else plan_of(one))
        if f"spend@{version}" in known.views:
            same = known.views[f"spend@{version}"].fingerprint
            assert bool(proposal.refused) == (
                same != plan_of(one).views[f"spend@{version}"].fingerprint
            )
        if not proposal.refused:
            self.waiting[person] = topic, proposal

    @rule(person=st.sampled_from(PEOPLE), version=VERSIONS)
    def propose_removal(self, person: str, version: int) -> None:
        topic = PlansTopic(self.log, "shop")
        known = known_of(self.registry(person), topic, self.at_us)
        try:
            self.waiting[person] = topic, propose_removal(known, "spend", version)
        except (NotFoundError, InUseError):
            self.waiting.pop(person, None)

    @rule(person=st.sampled_from(PEOPLE), crash=st.sampled_from(["", "", "before", "after"]))
    def apply(self, person: str, crash: str) -> None:
        if person not in self.waiting:
            return
        topic, proposal = self.waiting.pop(person)
        if not proposal.is_needed:
            return
        registry = self.registry(person)
        try:
            number = apply(
                registry,
                Crashing(topic, crash),  # type: ignore[arg-type]
                proposal,
                author=person,
                at_us=self.at_us,
            )
        except CrashError:
            return
        except ConflictError:
            # Somebody else was first: that it was told is what matters.
            assert PlansTopic(self.log, "shop").number > proposal.known.number or (
                registry.read("shop").revision != proposal.known.revision
            )
            return
        now = PlansTopic(self.log, "shop")
        known = registry.read("shop")
        assert (known.number, known.pending) == (number, False)
        assert now.number == number
        self._check(known.active_views, now)

    def _check(self, views, topic: PlansTopic) -> None:
        plan = topic.plan()
        heard = {} if plan is None else plan.views
        assert {name: one.fingerprint for name, one in views.items()} == {
            name: one.fingerprint for name, one in heard.items()
        }

    @invariant()
    def a_version_keeps_its_logic_while_it_is_there(self) -> None:
        plan = PlansTopic(self.log, "shop").plan()
        now = {} if plan is None else {n: one.fingerprint for n, one in plan.views.items()}
        for name, fingerprint in now.items():
            assert self.heard.get(name, fingerprint) == fingerprint
        for spending in [] if plan is None else plan.services.values():
            assert all(one.id in now for one in spending.views)
        self.heard = now

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        # Whatever happened, each of them can go on.
        for person in PEOPLE:
            topic = PlansTopic(self.log, "shop")
            known = known_of(self.registry(person), topic, self.at_us)
            proposal = propose(known, plan_of(view(9, 9, name=f"of_{person}")))
            try:
                apply(self.registry(person), topic, proposal, author=person, at_us=self.at_us)
            except HeadwaterError as error:
                raise AssertionError(person) from error
        self.folder.cleanup()


TestPeople = People.TestCase
TestPeople.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
