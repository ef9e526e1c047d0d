"""What a worker's metrics say of its tasks, also while no broker answers."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from headwater.flow.cluster_status import ClusterStatus
from headwater.flow.freshness import Freshness, Guard
from headwater.flow.metrics import Metrics
from headwater_connectors.log.log import LogUnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping

S = 1_000_000


class FakeLog:
    """A log whose topics end where the test says, or that doesn't answer."""

    def __init__(self) -> None:
        self.ends = {"orders": [10], "shop.exchange": [5, 7]}
        self.is_up = True

    def end_offsets(self, name: str) -> list[int]:
        if not self.is_up:
            raise LogUnreachableError("no broker answers")
        return self.ends[name]


class FakeLanes:
    def learn(self, partitions: Mapping[str, int]) -> None:
        pass

    def of_view(self, view: object) -> tuple[str, ...]:
        raise AssertionError(f"no plan has {view}")


class Cluster:
    """A worker with two shards and a source partition, whose clock the test moves."""

    def __init__(self) -> None:
        self.now_us = 100 * S
        self.log = FakeLog()
        self.metrics = Metrics()
        self.freshness = Freshness(lambda: self.now_us)
        self.worker = SimpleNamespace(
            log=self.log,
            current=SimpleNamespace(plan=SimpleNamespace(streams={"orders": None}, views={})),
            exchange="shop.exchange",
            metrics=self.metrics,
            memory=SimpleNamespace(lock=threading.Lock()),
            ingests={"orders": SimpleNamespace(positions={0: 4})},
            archive_tasks={},
            shards={
                number: SimpleNamespace(number=number, next_offset=end)
                for number, end in enumerate(self.log.ends["shop.exchange"])
            },
        )
        for number in self.worker.shards:
            self.freshness.opened(number)
        guard = Guard(self.freshness, lambda _: ())
        self.status = ClusterStatus(self.worker, guard, FakeLanes())  # type: ignore[arg-type]

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"headwater_{name}", labels)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_answers_are_measured_to_grow_old_while_no_broker_answers(cluster: Cluster) -> None:
    cluster.status.probe()
    assert cluster.value("freshness_seconds", shard="1") == 0
    cluster.log.is_up = False
    cluster.now_us += 30 * S
    with pytest.raises(LogUnreachableError):
        cluster.status.probe()
    assert cluster.value("freshness_seconds", shard="0") == 30
    assert cluster.value("freshness_seconds", shard="1") == 30


def test_a_scrape_while_the_metrics_are_set_misses_no_series(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.status.probe()
    asked = {"lag_records", "freshness_seconds", "tasks"}
    missing = []
    for name in asked:
        gauge = getattr(cluster.metrics, name)
        labels = gauge.labels

        def scraping(*values: str, labels=labels):
            for each in asked:
                if not any(metric.samples for metric in getattr(cluster.metrics, each).collect()):
                    missing.append(each)  # noqa: PERF401 - what is missing, each time
            return labels(*values)

        monkeypatch.setattr(gauge, "labels", scraping)
    cluster.status.probe()
    assert missing == []


def test_a_shard_that_has_gone_leaves_no_series(cluster: Cluster) -> None:
    cluster.status.probe()
    assert cluster.value("tasks", kind="shard") == 2
    assert cluster.value("tasks", kind="ingest") == 1
    assert cluster.value("lag_records", kind="ingest", topic="orders", partition="0") == 6
    del cluster.worker.shards[1]
    cluster.worker.ingests.clear()
    cluster.status.probe()
    assert cluster.value("tasks", kind="shard") == 1
    assert cluster.value("tasks", kind="ingest") is None
    assert cluster.value("freshness_seconds", shard="0") == 0
    assert cluster.value("freshness_seconds", shard="1") is None
    assert cluster.value("lag_records", kind="ingest", topic="orders", partition="0") is None
