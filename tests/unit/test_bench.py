from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from bench.agreement import TOLERANCE, compare
from bench.plain_python import point_in_time
from bench.workload import ZIPF_EXPONENT, Workload

ROOT = Path(__file__).parents[2]
HOUR_US = 3_600_000_000


def run(*command: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--json"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    (line,) = done.stdout.splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def point_in_time_result() -> dict[str, object]:
    sizes = ("--events=6000", "--keys=60", "--spine=600", "--runs=1")
    return run("bench.point_in_time", *sizes, "--memory", "--memory-events=6000")


def test_point_in_time_gives_the_ratios_it_promises(point_in_time_result) -> None:
    result = point_in_time_result
    assert {"duckdb_zipf", "duckdb_uniform", "plain_python"} <= result["ratios"].keys()
    assert result["ratios"].keys() == result["ratios_cpu"].keys()
    assert result["targets"].keys() <= result["ratios"].keys()
    assert all(ratio > 0 for ratio in result["ratios"].values())
    uniform, ours = result["uniform"], result["uniform"]["headwater"]["seconds"]
    best = min(uniform[name]["seconds"] for name in ("duckdb_frames", "duckdb_join"))
    assert result["ratios"]["duckdb_uniform"] == pytest.approx(best / ours)
    python = [result["ratios"][f"plain_python_{name}"] for name in ("uniform", "zipf")]
    assert result["ratios"]["plain_python"] == min(python)


def test_point_in_time_has_the_same_values_from_every_peer(point_in_time_result) -> None:
    assert point_in_time_result["agrees"] is True
    peers = {"uniform": {"duckdb_frames", "duckdb_join", "plain_python"}}
    peers["zipf"] = peers["uniform"] - {"duckdb_join"}
    for distribution, names in peers.items():
        contestants = point_in_time_result[distribution]
        assert contestants.keys() == names | {"headwater"}
        for name in names:
            assert contestants[name]["agrees"] is True
            assert contestants[name]["lower_bound"] is False
            assert contestants[name]["values_compared"] == 600 * 15
            assert contestants[name]["largest_relative_difference"] <= TOLERANCE
        # Its sums are as exact as ours: nothing to tolerate.
        assert contestants["plain_python"]["largest_relative_difference"] == 0.0


def test_point_in_time_says_what_it_measured_and_on_what(point_in_time_result) -> None:
    workload, machine = point_in_time_result["workload"], point_in_time_result["machine"]
    assert (workload["events"], workload["keys"], workload["spine"]) == (6000, 60, 600)
    assert workload["zipf_exponent"] == ZIPF_EXPONENT
    assert machine.keys() >= {"cores", "python", "versions"}
    memory = point_in_time_result["memory"]
    assert memory["events"] == 6000
    assert 0 < memory["peak_gib"] < memory["limit_gib"]
    assert memory["within_limit"] is True


def test_a_peer_stopped_by_the_limit_is_a_lower_bound() -> None:
    sizes = ("--events=6000", "--keys=60", "--spine=600", "--runs=1")
    result = run("bench.point_in_time", *sizes, "--limit-s=0")
    stopped = result["zipf"]["plain_python"]
    assert stopped["lower_bound"] is True
    assert stopped["done"] == 0.0
    assert "agrees" not in stopped
    assert {"plain_python_uniform", "plain_python_zipf"} <= set(result["lower_bounds"])


def test_kernels_give_rates_and_row_sizes() -> None:
    sizes = ("--rows=300", "--dense-hours=3", "--sparse-hours=48", "--reads=500", "--runs=1")
    result = run("bench.kernels", *sizes, "--replay-events=5000")
    for density, per_hour in (("dense", 12.0), ("sparse", 0.25)):
        update = result["update"][density]
        assert update["events_per_row_per_hour"] == per_hour
        assert update["events_per_s_per_core"] > 0
    read = result["read"]
    assert abs(read["tiles_per_row"] - 20) <= 1
    tiles = read["tiles_per_row"] * result["layout"]["tile_bytes"]
    heads = read["head_events_per_row"] * result["layout"]["event_bytes"]
    assert read["bytes_per_row"] == pytest.approx(tiles + heads)
    assert read["entities_per_s_per_core"] > 0
    assert result["replay"]["events_per_s_per_core"] > 0
    ratio = read["entities_per_s_per_core"] / result["targets"]["read"]
    assert result["ratios"]["read"] == pytest.approx(ratio)


def test_the_archive_gives_what_an_event_costs() -> None:
    sizes = ("--events=6000", "--batch-rows=3000", "--small-rows=500", "--runs=1")
    result = run("bench.archive", *sizes)
    for name in ("append", "append_small", "scan", "scan_raw", "scan_compacted", "compact"):
        assert result[name]["cpu_s_per_m"] > 0
    ratio = result["targets"]["append"] / result["append"]["cpu_s_per_m"]
    assert result["ratios"]["append"] == pytest.approx(ratio)
    assert 90 < result["bytes_per_event"]["raw"] < 120
    assert 0 < result["bytes_per_event"]["stored"] < result["bytes_per_event"]["raw"]


def test_zipf_keys_have_a_hot_key_and_uniform_ones_do_not() -> None:
    hottest = {}
    for distribution in ("uniform", "zipf"):
        events, spine = Workload(20_000, 1_000, 100, 30, 1, distribution).frames()
        hottest[distribution] = events["card"].value_counts()["count"].max() / events.height
        assert events["ts"].is_sorted()
        assert spine.height == 100
    assert hottest["uniform"] < 0.01
    assert 0.15 < hottest["zipf"] < 0.35


def test_the_plain_python_peer_slides_and_slices_to_the_same_values(monkeypatch) -> None:
    events, spine = Workload(3_000, 5, 200, 3, 7, "zipf").frames()
    columns = [events[name].to_list() for name in ("card", "ts", "amount")]
    rows = list(zip(spine["card"].to_list(), spine["at"].dt.epoch("us").to_list(), strict=True))
    windows = [(HOUR_US, 60_000_000), (24 * HOUR_US, HOUR_US // 2)]
    found = []
    for limit in (0, 1 << 40):
        monkeypatch.setattr("bench.plain_python._SLICED_EVENTS", limit)
        found.append(point_in_time(*columns, rows, windows)[0])
    assert found[0] == found[1]
    at, row = rows[0][1], found[0][0]
    left = (at - HOUR_US) // 60_000_000 * 60_000_000
    inside = [
        amount
        for card, ts, amount in zip(*columns, strict=True)
        if card == rows[0][0] and left <= ts < at
    ]
    assert row[0] == len(inside)
    assert row[1] == pytest.approx(sum(inside))


@pytest.mark.parametrize(
    ("column", "theirs", "agrees"),
    [
        ("sum_1h", [1.0 + 1e-12, None], True),
        ("sum_1h", [1.0 + 1e-6, None], False),
        ("count_1h", [1.0 + 1e-12, None], False),
        ("sum_1h", [1.0, 0.0], False),
        ("sum_1h", [1.0], False),
    ],
)
def test_agreement_tolerates_rounding_of_sums_and_nothing_else(column, theirs, agrees) -> None:
    ours = pl.DataFrame({column: [1.0, None]})
    assert compare(ours, pl.DataFrame({column: theirs})).agrees is agrees


def test_backfill_compares_a_training_set_with_peers_over_the_same_files(tmp_path) -> None:
    sizes = ("--quick", "--events=3000", "--entities=50", "--spine=300", "--runs=1")
    parts = ("--part=training", "--part=online")
    result = run("bench.backfill", *sizes, *parts, f"--folder={tmp_path}")
    training = result["training"]
    assert training["agrees"] is True
    for distribution, peers in (
        ("zipf", {"duckdb_frames"}),
        ("uniform", {"duckdb_frames", "duckdb_join"}),
    ):
        contestants = training[distribution]
        assert contestants["archive_bytes"] > 0
        assert contestants["headwater"]["events_per_s"] > 0
        for peer in peers:
            assert contestants[peer]["agrees"] is True
            assert contestants[peer]["values_compared"] == 300 * 15
    assert result["ratios"].keys() == {"duckdb", "duckdb_uniform", "events_per_s"}
    assert result["reached"].keys() == {"duckdb", "events_per_s"}
    assert 0 < training["peak_gib"] < 4
    for loaded in result["online"].values():
        assert loaded["events"] == 3_000
        assert loaded["state_bytes"] > 0
    online = result["online"]
    # Windows that reach over all of history leave nothing out.
    assert online["zipf_all_events"]["read"] == 3_000 > online["zipf"]["read"] > 0
    # The archive is kept for the next time.
    assert len(list(tmp_path.glob("*/done.json"))) == 2
