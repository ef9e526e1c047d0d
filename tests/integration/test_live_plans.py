"""Plans reach running workers on a real broker: no restart, and every value is right."""

from __future__ import annotations

import json
import random
import re
import time
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cluster_process import WorkerProcess, run_headwater, wait_until
from feeding import feeding

import headwater as hw
from headwater.cli.status import ask_worker
from headwater.errors import HeadwaterError, NotFoundError
from headwater_connectors.log.kafka import KafkaLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kafka_broker import Broker

pytestmark = pytest.mark.kafka

SHOPS, BUYERS = list(range(20)), [f"b{n}" for n in range(20)]
SETTINGS = """
namespace = "live"
[kafka]
bootstrap_servers = "{servers}"
[worker]
state = "state"
archive = "shared/archive"
checkpoints = "shared/checkpoints"
shards = 4
session_timeout_ms = 6000
"""
STREAM = """
import polars as pl
import headwater as hw

schema = {"shop": pl.Int64, "buyer": pl.String, "amount": pl.Float64, "ts": pl.Int64}
orders = hw.stream("live.orders", schema=schema, event_time=hw.epoch("ts", "ms"))
refunds = hw.stream("live.refunds", schema=schema, event_time=hw.epoch("ts", "ms"))
shop, buyer = hw.entity("shop", key="shop"), hw.entity("buyer", key="buyer")
"""
SALES = """
sales_{version} = hw.view(
    "sales",
    version={version},
    features=orders.filter(pl.col("amount") > {above}).group_by(shop).window("lifetime")
    .agg(n=hw.count(), total=hw.sum("amount")),
)
"""
TILL = 'till = hw.service("till", [sales_{version}])\n'
BY_BUYER = """
buyers = hw.view(
    "buyers", features=orders.group_by(buyer).window("lifetime").agg(spent=hw.sum("amount"))
)
"""
BACK = """
back = hw.view(
    "back", features=refunds.group_by(shop).window("lifetime").agg(back=hw.sum("amount"))
)
"""
FIRST = STREAM + SALES.format(version=1, above=0) + TILL.format(version=1)
SECOND = STREAM + SALES.format(version=2, above=50)
MOVED = SECOND + TILL.format(version=2)


class Shop:
    """Two topics, the workers that read them, and every event there is."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.folder = folder
        self.log = KafkaLog(broker.bootstrap_servers)
        for topic in ("live.orders", "live.refunds"):
            self.log.create_topic(topic, partitions=4, append_time=False)
        self.sent: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.workers: list[WorkerProcess] = []
        self._random = random.Random(7)
        self._producer = self.log.producer()
        settings = SETTINGS.format(servers=broker.bootstrap_servers)
        (folder / "headwater.toml").write_text(settings, encoding="utf-8")

    def push(self, topic: str, count: int) -> None:
        now_ms = time.time_ns() // 1_000_000
        for _ in range(count):
            row = {
                "shop": self._random.choice(SHOPS),
                "buyer": self._random.choice(BUYERS),
                "amount": float(self._random.randrange(100)),
                "ts": now_ms,
            }
            self._producer.send(topic, len(self.sent[topic]) % 4, json.dumps(row).encode())
            self.sent[topic].append(row)
        self._producer.flush()

    @contextmanager
    def feed(self) -> Iterator[None]:
        def push() -> None:
            self.push("live.orders", 20)
            self.push("live.refunds", 5)

        with feeding(push, every_s=0.05, failed=[], patience_s=60):
            yield

    def start(self, *names: str) -> list[WorkerProcess]:
        made = [WorkerProcess(name, self.folder, definitions=None) for name in names]
        self.workers += made
        for worker in made:
            worker.start()
        for worker in made:
            worker.wait_ready()
        return made

    def headwater(self, *arguments: str) -> str:
        done = run_headwater([*arguments, "--yes", "--config", "headwater.toml"], self.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def apply(self, text: str) -> None:
        (self.folder / "mine.py").write_text(text, encoding="utf-8")
        self.headwater("apply", "mine.py")

    def wait_plan(self, number: int) -> None:
        running = [worker for worker in self.workers if worker.is_running]
        wait_until(
            lambda: [ask_worker(one.target).plan for one in running] == [number] * len(running),
            lambda: [ask_worker(one.target) for one in running],
        )

    def shards_of(self, worker: WorkerProcess) -> list[int]:
        return [task.partition for task in ask_worker(worker.target).tasks if task.kind == "shard"]

    def assert_right(
        self, what: str | list[str], key: str, keys: list[Any], expected: Callable[[], list[Any]]
    ) -> None:
        """Return when every worker has answered this, PRESENT."""
        for worker in self.workers:
            if worker.is_running:
                with hw.connect(worker.target, timeout_s=10) as store:
                    said: list[object] = []

                    def is_right(store: Any = store, said: list[object] = said) -> bool:
                        try:
                            answer = store.answer(what, **{key: keys})
                        except HeadwaterError as error:
                            said[:] = [error]
                            return False
                        statuses = {one for codes in answer.statuses.values() for one in codes}
                        said[:] = [statuses, answer.to_polars().rows()]
                        return statuses == {"PRESENT"} and said[1] == expected()

                    wait_until(
                        is_right,
                        lambda said=said, worker=worker: (
                            f"{worker.id}: {said}, not {expected()}\n{worker.said()[-3000:]}"
                        ),
                    )

    def sales(self, above: float) -> list[tuple[int, float]]:
        rows = [row for row in self.sent["live.orders"] if row["amount"] > above]
        mine = {shop: [row["amount"] for row in rows if row["shop"] == shop] for shop in SHOPS}
        return [(len(one), sum(one)) for one in mine.values()]

    def totals(self, above: float) -> list[tuple[float]]:
        return [(total,) for _, total in self.sales(above)]

    def counts(self, above: float) -> list[tuple[int]]:
        return [(count,) for count, _ in self.sales(above)]

    def spent(self) -> list[tuple[float]]:
        return self._sums("live.orders", "buyer", BUYERS)

    def back(self) -> list[tuple[float]]:
        return self._sums("live.refunds", "shop", SHOPS)

    def _sums(self, topic: str, key: str, values: list[Any]) -> list[tuple[float]]:
        found: dict[Any, float] = dict.fromkeys(values, 0.0)
        for row in self.sent[topic]:
            found[row[key]] += row["amount"]
        return [(one,) for one in found.values()]

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        for topic in self.log.topics():
            if topic.name.startswith("live."):
                self.log.delete_topic(topic.name)
        self.log.close()


@pytest.fixture
def shop(broker: Broker, tmp_path: Path) -> Iterator[Shop]:
    made = Shop(broker, tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_versions_keys_streams_and_removals_reach_running_workers_without_a_restart(shop):
    shop.push("live.orders", 5_000)
    shop.push("live.refunds", 500)
    shop.apply(FIRST)
    a, b = shop.start("a", "b")
    pids = (a.pid, b.pid)
    with shop.feed():
        shop.apply(SECOND)
        shop.wait_plan(2)
        shop.apply(SECOND + BY_BUYER + BACK)
        shop.wait_plan(3)
    shop.assert_right("till", "shop", SHOPS, lambda: shop.sales(0))
    shop.assert_right(["sales.total_lifetime"], "shop", SHOPS, lambda: shop.totals(50))
    shop.assert_right(["buyers.spent_lifetime"], "buyer", BUYERS, shop.spent)
    shop.assert_right(["back.back_lifetime"], "shop", SHOPS, shop.back)
    with shop.feed():
        shop.headwater("view", "remove", "back", "1")
        shop.headwater("view", "remove", "buyers", "1")
        shop.wait_plan(5)
        with hw.connect(b.target) as store:
            for gone in ("back.back_lifetime", "buyers.spent_lifetime"):
                with pytest.raises(NotFoundError, match=f'no feature "{re.escape(gone)}"'):
                    store.answer([gone], shop=[1])
        # What has left may come back, and begins anew.
        shop.apply(STREAM + BY_BUYER + BACK)
        shop.wait_plan(6)
    shop.assert_right(["buyers.spent_lifetime"], "buyer", BUYERS, shop.spent)
    shop.assert_right(["back.back_lifetime"], "shop", SHOPS, shop.back)
    assert [worker.counted("headwater_exchange_holes_total") for worker in (a, b)] == [0, 0]
    assert (a.pid, b.pid) == pids
    assert [worker.stop() for worker in (a, b)] == [0, 0]


def test_a_service_is_cut_over_and_rolled_back_under_a_client_that_stays_connected(shop):
    shop.push("live.orders", 2_000)
    shop.apply(FIRST)
    (a,) = shop.start("a")
    shop.apply(SECOND)
    shop.assert_right(["sales.n_lifetime"], "shop", SHOPS, lambda: shop.counts(50))
    with hw.connect(a.target) as store:

        def answer() -> list[Any]:
            return store.online("till", shop=SHOPS).rows()

        assert answer() == shop.sales(0)
        shop.apply(MOVED)
        shop.wait_plan(3)
        assert answer() == shop.sales(50)
        shop.headwater("service", "roll-back", "till")
        shop.wait_plan(4)
        assert answer() == shop.sales(0)


def test_a_worker_that_is_killed_while_it_loads_a_past_leaves_the_rest_to_another(shop):
    shop.push("live.orders", 300_000)
    shop.apply(FIRST)
    a, b = shop.start("a", "b")
    shop.assert_right("till", "shop", SHOPS, lambda: shop.sales(0))
    with shop.feed():
        shop.apply(SECOND + BY_BUYER)
        wait_until(lambda: ask_worker(a.target).history_left > 0, "a past is being loaded")
        a.kill()
        shop.wait_plan(2)
        wait_until(lambda: len(shop.shards_of(b)) == 4, lambda: f"b has {shop.shards_of(b)}")
    shop.assert_right(["sales.total_lifetime"], "shop", SHOPS, lambda: shop.totals(50))
    shop.assert_right(["buyers.spent_lifetime"], "buyer", BUYERS, shop.spent)
    shop.assert_right("till", "shop", SHOPS, lambda: shop.sales(0))
    assert b.stop() == 0
