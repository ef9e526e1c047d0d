"""The plans topic: of two that speak at once one is heard, and everyone hears the same one."""

from __future__ import annotations

import random
import threading

import msgspec
import polars as pl
import pytest
from harness import clicks_plan

import headwater as hw
from headwater.errors import DefinitionError, StateError
from headwater.flow import plans_topic
from headwater.flow.plans_topic import Applied, PlansTopic
from headwater.plan.document import DOCUMENT_BYTES_MAX, write_document
from headwater.plan.plan import compile_plan
from headwater_connectors.log.memory import MemoryLog


def document(namespace: str = "shop") -> bytes:
    return write_document(clicks_plan(), namespace)


def say(log: MemoryLog, record: object) -> None:
    log.create_topic("shop.plans", partitions=1, append_time=True)
    producer = log.producer()
    producer.send("shop.plans", 0, msgspec.json.encode(record))
    producer.close()


def test_nothing_is_applied_in_a_new_namespace() -> None:
    topic = PlansTopic(MemoryLog(), "shop")
    assert (topic.applied, topic.number, topic.plan()) == (None, 0, None)


def test_what_is_applied_is_what_others_read() -> None:
    log = MemoryLog()
    topic = PlansTopic(log, "shop")
    assert topic.apply(document(), after=0)
    other = PlansTopic(log, "shop")
    assert other.number == 1
    assert repr(other.plan()) == repr(clicks_plan())
    assert other.agree_on_shards(None, 4) == 4
    assert other.apply(document(), after=1)
    topic.read()
    assert (topic.number, topic.shards) == (2, 4)


def test_of_two_that_apply_at_once_one_is_heard_and_the_other_told() -> None:
    log = MemoryLog()
    first, second = PlansTopic(log, "shop"), PlansTopic(log, "shop")
    assert first.apply(b"one", after=0)
    # It hasn't heard the first one yet, so it speaks as well.
    assert not second.apply(b"two", after=0)
    assert second.applied == first.applied
    assert second.applied is not None
    assert second.applied.document == b"one"
    third = PlansTopic(log, "shop")
    assert third.applied == first.applied
    # Now it has heard: it doesn't even speak.
    ends = log.end_offsets("shop.plans")
    assert not second.apply(b"two", after=0)
    assert log.end_offsets("shop.plans") == ends
    assert second.apply(b"two", after=1)


def test_many_that_apply_at_once_take_turns() -> None:
    log = MemoryLog()
    heard = []
    start = threading.Barrier(6)

    def apply(who: int) -> None:
        topic = PlansTopic(log, "shop")
        start.wait()
        while not topic.apply(str(who).encode(), after=topic.number):
            pass
        heard.append((topic.number, str(who).encode()))

    threads = [threading.Thread(target=apply, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(number for number, _ in heard) == [1, 2, 3, 4, 5, 6]
    last = PlansTopic(log, "shop").applied
    assert last is not None
    assert (6, last.document) in heard


def test_a_record_out_of_its_turn_is_not_heard() -> None:
    log = MemoryLog()
    for number in (2, 0, -1, 7):
        say(log, Applied(number, b"x"))
    assert PlansTopic(log, "shop").applied is None
    say(log, Applied(1, b"x"))
    say(log, Applied(1, b"y"))
    assert PlansTopic(log, "shop").applied == Applied(1, b"x")


def test_a_plan_of_another_namespace_is_refused() -> None:
    topic = PlansTopic(MemoryLog(), "shop")
    topic.apply(document("dev"), after=0)
    with pytest.raises(StateError, match='of namespace "dev", not "shop"'):
        topic.plan()


def test_a_plan_that_cannot_be_unpacked_or_grows_without_bound_is_refused() -> None:
    log = MemoryLog()
    say(log, Applied(1, b"no zlib"))
    topic = PlansTopic(log, "shop")
    with pytest.raises(StateError, match="plan number 1 can't be unpacked"):
        topic.plan()
    assert topic.apply(bytes(DOCUMENT_BYTES_MAX * 4), after=1)
    assert topic.applied is not None
    assert len(topic.applied.document) == DOCUMENT_BYTES_MAX + 1
    with pytest.raises(StateError, match="at most"):
        topic.plan()
    # What is applied next heals it.
    assert topic.apply(document(), after=2)
    assert topic.plan() is not None


def test_a_document_too_big_for_a_record_is_refused_before_it_is_said() -> None:
    log = MemoryLog()
    topic = PlansTopic(log, "shop")
    noise = random.Random(0).randbytes(plans_topic.RECORD_BYTES_MAX)
    with pytest.raises(DefinitionError, match="split them into two namespaces"):
        topic.apply(noise, after=0)
    assert topic.applied is None


def test_a_thousand_features_fit_one_record() -> None:
    stream = hw.stream(
        "clicks",
        schema={"user": pl.String, "x": pl.Float64, "at": pl.Int64},
        event_time=hw.epoch("at", "us"),
    )
    views = [
        hw.view(
            f"view_{n}",
            description=f"what number {n} is for, and who asked for it",
            features=stream.filter(pl.col("x") > n)
            .group_by(hw.entity("user", key="user"))
            .window("1h", "7d")
            .agg(n=hw.count(), s=hw.sum("x"), m=hw.mean("x"), v=hw.var("x"), w=hw.max("x")),
        )
        for n in range(100)
    ]
    topic = PlansTopic(MemoryLog(), "shop")
    assert topic.apply(write_document(compile_plan(views), "shop"), after=0)
    assert topic.applied is not None
    assert len(topic.applied.packed) < plans_topic.RECORD_BYTES_MAX / 10
