"""After a warm-up nothing is left to compile for the events and reads that come."""

from __future__ import annotations

import importlib
import pkgutil

import polars as pl
from cluster_process import wait_until
from numba.core.registry import CPUDispatcher

import headwater as hw
import headwater.kernels
from headwater.flow.running import Running
from headwater.flow.warm_up import warm_up
from headwater.plan.plan import compile_plan

STREAM = hw.stream(
    "clicks",
    schema={"user": pl.String, "place": pl.Int64, "amount": pl.Float64, "ts": pl.Int64},
    event_time=hw.epoch("ts", "ms"),
)
USER = hw.entity("user", key="user")
PAIR = hw.entity("pair", key=["user", "place"], dtype=[pl.String, pl.Int64])
SPEND = hw.view(
    "spend",
    version=1,
    owner="a@example.com",
    features=STREAM.group_by(USER)
    .window(hw.window("1h"), hw.window("5m", exact=True), hw.window("lifetime"))
    .agg(n=hw.count(), total=hw.sum("amount"), spread=hw.var("amount")),
)
VISITS = hw.view(
    "visits",
    version=1,
    owner="a@example.com",
    features=STREAM.filter(pl.col("amount") > 1).group_by(PAIR).window("7d").agg(n=hw.count()),
)


def compiled() -> dict[str, int]:
    """Count the signatures of every kernel."""
    found = {}
    for info in pkgutil.iter_modules(headwater.kernels.__path__):
        module = importlib.import_module(f"headwater.kernels.{info.name}")
        for name, value in vars(module).items():
            if isinstance(value, CPUDispatcher):
                found[f"{value.py_func.__module__}.{name}"] = len(value.signatures)
    return found


def test_events_and_reads_after_a_warm_up_compile_nothing() -> None:
    service = hw.service("both", [SPEND, VISITS], owner="a@example.com")
    plan = compile_plan([service])
    warm_up(plan)
    with hw.local([service]) as store:
        store.worker.reader.warm_up()
        before = compiled()
        assert sum(before.values()) > 10
        store.push(
            "clicks",
            [{"user": f"u{i % 7}", "place": i % 3, "amount": i / 2, "ts": i} for i in range(500)],
        )
        store.settle()
        got = store.online("both", user=["u1", "u2"], place=[1, 2])
        store.worker.checkpoints.make_room()
        assert store.online("both", user=["u1", "u2"], place=[1, 2]).height == got.height
        assert compiled() == before


def test_another_plan_after_a_warm_up_compiles_nothing() -> None:
    warm_up(compile_plan([hw.service("both", [SPEND, VISITS])]))
    with hw.local([hw.service("one", [SPEND])]) as store:
        store.worker.reader.warm_up()
        store.push("clicks", [{"user": "u", "place": 1, "amount": 2.0, "ts": 1}])
        store.settle()
        before = compiled()
        for views in ([SPEND, VISITS], [VISITS]):
            plan = compile_plan([hw.service("one", views)])
            running = Running.of(plan, store.worker.current.now.number + 1)
            store.worker.adoption.offer(running)
            wait_until(lambda running=running: store.worker.current.now is running, "adopted")
            wait_until(lambda: store.worker.is_applied({"clicks": [1]}), "its past is there")
        assert store.worker.reader.describe("one").join_keys.keys() == {"user", "place"}
        assert compiled() == before
