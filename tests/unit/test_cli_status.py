from __future__ import annotations

import io
from types import SimpleNamespace

import msgspec
import pytest
from rich.console import Console

from headwater.cli.overview import Overview, overview_of
from headwater.cli.status import show
from headwater.errors import HeadwaterError, NotFoundError
from headwater.flow.membership import member_name
from headwater.flow.status import TaskStatus, WorkerStatus
from headwater_connectors.log.log import Topic


def member(name: str, target: str, topic: str, *partitions: int) -> SimpleNamespace:
    """Return a member as Kafka's client describes one."""
    owned = [SimpleNamespace(topic=topic, partition=partition) for partition in partitions]
    return SimpleNamespace(
        member_id=f"{name}-{topic}",
        client_id=target,
        group_instance_id=member_name(name, target, topic),
        host="/127.0.0.1",
        assignment=SimpleNamespace(topic_partitions=owned),
    )


class FakeCluster:
    """A cluster with a namespace "shop", two workers, and a topic of two partitions."""

    servers = "kafka:9092"

    def __init__(self) -> None:
        self.groups = {
            "shop.ingest": [member("a", "a:1", "orders", 0), member("b", "b:1", "orders", 1)],
            "shop.shards": [
                member("a", "a:1", "shop.exchange", 0),
                member("b", "b:1", "shop.exchange", 1),
            ],
        }
        self.states: dict[str, str] = {}
        self.ends = {"orders": [100, 50], "shop.exchange": [10, 20, 30]}
        self.stored = {
            ("shop.ingest", "orders"): {0: 90, 1: 50},
            ("shop.shards", "shop.exchange"): {0: 10, 1: 5, 2: 7},
        }

    def names(self) -> list[str]:
        return sorted(self.ends)

    def describe_group(self, name: str) -> SimpleNamespace | None:
        if name not in self.groups:
            return None
        state = SimpleNamespace(name=self.states.get(name, "STABLE"))
        return SimpleNamespace(members=self.groups[name], state=state)

    def committed_topics(self, group: str) -> tuple[str, ...]:
        return tuple(sorted(topic for name, topic in self.stored if name == group))

    def committed(self, group: str, topic: Topic) -> dict[int, int]:
        return self.stored.get((group, topic.name), {})


class FakeLog:
    def __init__(self) -> None:
        self.cluster = FakeCluster()

    def topic(self, name: str) -> Topic:
        if name not in self.cluster.ends:
            raise NotFoundError(f'no topic "{name}"')
        return Topic(name, "id", len(self.cluster.ends[name]), append_time=True)

    def end_offsets(self, name: str) -> list[int]:
        self.topic(name)
        return self.cluster.ends[name]


def task(kind: str, topic: str, partition: int, next_offset: int, **more) -> TaskStatus:
    values = {"state": "running", "end_offset": None, **more}
    return TaskStatus(
        kind=kind, topic=topic, partition=partition, next_offset=next_offset, **values
    )


def ask(target: str) -> WorkerStatus:
    """Answer as a; b says nothing."""
    if target != "a:1":
        raise HeadwaterError(f"no answer\nfrom {target}")
    tasks = (
        task("ingest", "orders", 0, 95),
        task("shard", "shop.exchange", 0, 9, freshness_ms=1_200, state="replaying"),
    )
    return WorkerStatus(
        worker="worker-a",
        target=target,
        namespace="shop",
        started_us=7,
        tasks=tasks,
        state_bytes=5_000_000,
        backlog_rows=0,
        dead_letters=4,
        history_left=1_200,
        plan=3,
        plan_refused="it is of the engine another",
    )


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


def rows(found: Overview) -> list[tuple]:
    return [
        (t.kind, t.partition, t.worker, t.state, t.next_offset, t.lag, t.freshness_ms)
        for t in found.tasks
    ]


def test_every_task_has_its_owner_and_how_far_it_is(log) -> None:
    found = overview_of(log, "shop", ask)
    assert rows(found) == [
        # What the worker says is newer than what is committed.
        ("ingest", 0, "worker-a", "running", 95, 5, None),
        # It doesn't answer: what Kafka knows of it.
        ("ingest", 1, "b", "unknown", 50, 0, None),
        ("shard", 0, "worker-a", "replaying", 9, 1, 1_200),
        ("shard", 1, "b", "unknown", 5, 15, None),
        ("shard", 2, None, "unowned", 7, 23, None),
    ]
    assert found.groups == {
        "shop.ingest": "stable", "shop.shards": "stable", "shop.archive": "empty",
    }  # fmt: skip
    a, b = sorted(found.workers, key=lambda row: row.target)
    assert (a.plan, a.plan_refused, b.plan) == (3, "it is of the engine another", None)
    assert (a.worker, a.tasks, a.state_bytes, a.dead_letters, a.history_left) == (
        "worker-a", {"ingest": 1, "shard": 1}, 5_000_000, 4, 1_200,
    )  # fmt: skip
    assert (b.worker, b.tasks, b.error) == ("b", {"ingest": 1, "shard": 1}, "no answer from b:1")


def test_while_kafka_names_no_owners_the_workers_do(log) -> None:
    log.cluster.states["shop.shards"] = "PREPARING_REBALANCING"
    log.cluster.groups["shop.shards"] = [
        member(name, f"{name}:1", "shop.exchange") for name in ("a", "b")
    ]
    found = overview_of(log, "shop", ask)
    shards = [row for row in rows(found) if row[0] == "shard"]
    assert [row[1:4] for row in shards] == [
        (0, "worker-a", "replaying"),
        (1, None, "moving"),
        (2, None, "moving"),
    ]
    assert found.groups["shop.shards"] == "rebalancing"


def test_what_a_worker_says_it_has_counts_for_nothing_once_kafka_gave_it_away(log) -> None:
    # A zombie: a still believes in shard 0, which the group has given to b.
    log.cluster.groups["shop.shards"] = [
        member("a", "a:1", "shop.exchange"),
        member("b", "b:1", "shop.exchange", 0, 1, 2),
    ]
    found = overview_of(log, "shop", ask)
    shards = [row for row in rows(found) if row[0] == "shard"]
    assert [row[2] for row in shards] == ["b", "b", "b"]
    assert shards[0][3:5] == ("unknown", 10)


def test_a_topic_that_was_deleted_has_no_tasks(log) -> None:
    log.cluster.stored["shop.ingest", "gone"] = {0: 1}
    assert "gone" not in {row.topic for row in overview_of(log, "shop", ask).tasks}


def test_a_namespace_without_workers_is_named_with_the_closest(log) -> None:
    with pytest.raises(NotFoundError, match=r'namespace "shup" of kafka:9092.*mean "shop"\?'):
        overview_of(log, "shup", ask)


def test_the_tables_show_it_to_people(log) -> None:
    out = io.StringIO()
    show(overview_of(log, "shop", ask), Console(file=out, width=160))
    said = out.getvalue()
    for text in (
        'Namespace "shop" of kafka:9092',
        "worker-a",
        "1 ingest 1 shard",
        "5.0 MB",
        "does not answer",
        "ingest orders[0]",
        "shard shop.exchange[2]",
        "nobody",
        "1.2 s",
        "b does not answer: no answer from b:1",
        "tasks without a worker: 1; start one with headwater run",
        "worker-a runs plan 3 and can't run a newer one: it is of the engine another",
        "worker-a loads the past of new views: 1,200 records to go, they are WARMING until then",
    ):
        assert text in said


def test_json_holds_the_same(log) -> None:
    found = msgspec.to_builtins(overview_of(log, "shop", ask))
    assert set(found) == {"namespace", "bootstrap_servers", "groups", "workers", "tasks"}
    assert found["tasks"][0] == {
        "kind": "ingest", "topic": "orders", "partition": 0, "worker": "worker-a",
        "target": "a:1", "state": "running", "next_offset": 95, "end_offset": 100, "lag": 5,
        "freshness_ms": None,
    }  # fmt: skip
