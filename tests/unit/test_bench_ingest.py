from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.ingest import DONE, FRESHNESS_MS_TARGETS, OURS, judged, ratios_of
from bench.ingest_memory import measure
from bench.ingest_stages import STAGES, StageClock, find_stage
from bench.ingest_workload import BEGIN_MS, PARTITIONS, Load, payment, service
from bench.tumbling import AGGREGATES, WINDOWS_MS, PeerRun, agree, totals_of
from bench.tumbling_plain_python import Spending, decode_json, msgspec_decoder
from headwater.plan.plan import compile_plan

ROOT = Path(__file__).parents[2]
LOAD = Load(3_000, 200)
WINDOWS = [(3_600_000, 60_000), (86_400_000, 1_800_000), (604_800_000, 10_800_000)]


def test_events_are_of_the_size_promised_and_a_user_is_in_one_partition() -> None:
    frame = LOAD.frame
    assert frame.select("user", "partition").unique().height == frame["user"].n_unique()
    assert set(frame["partition"]) == set(range(PARTITIONS))
    assert frame["ts"].is_sorted()
    assert 0.15 < frame["user"].value_counts()["count"].max() / LOAD.events < 0.35
    partition, key, value, timestamp_ms = next(LOAD.records())
    event = json.loads(value)
    assert (event["user"].encode(), event["ts"]) == (key, timestamp_ms)
    assert 90 <= len(value) <= 110
    assert len(LOAD.values()[partition]) == (frame["partition"] == partition).sum()


def test_probes_and_warm_up_events_have_the_workloads_shape() -> None:
    _, _, value, _ = next(LOAD.records())
    assert json.loads(payment("u1", 1.5, 3)).keys() == json.loads(value).keys()


def test_every_user_has_its_turn_in_a_uniform_load() -> None:
    frame = Load(50, 20, uniform=True).frame
    assert frame["user"].to_list() == [*range(20), *range(20), *range(10)]


def test_windows_of_the_load_all_begin_where_it_does() -> None:
    assert all(BEGIN_MS % size == 0 for size in WINDOWS_MS.values())
    assert LOAD.end_ms - BEGIN_MS < min(WINDOWS_MS.values())


def test_totals_count_rows_and_add_columns() -> None:
    totals = totals_of([(1, 2.0, 2.0, 2.0, 2.0), (2, 5.0, 2.5, 1.0, 4.0)])
    assert totals == {"pairs": 2, "count": 3, "sum": 7, "mean": 4.5, "min": 3, "max": 6}
    assert totals_of([]) == dict.fromkeys(("pairs", *AGGREGATES), 0.0)


@pytest.mark.parametrize(
    ("name", "change", "same"),
    [("sum", 1e-12, True), ("sum", 1e-6, False), ("count", 1e-12, False), ("pairs", 1.0, False)],
)
def test_wrong_totals_are_noticed(name, change, same) -> None:
    wanted = {"1h": totals_of([(3, 6.0, 2.0, 1.0, 3.0)])}
    found = {"1h": {**wanted["1h"], name: wanted["1h"][name] * (1 + change)}}
    assert agree(found, wanted) is same


def test_totals_that_are_missing_are_wrong() -> None:
    assert not agree({}, LOAD.totals())
    assert not agree({"1h": {}}, LOAD.totals())


def test_ours_and_both_plain_programs_find_the_oracles_totals() -> None:
    found = measure(compile_plan([service("payments")]), "payments", LOAD, runs=1)
    assert found.keys() == {"headwater_memory", "plain_python_json", "plain_python_msgspec"}
    wanted = LOAD.totals()
    for name, one in found.items():
        assert agree(one["totals"], wanted), name
        assert one["events_per_s"] > 0


@pytest.mark.parametrize("decode", [decode_json, msgspec_decoder()], ids=["json", "msgspec"])
def test_the_plain_program_sets_aside_what_is_no_event(decode) -> None:
    late_ms = BEGIN_MS + 300_001
    bad = [b"{", b"[]", b'{"user":"a","ts":1}', b'{"user":1,"amount":1.0,"ts":1}']
    bad += [b'{"user":"a","amount":"1","ts":1}', payment("a", 1.0, late_ms)]
    spending = Spending(WINDOWS)
    spending.apply(decode([*bad, payment("a", 2.0, BEGIN_MS)], BEGIN_MS))
    assert spending.dead_letters == len(bad)
    assert spending.read("a", BEGIN_MS + 1) == [(1, 2.0, 2.0, 2.0, 2.0)] * 3


def test_the_plain_program_forgets_what_no_window_holds() -> None:
    spending = Spending(WINDOWS)
    later_ms = BEGIN_MS + 3_660_000
    spending.apply([("a", 1.0, BEGIN_MS), ("a", 4.0, BEGIN_MS + 1), ("a", 2.0, later_ms)])
    hour, day, week = spending.read("a", later_ms + 1)
    assert hour == (1, 2.0, 2.0, 2.0, 2.0)
    assert day == week == (3, 7.0, 7.0 / 3, 1.0, 4.0)
    assert len(spending._users["a"][0]) == 1
    assert spending.read("nobody", later_ms)[0] == (0, None, None, None, None)


def test_a_peers_result_is_one_line_with_its_time_from_first_event_to_last(capsys) -> None:
    run = PeerRun(5)
    assert not run.has_begun
    run.begin()
    run.end(5)
    run.write({"1h": totals_of([])})
    written = json.loads(capsys.readouterr().out)
    assert run.has_begun
    assert written["events"] == 5
    assert written.keys() == {"events", "seconds", "cpu_seconds", "totals"}


@pytest.mark.parametrize(("stage", "module", "name"), STAGES, ids=[name for *_, name in STAGES])
def test_every_stage_that_is_timed_is_where_the_engine_has_it(stage, module, name) -> None:
    holder, attribute = find_stage(module, name)
    assert callable(getattr(holder, attribute)), f"{stage} has moved: name its new place in STAGES"


def test_a_stage_has_its_own_time_without_that_of_the_stages_within() -> None:
    now = [0.0]
    clock = StageClock(lambda: now[0])

    def spend(seconds: float) -> None:
        now[0] += seconds

    inner = clock._timed("inner", lambda: spend(2.0))

    def work() -> None:
        spend(1.0)
        inner()
        inner()
        spend(0.5)

    clock.start()
    thread = threading.Thread(target=clock._timed("outer", work), name="headwater-ingest.payments")
    thread.start()
    thread.join()
    clock.stop()
    seconds = clock.seconds()
    assert seconds["ingest.outer"] == 1.5
    assert seconds["ingest.inner"] == 4.0


def test_stages_are_wrapped_only_within_the_context() -> None:
    before = [getattr(*find_stage(module, name)) for _, module, name in STAGES]
    with StageClock().wrapped():
        assert all(
            getattr(*find_stage(module, name)) is not one
            for (_, module, name), one in zip(STAGES, before, strict=True)
        )
    assert [getattr(*find_stage(module, name)) for _, module, name in STAGES] == before


def test_ratios_are_taken_of_the_faster_plain_program_and_none_without_a_peer() -> None:
    speeds = {
        OURS: 300.0,
        "quix_tumbling": 10.0,
        "headwater_memory": 800.0,
        "plain_python_json": 100.0,
        "plain_python_msgspec": 200.0,
    }
    assert ratios_of(speeds) == {
        "quix_tumbling": 30.0,
        "bytewax_tumbling": None,
        "plain_python": 4.0,
        "plain_python_json": 8.0,
    }


def test_what_is_missed_is_named() -> None:
    result = {
        "ratios": {"quix_tumbling": 9.0, "bytewax_tumbling": None, "plain_python": 12.0},
        "events_per_s": {OURS: 300_000.0},
        "freshness_ms": {"p50": 19.0, "p99": FRESHNESS_MS_TARGETS["p99"] + 1},
        "restart_s": {"total": 8.5},
    }
    missed = ["quix_tumbling", "events_per_s 400000", "freshness_ms.p99", "restart_s"]
    assert judged(result)["missed"] == missed
    assert judged({"ratios": {}, "events_per_s": {}})["missed"] == []


def test_the_part_that_needs_no_broker_gives_the_ratio_it_promises() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.ingest", "--quick", "--json", "--parts", "memory"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    result = json.loads(done.stdout)
    assert result["agrees"] is True
    rates, ratios = result["events_per_s"], result["ratios"]
    fastest = max(rates["plain_python_json"], rates["plain_python_msgspec"])
    assert ratios["plain_python"] == pytest.approx(rates["headwater_memory"] / fastest)
    assert ratios["quix_tumbling"] is None
    assert result["contestants"].keys() <= DONE.keys()
    assert 90 <= result["workload"]["event_bytes"] <= 110
