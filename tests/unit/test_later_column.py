"""A stream that gains a column: what was computed stays, what is new is read from raw records."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import headwater as hw
from headwater.flow.history import History

if TYPE_CHECKING:
    from pathlib import Path

    from headwater.local_store import LocalStore

SCHEMA = {"user": pl.String, "x": pl.Float64, "at": pl.Datetime("us", "UTC")}
BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = BEGIN + timedelta(minutes=30)
USERS = ["a", "b"]
SPINE = pl.DataFrame({"user": USERS, "t": [AT, AT]})


def views(**columns: Any) -> list[Any]:
    """Return a view that reads nothing of what came later, and one that does where it can."""
    orders = hw.stream("orders", schema={**SCHEMA, **columns}, event_time="at")
    grouped = orders.group_by(hw.entity("user", key="user")).window("1h")
    made = [hw.view("counts", features=grouped.agg(n=hw.count(), x=hw.sum("x")))]
    if "z" in columns:
        made.append(hw.view("sums", features=grouped.agg(z=hw.sum("z"), zs=hw.count("z"))))
    return [hw.service("model", made)]


OLD, NEW = views(), views(z=pl.Int64())


def push(store: LocalStore, first: int, count: int) -> None:
    rows = [
        {
            "user": USERS[n % 2],
            "x": 2.0**n,
            "z": 4**n,
            "at": (BEGIN + timedelta(seconds=n)).isoformat(),
        }
        for n in range(first, first + count)
    ]
    # As it would come from a producer that knew of z all the time.
    store.push_bytes("orders", [json.dumps(row).encode() for row in rows], arrival=AT)
    store.settle()


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Return a folder whose archive has rows without z, then some with it."""
    path = tmp_path / "store"
    with hw.local(OLD, path=path) as store:
        push(store, 0, 6)
    return path


def total(numbers: range, base: int) -> int:
    return sum(base**n for n in numbers)


def test_what_was_computed_stays_and_is_not_read_again(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = views(other=pl.String())

    def read(*_: Any, **__: Any) -> None:
        pytest.fail("history was read for a view that doesn't read the new column")

    monkeypatch.setattr(History, "read", read)
    with hw.local(wider, path=store_path) as store:
        online = store.online("model", user=USERS, at=AT)
    assert online.rows() == [
        (3, float(total(range(0, 6, 2), 2))),
        (3, float(total(range(1, 6, 2), 2))),
    ]


def test_a_view_that_reads_it_has_the_same_values_online_and_offline(store_path: Path) -> None:
    with hw.local(NEW, path=store_path) as store:
        push(store, 6, 4)
        online = store.online("model", user=USERS, at=AT)
        whole = store.training_set("model", SPINE, time="t").collect()
        snapshot = store.snapshot()
    evens, odds = range(0, 10, 2), range(1, 10, 2)
    assert online["z_1h"].to_list() == [total(evens, 4), total(odds, 4)]
    assert online["zs_1h"].to_list() == [5, 5]
    assert whole.select(online.columns).equals(online)
    archive = hw.archive(NEW, store_path / "archive")
    again = archive.training_set("model", SPINE, time="t", snapshot=str(snapshot)).collect()
    assert again.select(online.columns).equals(online)


def test_a_column_that_no_archived_row_has_yet_is_read_all_the_same(store_path: Path) -> None:
    archive = hw.archive(NEW, store_path / "archive")
    snapshot = archive.snapshot()
    found = archive.training_set("model", SPINE, time="t", snapshot=snapshot).collect()
    assert found["z_1h"].to_list() == [total(range(0, 6, 2), 4), total(range(1, 6, 2), 4)]


def test_what_a_row_cannot_see_is_left_out_of_raw_records_too(store_path: Path) -> None:
    with hw.local(NEW, path=store_path) as store:
        push(store, 6, 4)
        one = store.training_set("model", SPINE, time="t").collect()
        early = SPINE.with_columns(t=pl.lit(BEGIN + timedelta(seconds=2)))
        first = store.training_set("model", early, time="t").collect()
    assert one["zs_1h"].to_list() == [5, 5]
    assert first["zs_1h"].to_list() == [1, 1]
