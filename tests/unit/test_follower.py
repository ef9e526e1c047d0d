"""The follower: newer plans are offered to a running worker, and none can end it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl
import pytest
from harness import BASE_US

import headwater as hw
from headwater.errors import NotFoundError
from headwater.flow.follower import Follower
from headwater.flow.metrics import Metrics
from headwater.flow.plans_topic import PlansTopic
from headwater.flow.running import CurrentPlan
from headwater.plan.document import write_document
from headwater.plan.plan import compile_plan
from headwater_connectors.log.log import LogUnreachableError
from headwater_connectors.log.memory import MemoryLog

if TYPE_CHECKING:
    from headwater.flow.running import Running
    from headwater.plan.plan import Plan

clicks = hw.stream(
    "clicks", schema={"user": pl.String, "at": pl.Int64}, event_time=hw.epoch("at", "us")
)


def plan_of(*windows: str, name: str = "counts") -> Plan:
    by_user = clicks.group_by(hw.entity("user", key="user"))
    return compile_plan(
        [
            hw.view(name, version=version, features=by_user.window(window).agg(n=hw.count()))
            for version, window in enumerate(windows, 1)
        ]
    )


class World:
    """A plans topic with one plan, and a worker that runs it."""

    def __init__(self) -> None:
        self.log = MemoryLog(clock=lambda: BASE_US)
        self.topic = PlansTopic(self.log, "shop")
        self.apply(plan_of("1h"))
        plan = self.topic.plan()
        assert plan is not None
        self.current = CurrentPlan(plan, 1)
        self.metrics = Metrics()
        self.offered: list[Running] = []
        self.prepared: list[Plan] = []
        self.follower = Follower(
            self.log,
            "shop",
            self.current,
            self.metrics,
            prepare=lambda _, plan: self.prepared.append(plan),
            offer=self.offered.append,
        )

    def apply(self, plan: Plan, namespace: str = "shop") -> None:
        number = self.topic.number
        assert self.topic.apply(write_document(plan, namespace), after=number)

    def look(self) -> list[int]:
        """Look, let the shards adopt what is offered, and return the numbers offered by now."""
        self.follower.look()
        if self.offered:
            self.current.now = self.offered[-1]
        return [one.number for one in self.offered]

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)


@pytest.fixture
def world() -> World:
    return World()


def test_each_newer_plan_is_offered_once_when_it_was_prepared(world: World) -> None:
    assert world.look() == []
    world.apply(plan_of("1h", "2h"))
    assert world.look() == world.look() == [2]
    assert [set(plan.views) for plan in world.prepared] == [{"counts@1", "counts@2"}]
    world.follower.look()
    assert world.metric("headwater_plan_number") == 2
    world.apply(plan_of("1h"))
    world.apply(plan_of("1h", "2h", "3h"))
    # Of what came in between nobody needs to know.
    assert world.look() == [2, 4]
    assert world.follower.refused == ""


@pytest.mark.parametrize(
    ("namespace", "change", "said"),
    [
        ("other", {}, 'of namespace "other", not "shop"'),
        ("shop", {"engine": "another"}, "of the engine another"),
        ("shop", {"format": 9}, "format 9, this version reads 1"),
        ("shop", {"sha256": "0"}, "fails its checksum"),
    ],
)
def test_a_plan_that_is_not_for_this_worker_leaves_it_as_it_was(
    world: World, namespace: str, change: dict[str, Any], said: str
) -> None:
    written = write_document(plan_of("1h", "2h"), namespace)
    changed = msgspec.json.encode(msgspec.json.decode(written) | change)
    assert world.topic.apply(changed if change else written, after=1)
    assert world.look() == world.look() == []
    assert said in world.follower.refused
    assert world.metric("headwater_plan_refused") == 1
    assert world.metric("headwater_plan_number") == 1
    # The one that comes after it may be right again.
    world.apply(plan_of("1h", "2h"))
    assert world.look() == [3]
    assert (world.follower.refused, world.metric("headwater_plan_refused")) == ("", 0)


def test_a_record_of_another_version_leaves_the_plan_as_it_was(world: World) -> None:
    producer = world.log.producer()
    producer.send("shop.plans", 0, b'{"type":"renamed"}')
    producer.flush()
    assert world.look() == world.look() == []
    assert "the record at offset 1 is none of ours" in world.follower.refused


def test_other_logic_under_the_same_version_is_refused(world: World) -> None:
    world.apply(plan_of("2h"))
    assert world.look() == []
    assert "has other logic than the one that runs; give it version=2" in world.follower.refused


def test_other_logic_is_taken_once_the_view_has_left(world: World) -> None:
    world.apply(plan_of("1h", name="others"))
    world.follower.look()
    assert [one.number for one in world.offered] == [2]
    world.apply(plan_of("2h"))
    # The shards still have state of the version before.
    world.follower.look()
    assert "has other logic" in world.follower.refused
    world.current.now = world.offered[-1]
    assert world.look() == [2, 3]


def test_what_cannot_be_prepared_is_tried_again(world: World) -> None:
    topics: list[str] = []

    def prepare(topic: PlansTopic, plan: Plan) -> None:
        if not topics:
            raise NotFoundError('topic "clicks" does not exist')

    world.follower._prepare = prepare
    world.apply(plan_of("1h", "2h"))
    assert world.look() == []
    assert world.follower.refused == 'topic "clicks" does not exist'
    topics.append("clicks")
    assert world.look() == [2]
    assert world.follower.refused == ""


def test_a_broker_that_is_away_is_no_refusal(world: World, monkeypatch) -> None:
    world.look()
    world.apply(plan_of("1h", "2h"))

    def away(_: str) -> list[int]:
        raise LogUnreachableError("no broker answers")

    with monkeypatch.context() as outage:
        outage.setattr(world.log, "end_offsets", away)
        assert world.look() == []
        assert world.follower.refused == ""
    assert world.look() == [2]
