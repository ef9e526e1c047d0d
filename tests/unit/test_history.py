"""History: what a shard has missed is read again from the source, and the values are the same."""

from __future__ import annotations

import random
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

import headwater as hw

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = datetime(2024, 3, 1, tzinfo=UTC)

payments = hw.stream(
    "payments",
    schema={"user": pl.String, "shop": pl.Int64, "amount": pl.Float64, "at": pl.Int64},
    event_time=hw.epoch("at", "us"),
)
by_user = hw.view(
    "by_user",
    features=payments.group_by(hw.entity("user", key="user"))
    .window("1h", "lifetime")
    .agg(n=hw.count(), total=hw.sum("amount")),
)
largest = hw.view(
    "largest",
    features=payments.filter(pl.col("amount") > 10)
    .group_by(hw.entity("user", key="user"))
    .window("1d")
    .agg(top=hw.max("amount")),
)
by_shop = hw.view(
    "by_shop",
    features=payments.group_by(hw.entity("shop", key="shop")).window("1d").agg(seen=hw.count()),
)
ONE = [hw.service("model", [by_user])]
ALL = [hw.service("model", [by_user, largest, by_shop])]
KEYS = {"user": [f"u{i}" for i in range(8)], "shop": list(range(8))}
AT = BEGIN + timedelta(hours=3)


def events(seed: int, count: int = 300) -> pl.DataFrame:
    chance = random.Random(seed)
    start = int(BEGIN.timestamp() * 1_000_000)
    return pl.DataFrame(
        {
            "user": [f"u{chance.randrange(8)}" for _ in range(count)],
            "shop": [chance.randrange(8) for _ in range(count)],
            "amount": [chance.uniform(-50, 50) for _ in range(count)],
            "at": [start + chance.randrange(3 * 3_600_000_000) for _ in range(count)],
        }
    )


def expected() -> pl.DataFrame:
    with hw.local(ALL) as store:
        for seed in (1, 2):
            store.push("payments", events(seed))
        store.settle()
        return store.online("model", at=AT, **KEYS)


def test_a_view_added_to_a_folder_is_built_from_the_start(tmp_path: Path) -> None:
    with hw.local(ONE, path=tmp_path / "store", partitions=2) as store:
        store.push("payments", events(1))
        store.settle()
    with hw.local(ALL, path=tmp_path / "store", partitions=2) as store:
        store.settle()
        store.push("payments", events(2))
        store.settle()
        assert store.online("model", at=AT, **KEYS).equals(expected())
    with hw.local(ALL, path=tmp_path / "store", partitions=2) as store:
        assert store.online("model", at=AT, **KEYS).equals(expected())


def test_a_view_left_out_and_taken_in_again_is_complete(tmp_path: Path) -> None:
    with hw.local(ALL, path=tmp_path / "store") as store:
        store.push("payments", events(1))
        store.settle()
    with hw.local(ONE, path=tmp_path / "store") as store:
        store.push("payments", events(2))
        store.settle()
    with hw.local(ALL, path=tmp_path / "store") as store:
        store.settle()
        assert store.online("model", at=AT, **KEYS).equals(expected())


def test_a_shard_whose_state_is_gone_is_rebuilt(tmp_path: Path) -> None:
    with hw.local(ALL, path=tmp_path / "store") as store:
        store.push("payments", events(1))
        store.settle()
        store.push("payments", events(2))
        store.settle()
    # The exchange has forgotten what the checkpoints held: only the source topic is left.
    shutil.rmtree(tmp_path / "store" / "state" / "shard-001")
    with hw.local(ALL, path=tmp_path / "store") as store:
        store.settle()
        assert store.online("model", at=AT, **KEYS).equals(expected())
        holes = store.worker.metrics.registry.get_sample_value
        assert holes("headwater_exchange_holes_total", {"shard": "1"}) == 2.0
        assert holes("headwater_exchange_holes_total", {"shard": "0"}) is None
