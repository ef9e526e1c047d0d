from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import kafka_broker
import pytest
from cluster_process import wait_until
from confluent_kafka.admin import AdminClient
from log_harness import PATIENCE_S, fill

from headwater.errors import ConfigError, NotFoundError
from headwater.flow.orphans import Orphans
from headwater_connectors.log.kafka import KafkaLog
from headwater_connectors.log.kafka_errors import KafkaUnreachableError
from headwater_connectors.log.kafka_groups import (
    committed,
    describe_group,
    members,
    owners_of,
    topics_of,
)
from headwater_connectors.log.log import Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kafka_broker import Broker

    from headwater_connectors.log.kafka_consumer import KafkaConsumer

pytestmark = pytest.mark.kafka


@pytest.fixture
def log(broker: Broker) -> Iterator[KafkaLog]:
    with closing(KafkaLog(broker.bootstrap_servers)) as log:
        yield log
        for topic in log.topics():
            if topic.name.startswith("groups."):
                log.delete_topic(topic.name)


@pytest.fixture(autouse=True)
def _no_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse the request that ends the process where a coordinator moves."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked through librdkafka's AdminClient")

    monkeypatch.setattr(AdminClient, "list_consumer_group_offsets", refuse)


def _join(log: KafkaLog, group: str, topic: str, name: str, **config: str) -> KafkaConsumer:
    """Return a member with names of its own that gives up without a word."""
    own = {"client.id": f"{name}:6566", "group.instance.id": name}
    own |= {key.replace("_", "."): value for key, value in config.items()}
    consumer = log.consumer(group, config=own)
    consumer.subscribe(topic, lambda given: dict.fromkeys(given, 0), lambda _taken, *, lost: None)
    return consumer


def _settle(log: KafkaLog, group: str, consumers: list[KafkaConsumer], partitions: int) -> None:
    """Poll until every member has something and nothing is left over."""
    for _ in range(int(PATIENCE_S / 0.1)):
        for consumer in consumers:
            consumer.poll(10, 0.05)
        found = describe_group(log, group)
        counts = [sum(map(len, each.partitions.values())) for each in found.members]
        if found.state == "stable" and sum(counts) == partitions and len(counts) == len(consumers):
            return
    pytest.fail(f"the group did not settle: {found}")


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"partition_assignment_strategy": "cooperative-sticky"}, id="classic"),
        pytest.param({"group_protocol": "consumer"}, id="KIP-848"),
    ],
)
def test_members_are_named_with_the_partitions_they_own(log: KafkaLog, config, request) -> None:
    group = f"g-{request.node.callspec.id}"
    log.create_topic("groups.t", partitions=3, append_time=False)
    with (
        closing(_join(log, group, "groups.t", "a", **config)) as one,
        closing(_join(log, group, "groups.t", "b", **config)) as two,
    ):
        _settle(log, group, [one, two], 3)
        found = members(log, group)
        assert [member.instance_id for member in found] == ["a", "b"]
        assert [member.client_id for member in found] == ["a:6566", "b:6566"]
        assert all(set(member.partitions) == {"groups.t"} for member in found)
        owned = [p for member in found for p in member.partitions["groups.t"]]
        assert sorted(owned) == [0, 1, 2]
        assert len({member.member_id for member in found}) == 2
        if "group_protocol" not in config:
            owners = owners_of(log, group, "groups.t")
            by_member = {m.client_id: m.partitions["groups.t"] for m in found}
            assert owners == {p: name for name, parts in by_member.items() for p in parts}
            assert owners_of(log, group, "groups.other") == {}


def test_a_group_nobody_joined_is_empty(log: KafkaLog) -> None:
    found = describe_group(log, "nobody")
    assert (found.state, found.members) == ("empty", ())
    assert owners_of(log, "nobody", "groups.t") is None
    log.create_topic("groups.t", partitions=1, append_time=False)
    assert committed(log, "nobody", "groups.t") == {}
    assert topics_of(log, "nobody") == ()


def test_committed_counts_only_for_the_topic_that_is_there_now(log: KafkaLog) -> None:
    log.create_topic("groups.t", partitions=2, append_time=False)
    with closing(log.consumer("keeper")) as consumer:
        consumer.commit("groups.t", {1: 7})
    assert committed(log, "keeper", "groups.t") == {1: 7}
    assert topics_of(log, "keeper") == ("groups.t",)
    log.delete_topic("groups.t")
    with pytest.raises(NotFoundError, match=r'"groups\.t"'):
        committed(log, "keeper", "groups.t")
    log.create_topic("groups.t", partitions=2, append_time=False)
    assert committed(log, "keeper", "groups.t") == {}


def test_offsets_and_topics_of_a_group_are_asked_of_no_admin_client(log: KafkaLog) -> None:
    for name in ("groups.a", "groups.b", "groups.c"):
        log.create_topic(name, partitions=3, append_time=False)
    with closing(log.consumer("counts")) as consumer:
        consumer.commit("groups.a", {0: 4, 2: 0})
        consumer.commit("groups.c", {1: 9})
    assert committed(log, "counts", "groups.a") == {0: 4, 2: 0}
    assert committed(log, "counts", "groups.b") == {}
    assert topics_of(log, "counts") == ("groups.a", "groups.c")
    assert topics_of(log, "no-such-group") == ()


def test_who_asks_is_no_member_and_moves_no_task(log: KafkaLog) -> None:
    log.create_topic("groups.a", partitions=2, append_time=False)
    moved: list[list[int]] = []

    def given(partitions: list[int]) -> dict[int, int]:
        moved.append(partitions)
        return dict.fromkeys(partitions, 0)

    def taken(partitions: list[int], *, lost: bool) -> None:
        moved.append(partitions)
        assert not lost

    with closing(log.consumer("watched")) as consumer:
        consumer.subscribe("groups.a", given, taken)
        for _ in range(int(PATIENCE_S / 0.1)):
            consumer.poll(10, 0.1)
            if moved:
                break
        consumer.commit("groups.a", {0: 1, 1: 2})
        before = members(log, "watched")
        for _ in range(3):
            assert committed(log, "watched", "groups.a") == {0: 1, 1: 2}
            assert topics_of(log, "watched") == ("groups.a",)
            consumer.poll(10, 0.1)
        assert members(log, "watched") == before
        assert len(moved) == 1


def _members(log: KafkaLog) -> None:
    members(log, "g")


def _owners(log: KafkaLog) -> None:
    owners_of(log, "g", "t")


def _offsets(log: KafkaLog) -> None:
    log.cluster.committed("g", Topic("t", "id", 1, append_time=False))


@pytest.mark.parametrize(
    ("ask", "doing"),
    [(_members, "look up"), (_owners, "look up"), (_offsets, "offsets of")],
)
def test_an_unreachable_broker_is_named(ask: Callable[[KafkaLog], None], doing: str) -> None:
    with (
        closing(KafkaLog("127.0.0.1:1", timeout_s=0.3)) as log,
        pytest.raises(KafkaUnreachableError, match=doing + r' group "g".*127\.0\.0\.1:1'),
    ):
        ask(log)


@pytest.mark.parametrize("ask", [_members, _offsets])
def test_who_has_no_right_on_a_group_is_told(
    broker: Broker, ask: Callable[[KafkaLog], None]
) -> None:
    if broker.secured_servers is None:
        pytest.skip("this broker has no listener with credentials")
    name, password = kafka_broker.BROKER_USER
    config = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": name,
        "sasl.password": password,
    }
    with (
        closing(KafkaLog(broker.secured_servers, config=config)) as log,
        pytest.raises(ConfigError, match="grant this user the right on the group"),
    ):
        ask(log)


def test_a_member_that_was_fenced_joins_anew_and_one_of_two_with_an_id_gives_up(
    log: KafkaLog,
) -> None:
    log.create_topic("groups.t", partitions=2, append_time=False)
    fill(log, "groups.t", 0, 3)
    told: list[tuple[list[int], bool]] = []
    consumer = log.consumer("fenced", config={"group.instance.id": "a", "client.id": "a:1"})
    consumer.subscribe(
        "groups.t",
        lambda given: dict.fromkeys(given, 0),
        lambda taken, *, lost: told.append((taken, lost)),
    )

    def read_all() -> None:
        for _ in range(int(PATIENCE_S / 0.1)):
            if any(len(run) == 3 for run in consumer.poll(10, 0.1)):
                return
        pytest.fail("the member has not come back")

    def fence() -> None:
        """Let another one with its id in, which dies and leaves nothing behind."""
        joined: list[int] = []

        def assigned(given: list[int]) -> dict[int, int]:
            joined.extend(given)
            return dict.fromkeys(given, 0)

        with closing(log.consumer("fenced", config={"group.instance.id": "a"})) as other:
            other.subscribe("groups.t", assigned, lambda _, *, lost: None)
            for _ in range(int(PATIENCE_S / 0.1)):
                other.poll(10, 0.1)
                if joined:
                    return
        pytest.fail("the other has not joined")

    with closing(consumer):
        read_all()
        for _ in range(3):
            fence()
            read_all()
        assert [(sorted(taken), lost) for taken, lost in told if taken] == [([0, 1], True)] * 3
        fence()
        with pytest.raises(ConfigError, match="give every worker an id of its own"):
            read_all()


# Takes what a group gives it, and dies when it is to give some of it up.
_DIES = """
import os, sys
from headwater_connectors.log.kafka import KafkaLog

log = KafkaLog(sys.argv[1])
consumer = log.consumer("orphaned", config={"group.instance.id": "a", "client.id": "a:1"})
consumer.subscribe(
    "groups.t", lambda given: dict.fromkeys(given, 0), lambda taken, *, lost: os._exit(9)
)
while True:
    consumer.poll(10, 0.1)
"""


def test_partitions_that_are_nobodys_get_an_owner(broker: Broker, log: KafkaLog) -> None:
    log.create_topic("groups.t", partitions=4, append_time=False)
    log.create_topic("groups.plans", partitions=1, append_time=False)

    def owned() -> set[int]:
        return set(owners_of(log, "orphaned", "groups.t") or ())

    with subprocess.Popen([sys.executable, "-c", _DIES, broker.bootstrap_servers]) as dies:
        wait_until(lambda: owned() == {0, 1, 2, 3}, "one has everything")
        with closing(_join(log, "orphaned", "groups.t", "b")) as two:
            wait_until(lambda: two.poll(10, 0.05) or dies.poll() is not None, "it dies")
    assert dies.returncode == 9
    # Both come back as who they were; the second round is nobody's business any more.
    with (
        closing(_join(log, "orphaned", "groups.t", "a")) as one,
        closing(_join(log, "orphaned", "groups.t", "b")) as two,
        _polled(one, two),
    ):
        now_s = 0.0
        orphans = Orphans(
            log,
            "groups.plans",
            is_stopped=lambda: False,
            clock=lambda: now_s,
        )
        wait_until(lambda: 0 < len(owned()) < 4, "some are nobody's")
        orphans.look([("orphaned", "groups.t")])
        assert 0 < len(owned()) < 4
        now_s += 5
        orphans.look([("orphaned", "groups.t")])
        wait_until(lambda: owned() == {0, 1, 2, 3}, "all have an owner")
        assert describe_group(log, "orphaned").state == "stable"


@contextmanager
def _polled(*consumers: KafkaConsumer) -> Iterator[None]:
    """Let members of a group do their part."""
    done = threading.Event()

    def poll(consumer: KafkaConsumer) -> None:
        while not done.is_set():
            consumer.poll(10, 0.05)

    threads = [threading.Thread(target=poll, args=(each,), daemon=True) for each in consumers]
    for thread in threads:
        thread.start()
    yield
    done.set()
    for thread in threads:
        thread.join(PATIENCE_S)
