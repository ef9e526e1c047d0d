"""Parity: online, offline and the naive oracle agree to the last bit, however events arrive."""

from __future__ import annotations

import importlib.util
import struct
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from harness import BASE_US, SECOND_US, SETTINGS, Harness, Pushed, moment
from hypothesis import event, given, settings
from hypothesis import strategies as st

import headwater as hw
from headwater.flow import plain_driver
from headwater.kernels.reference import Event, reference_value
from headwater.offline.sources import LogEvents
from headwater.offline.training_set import training_set
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HOUR = 3_600 * SECOND_US

payments = hw.stream(
    "payments",
    schema={"user": pl.String, "shop": pl.Int64, "x": pl.Float64, "i": pl.Int64, "at": pl.Int64},
    event_time=hw.epoch("at", "us"),
)
user = hw.entity("user", key="user")
pair = hw.entity("pair", key=["user", "shop"])
by_user = hw.view(
    "by_user",
    features=payments.filter(pl.col("i") != 3)
    .with_columns(big=pl.col("x") > 1.0, half=pl.col("x") / 2)
    .group_by(user)
    .window("10s", "10m", hw.window("1m", exact=True, name="exact"), "lifetime")
    .agg(
        n=hw.count(),
        total=hw.sum("x"),
        mean=hw.mean("half"),
        spread=hw.var("x"),
        low=hw.min("i"),
        whole=hw.sum("i"),
        big=hw.sum("big"),
        first=hw.first("x"),
        last=hw.last("i"),
    ),
)
by_pair = hw.view(
    "by_pair",
    features=payments.group_by(pair)
    .window("1h", "3h")
    .agg(n=hw.count("x"), top=hw.max("x"), mean=hw.mean("i"), dev=hw.std("i", ddof=0)),
)


@hw.on_demand(inputs=[by_user, hw.request("amount", pl.Float64)])
def against(row: pl.LazyFrame) -> pl.LazyFrame:
    return row.with_columns(
        over=pl.col("amount") - pl.col("mean_10m"), seen=pl.col("n_lifetime").fill_null(0) > 0
    )


model = hw.service("model", [by_user, by_pair, against])
PLAN = compile_plan([model])
NAMES = model.column_names()
AMOUNT = 0.5
KEYS = [{"user": u, "shop": s} for u in ("a", "b", "ab", "", "never") for s in (0, 1)]

floats = st.one_of(
    st.none(),
    st.floats(-1e9, 1e9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 2.0**-129, 2.0**70, 2.0**96, -1e300, 0.1, 1 / 3]),
)
whole = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-1, 5))
times = st.one_of(
    st.integers(-2 * HOUR, 2 * HOUR),
    st.integers(0, 60).map(lambda n: n * 10 * SECOND_US),  # ties, and the edges of hops and tiles
    st.integers(-3, 3),
).map(lambda us: BASE_US + us)
rows = st.fixed_dictionaries(
    {
        "user": st.one_of(st.none(), st.sampled_from(["a", "b", "ab", ""])),
        "shop": st.one_of(st.none(), st.integers(0, 1)),
        "x": floats,
        "i": whole,
        "at": times,
    }
)


def bits(value: object) -> object:
    return struct.pack("<d", value) if isinstance(value, float) else value


def oracle(pushed: Sequence[Pushed], key: dict[str, Any], t: int) -> list[object]:
    """Filter and fold the raw events of one key, in plain Python."""
    found: list[object] = []
    for view in (by_user, by_pair):
        mine = []
        for one in pushed:
            x, i = one.row["x"], one.row["i"]
            if any(one.row[p] is None or one.row[p] != key[p] for p in view.features.on):
                continue
            if view is by_user and (i is None or i == 3):
                continue
            half, big = (None, None) if x is None else (x / 2, int(x > 1.0))
            values = {"x": x, "i": i, "half": half, "big": big}
            mine.append(Event(one.row["at"], one.partition, one.offset, values))
        found += [reference_value(f.aggregate, f.window, mine, t) for f in view.features.features]
    names = [feature.name for feature in by_user.features.features]
    mean, n = found[names.index("mean_10m")], found[names.index("n_lifetime")]
    over = None if mean is None else AMOUNT - float(mean)  # type: ignore[arg-type]
    return [*found, over, n != 0]


def inputs() -> pl.DataFrame:
    frame = pl.DataFrame(KEYS, schema={"user": pl.String, "shop": pl.Int64})
    return frame.with_columns(amount=AMOUNT)


def online(harness: Harness, t: int) -> list[tuple[object, ...]]:
    reader = harness.worker.reader
    answer = reader.read(reader.describe("model"), inputs(), t)
    return answer.values.rows()


def offline(harness: Harness, at: Sequence[int], as_of: str) -> list[tuple[object, ...]]:
    """Return the rows of one training set for every key at every time."""
    when = pl.DataFrame({"when": [moment(t) for t in at]})
    spine = when.join(inputs(), how="cross")
    source = LogEvents(harness.log, harness.starts, "local")
    made = training_set(PLAN, "model", spine, time="when", source=source, as_of=as_of)
    return made.select(NAMES).collect().rows()


def assert_same(
    got: Sequence[Sequence[object]], wanted: Sequence[Sequence[object]], what: object
) -> None:
    for key, a, b in zip(KEYS, got, wanted, strict=True):
        for name, x, y in zip(NAMES, a, b, strict=True):
            assert bits(x) == bits(y), (what, key, name, x, y)


def assert_parity(harness: Harness, at: Sequence[int]) -> None:
    by_event, by_arrival = offline(harness, at, "event"), offline(harness, at, "arrival")
    for n, t in enumerate(at):
        part = slice(n * len(KEYS), (n + 1) * len(KEYS))
        wanted = [oracle(harness.pushed, key, t) for key in KEYS]
        assert_same(online(harness, t), wanted, ("online", t))
        assert_same(by_event[part], wanted, ("offline", t))
        arrived = [one for one in harness.pushed if one.arrival_us <= t]
        wanted = [oracle(arrived, key, t) for key in KEYS]
        assert_same(by_arrival[part], wanted, ("as of arrival", t))


def overlap(harness: Harness, n: int) -> None:
    """Let an ingest die uncommitted, and the next one cut the same rows into other stretches."""
    harness.publish(n)
    harness.restart_ingest(keep_zombie=n % 2 == 0, records_max=n % 9 + 1)
    harness.publish(-1)


ACTIONS: dict[str, Callable[[Harness, int], None]] = {
    "step": lambda harness, n: harness.step(n),
    "settle": lambda harness, n: harness.settle(),
    "wait": lambda harness, n: harness.wait(n * 7 * SECOND_US),
    "checkpoint": lambda harness, n: harness.checkpoint(wait=n % 2 == 0),
    "crash": lambda harness, n: harness.crash(written=[s for s in range(5) if n >> s & 1]),
    "redeliver": lambda harness, n: harness.redeliver(n, n % 5 + 1),
    "publish": lambda harness, n: harness.publish(n),
    "overlap": overlap,
    "restart ingest": lambda harness, n: harness.restart_ingest(
        keep_zombie=n % 2 == 0, records_max=n % 9 + 1
    ),
}
pushes = st.tuples(st.just("push"), st.lists(rows, min_size=1, max_size=8), st.integers(0, HOUR))
others = st.tuples(st.sampled_from(sorted(ACTIONS)), st.integers(0, 2**9), st.none())
steps = st.tuples(st.just("step"), st.integers(0, 9), st.none())


@contextmanager
def opened(**chosen: Any) -> Iterator[Harness]:
    partitions = chosen.pop("partitions")
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(
            PLAN, Path(folder), partitions=partitions, settings=replace(SETTINGS, **chosen)
        )
        yield harness
        harness.close()


@given(
    script=st.lists(st.one_of(pushes, others, steps), max_size=30),
    shards=st.integers(1, 5),
    partitions=st.integers(1, 3),
    read_back=st.one_of(st.none(), st.just(0), st.integers(0, HOUR)),
    poll=st.integers(1, 9),
    budget=st.sampled_from([None, 1 << 8, 1 << 12]),
    ahead=st.one_of(st.just(0), st.integers(0, HOUR)),
)
@settings(max_examples=150)
def test_online_offline_and_oracle_agree(
    script: list[tuple[str, Any, Any]],
    shards: int,
    partitions: int,
    read_back: int | None,
    poll: int,
    budget: int | None,
    ahead: int,
) -> None:
    with opened(
        shards=shards, partitions=partitions, read_back_us=read_back, poll_records_max=poll
    ) as harness:
        if budget is not None:
            harness.tighten(budget)
        for action, argument, late_us in script:
            if action == "push":
                harness.push(argument, late_us=late_us)
            else:
                ACTIONS[action](harness, argument)
        harness.settle()
        horizon = max(shard.horizon_us for shard in harness.worker.shards.values())
        newest = max((one.row["at"] for one in harness.pushed), default=BASE_US)
        earliest = max(BASE_US - 2 * HOUR, horizon)
        event(f"bounded: {read_back is not None}, rows from disk: {harness.rows_from_disk > 0}")
        at = {earliest + ahead, max(newest, earliest), max(newest + 1, earliest)}
        assert_parity(harness, sorted(at))


def random_rows(seed: int, count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    ats = np.sort(rng.integers(0, HOUR, count)) - (rng.random(count) < 0.1) * rng.integers(0, HOUR)
    names = [*("a", "b", "ab"), *(f"u{n}" for n in range(2_000))]
    return [
        {
            "user": names[int(rng.integers(len(names)) * (rng.random() < 0.7))],
            "shop": int(rng.integers(0, 2)),
            "x": float(rng.normal()),
            "i": int(rng.integers(0, 9)),
            "at": BASE_US + int(at),
        }
        for at in ats
    ]


@pytest.mark.parametrize("read_back_us", [None, 60 * SECOND_US])
def test_rows_that_left_memory_come_back_as_they_were(read_back_us: int | None) -> None:
    with opened(shards=2, partitions=2, read_back_us=read_back_us, poll_records_max=900) as harness:
        at_most = 0
        for seed in range(5):
            harness.push(random_rows(seed, 3_000))
            harness.wait(HOUR)
            harness.settle()
            at_most = max(at_most, harness.worker.memory.used_bytes)
        in_memory = sum(
            len(group)
            for shard in harness.worker.shards.values()
            for group in shard.groups.values()
        )
        seen = {(p.row["user"], s) for p in harness.pushed for s in ("", p.row["shop"])}
        assert in_memory < len(seen) / 2  # most rows are on disk only,
        assert harness.rows_from_disk > 500  # and many came back to be changed
        assert at_most <= harness.settings.memory_budget_bytes
        horizon = max(shard.horizon_us for shard in harness.worker.shards.values())
        assert_parity(harness, [max(horizon, BASE_US + HOUR), BASE_US + 6 * HOUR])
        harness.crash()
        harness.settle()
        assert_parity(harness, [max(horizon, BASE_US + HOUR)])


def drivers() -> list[Any]:
    found: list[Any] = [plain_driver.run]
    if importlib.util.find_spec("bytewax"):
        from headwater.flow import bytewax_driver

        found.append(bytewax_driver.run)
    return found


@pytest.mark.parametrize("driver", drivers(), ids=lambda run: run.__module__)
def test_threads_and_drivers_change_no_value(driver: Any) -> None:
    pushed = [replace_offset(n, row) for n, row in enumerate(random_rows(9, 600))]
    frame = pl.DataFrame([one.row for one in pushed])
    with hw.local([model], driver=driver, clock=lambda: BASE_US + HOUR) as store:
        for piece in frame.iter_slices(100):
            store.push("payments", piece)
        store.settle()
        for t in (BASE_US + 1, BASE_US + HOUR // 2, BASE_US + HOUR):
            spine = inputs().with_columns(when=pl.lit(moment(t)))
            asked = {name: inputs()[name] for name in inputs().columns}
            wanted = [oracle(pushed, key, t) for key in KEYS]
            assert_same(store.online("model", at=moment(t), **asked).rows(), wanted, "online")
            made = store.training_set("model", spine, time="when")
            assert_same(made.select(NAMES).collect().rows(), wanted, "offline")


def replace_offset(offset: int, row: dict[str, Any]) -> Pushed:
    return Pushed(0, offset, BASE_US, row)
