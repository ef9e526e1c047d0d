"""`headwater training-set` on an archive: snapshot, frontier, parts, and going on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import headwater as hw
from headwater.cli import main

if TYPE_CHECKING:
    from pathlib import Path

FEATURES = """
import polars as pl
import headwater as hw

orders = hw.stream(
    "orders", schema={"shop": pl.String, "amount": pl.Float64, "ts": pl.Int64},
    event_time=hw.epoch("ts", "ms"),
)
shop = hw.entity("shop", key="shop")
sales = hw.view(
    "sales",
    features=orders.group_by(shop).window("1h", "lifetime").agg(n=hw.count(), s=hw.sum("amount")),
)
shops = hw.service("shops", [sales])
"""
T0 = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = 30


class Place:
    """A folder with definitions, a store whose archive holds events, and a spine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "shop_features.py"
        self.file.write_text(FEATURES, encoding="utf-8")
        self.archive = folder / "store" / "archive"
        self.spine = folder / "spine.parquet"
        self.push(range(60))
        self.write_spine(T0 + timedelta(minutes=30))

    def write_spine(self, begin: datetime) -> None:
        times = [begin + timedelta(minutes=n) for n in range(ROWS)]
        shops = ["ab"[n % 2] for n in range(ROWS)]
        pl.DataFrame({"shop": shops, "at": times}).write_parquet(self.spine)

    def push(self, minutes: Any) -> None:
        from headwater.cli.definitions_file import load_definitions

        with hw.local(load_definitions(str(self.file)), path=self.folder / "store") as store:
            rows = [
                {"shop": "ab"[n % 2], "amount": 0.1 * n, "ts": int(T0.timestamp() + 60 * n) * 1000}
                for n in minutes
            ]
            store.push("orders", rows)
            store.snapshot()

    def arguments(self, out: str, *more: str) -> list[str]:
        given = ["--service", "shops", "--spine", str(self.spine), "--time", "at", "--json"]
        given += ["--archive", str(self.archive), "--out", str(self.folder / out), *more]
        return ["training-set", str(self.file), *given]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def run(place: Place, capsys: Any, out: str, *more: str) -> dict[str, Any]:
    assert main(place.arguments(out, *more)) == 0
    return json.loads(capsys.readouterr().out)


def refused(place: Place, capsys: Any, out: str, *more: str) -> str:
    assert main(place.arguments(out, *more)) != 0
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_file_says_its_snapshot_and_is_repeated_from_it(place, capsys) -> None:
    first = run(place, capsys, "first.parquet")
    assert first["rows"] == ROWS
    assert first["features"] == 4
    assert first["snapshot"].startswith("orders@")
    assert datetime.fromisoformat(first["frontier"]) > T0
    before = pl.read_parquet("first.parquet")
    assert before["n_1h"].to_list()[:3] == [15, 15, 16]
    metadata = pl.read_parquet_metadata("first.parquet")
    assert metadata["headwater.history"] == first["snapshot"]
    assert metadata["headwater.service"] == "shops"
    place.push([31, 33, 10])
    assert run(place, capsys, "second.parquet")["snapshot"] != first["snapshot"]
    assert not pl.read_parquet("second.parquet").equals(before)
    again = run(place, capsys, "again.parquet", "--snapshot", first["snapshot"])
    assert again["snapshot"] == first["snapshot"]
    assert pl.read_parquet("again.parquet").equals(before)


@pytest.mark.parametrize("part_rows", [1, 7, ROWS, 1000])
def test_parts_are_the_whole(place, capsys, part_rows) -> None:
    run(place, capsys, "whole.parquet")
    run(place, capsys, "one.parquet", "--part-rows", str(part_rows))
    run(place, capsys, "many", "--part-rows", str(part_rows))
    whole = pl.read_parquet("whole.parquet")
    assert pl.read_parquet("one.parquet").equals(whole)
    assert pl.read_parquet("many/*.parquet").equals(whole)
    parts = sorted(path.name for path in (place.folder / "many").iterdir())
    assert len(parts) == -(-ROWS // part_rows) + 1
    assert not list(place.folder.glob("*.parts"))


def test_a_run_goes_on_where_one_was_killed_with_the_same_snapshot(place, capsys) -> None:
    wanted = run(place, capsys, "whole.parquet")
    command = [sys.executable, "-m", "headwater", *place.arguments("out", "--part-rows", "1")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    manifest = place.folder / "out" / "parts.json"
    deadline = time.monotonic() + 120
    while not manifest.exists() or len(json.loads(manifest.read_text())["done"]) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(json.loads(manifest.read_text())["done"])
    assert 3 <= done < ROWS
    kept = (place.folder / "out" / "part-00000.parquet").stat().st_mtime_ns
    place.push([31, 33, 10])
    found = run(place, capsys, "out", "--part-rows", "1")
    assert found == {**wanted, "out": str(place.folder / "out")}
    assert (place.folder / "out" / "part-00000.parquet").stat().st_mtime_ns == kept
    assert pl.read_parquet("out/*.parquet").equals(pl.read_parquet("whole.parquet"))


def test_parts_of_two_recipes_are_not_mixed(place, capsys) -> None:
    first = run(place, capsys, "out", "--part-rows", "10")
    assert run(place, capsys, "out", "--part-rows", "10") == first
    assert "another rows per part" in refused(place, capsys, "out", "--part-rows", "9")
    assert "another as of" in refused(
        place, capsys, "out", "--part-rows", "10", "--as-of", "arrival"
    )
    place.push([31])
    later = run(place, capsys, "later", "--part-rows", "10")["snapshot"]
    assert "another history" in refused(
        place, capsys, "out", "--part-rows", "10", "--snapshot", later
    )
    place.write_spine(T0 + timedelta(minutes=31))
    assert "another spine" in refused(place, capsys, "out", "--part-rows", "10")
    place.write_spine(T0 + timedelta(minutes=30))
    place.file.write_text(FEATURES.replace('"1h"', '"2h"'), encoding="utf-8")
    assert "another revision" in refused(place, capsys, "out", "--part-rows", "10")
    place.file.write_text(FEATURES, encoding="utf-8")
    (place.folder / "out" / "part-00001.parquet").unlink()
    assert "part-00001.parquet is missing" in refused(place, capsys, "out", "--part-rows", "10")
    (place.folder / "other").mkdir()
    (place.folder / "other" / "mine.txt").write_text("mine", encoding="utf-8")
    assert "holds other files" in refused(place, capsys, "other")


def test_a_spine_beyond_the_frontier_is_refused_before_any_part_is_made(place, capsys) -> None:
    place.write_spine(datetime.now(UTC) + timedelta(minutes=1 - ROWS))
    said = refused(place, capsys, "out", "--part-rows", "5")
    assert "of 30 rows lie after" in said
    assert "frontier" in said
    said = refused(place, capsys, "out", "--part-rows", "5", "--wait", "10ms")
    assert "wait longer" in said
    assert not (place.folder / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--snapshot", "nonsense"), 'no snapshot "nonsense"'),
        (("--snapshot", "non@sense"), "not a snapshot"),
        (("--wait", "soon"), "not a duration"),
        (("--part-rows", "0"), "at least one row"),
    ],
)
def test_a_wrong_option_is_named(place, capsys, more, said) -> None:
    assert said in refused(place, capsys, "out.parquet", *more)
    assert not list(place.folder.glob("out*"))
