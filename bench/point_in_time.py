"""How fast is a point in time correct training set? DuckDB and plain Python beside us.

`python -m bench.point_in_time [--json] [--memory]`; README.md says how to read the result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from bench import workload
from bench.agreement import TOLERANCE, compare
from bench.duckdb_peer import DuckDB, frames_query, join_query
from bench.machine import machine
from bench.plain_python import Row, point_in_time
from bench.report import write_result
from headwater.offline.sources import ParquetEvents
from headwater.offline.training_set import training_set

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headwater.plan.plan import Plan

    # Returns the features, and the share of the spine that was done when the limit came.
    _Run = Callable[[], tuple[pl.DataFrame | list[Row | None] | None, float]]

__all__ = ["main"]

TARGETS = {"duckdb_zipf": 25.0, "duckdb_uniform": 2.0, "plain_python": 20.0}
MEMORY_EVENTS, MEMORY_LIMIT_GIB = 20_000_000, 4.0
OURS = "headwater"

_Columns = tuple[list[int], list[int], list[float]]


@dataclass(slots=True)
class Timing:
    """The best of a contestant's runs, and the share of the spine it was `done` with."""

    seconds: float = float("inf")
    cpu_seconds: float = float("inf")
    done: float = 1.0
    features: pl.DataFrame | list[Row | None] | None = field(default=None, repr=False)

    def add(self, run: _Run) -> None:
        """Run once more, unless the time limit has stopped a run."""
        if self.done < 1.0:
            return
        wall, cpu = time.perf_counter(), time.process_time()
        features, self.done = run()
        self.seconds = min(self.seconds, time.perf_counter() - wall)
        self.cpu_seconds = min(self.cpu_seconds, time.process_time() - cpu)
        self.features = features if self.done == 1.0 else None

    def frame(self, names: Sequence[str]) -> pl.DataFrame | None:
        """Return the features as columns, if there are any."""
        if isinstance(self.features, list):
            schema = dict.fromkeys(names, pl.Float64)
            return pl.DataFrame(self.features, schema=schema, orient="row", strict=False)
        return None if self.features is None else self.features.select(names)


def _headwater(plan: Plan, events: pl.DataFrame, spine: pl.DataFrame) -> tuple[pl.DataFrame, float]:
    source = ParquetEvents(plan, {workload.STREAM: events.lazy()})
    return training_set(plan, workload.SERVICE, spine, time="at", source=source).collect(), 1.0


def contest(load: workload.Workload, runs: int, limit_s: float) -> dict[str, Timing]:
    """Time every contestant on one workload, in turns, and return the best of each."""
    plan = workload.plan()
    windows = workload.windows_us(plan)
    events, spine = load.frames()
    in_us = spine.select("card", at_us=pl.col("at").dt.epoch("us"), i=pl.int_range(pl.len()))
    duckdb = DuckDB.of_frames(events, in_us)
    columns: _Columns = (
        events["card"].to_list(),
        events["ts"].to_list(),
        events["amount"].to_list(),
    )
    rows = list(zip(in_us["card"].to_list(), in_us["at_us"].to_list(), strict=True))

    def sql(query: str) -> tuple[pl.DataFrame | None, float]:
        frame = duckdb.run(query, limit_s)
        return frame, 0.0 if frame is None else 1.0

    def python() -> tuple[list[Row | None], float]:
        deadline = time.perf_counter() + limit_s
        found, done = point_in_time(*columns, rows, list(windows.values()), deadline)
        return found, done / len(rows)

    contestants: dict[str, _Run] = {
        OURS: lambda: _headwater(plan, events, spine),
        "duckdb_frames": lambda: sql(frames_query(windows)),
        "plain_python": python,
    }
    if load.distribution == "uniform":
        # With a hot key its events times its spine rows are billions of pairs: no contest.
        contestants["duckdb_join"] = lambda: sql(join_query(windows))
    timings = {name: Timing() for name in contestants}
    for _ in range(runs):
        for name, run in contestants.items():
            timings[name].add(run)
    duckdb.close()
    return timings


def summary(timings: dict[str, Timing], spine: int) -> dict[str, dict[str, object]]:
    """Return each contestant's figures, and whether its values are ours; let go of the values."""
    names = workload.feature_names()
    ours = timings[OURS].frame(names)
    assert ours is not None
    found: dict[str, dict[str, object]] = {}
    for name, timing in timings.items():
        one: dict[str, object] = {
            "seconds": timing.seconds,
            "cpu_seconds": timing.cpu_seconds,
            "rows_per_s": spine * timing.done / timing.seconds,
            "lower_bound": timing.done < 1.0,
            "done": timing.done,
        }
        theirs = timing.frame(names)
        timing.features = None
        if theirs is not None and name != OURS:
            agreement = compare(ours, theirs)
            one["agrees"] = agreement.agrees
            one["values_compared"] = agreement.values
            one["largest_relative_difference"] = agreement.largest_difference
        found[name] = one
    return found


def ratios_of(uniform: dict[str, Timing], zipf: dict[str, Timing], which: str) -> dict[str, float]:
    """Return how many times as long as ours the peers took; of two answers the less flattering."""

    def times(timings: dict[str, Timing], *peers: str) -> float:
        best = min(float(getattr(timings[peer], which)) for peer in peers)
        return best / float(getattr(timings[OURS], which))

    python_uniform, python_zipf = times(uniform, "plain_python"), times(zipf, "plain_python")
    return {
        "duckdb_zipf": times(zipf, "duckdb_frames"),
        "duckdb_uniform": times(uniform, "duckdb_frames", "duckdb_join"),
        "plain_python": min(python_uniform, python_zipf),
        "plain_python_uniform": python_uniform,
        "plain_python_zipf": python_zipf,
    }


def _memory(events: int, keys: int, spine: int) -> dict[str, object]:
    """Return the peak memory of a training set over so many events, in a process of its own."""
    command = [sys.executable, "-m", "bench.memory", "--events", str(events)]
    command += ["--keys", str(keys), "--spine", str(spine)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, object] = json.loads(done.stdout)
    measured["limit_gib"] = MEMORY_LIMIT_GIB
    measured["within_limit"] = float(measured["peak_gib"]) < MEMORY_LIMIT_GIB  # type: ignore[arg-type]
    return measured


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.point_in_time", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--spine", type=int, default=200_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3, help="the best of so many is reported")
    parser.add_argument("--limit-s", type=float, default=300.0, help="stops a peer's run")
    parser.add_argument("--memory", action="store_true", help="measure peak memory as well")
    parser.add_argument("--memory-events", type=int, default=MEMORY_EVENTS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its result."""
    given = _arguments(argv)
    result: dict[str, object] = {"benchmark": "point_in_time", "machine": machine()}
    sizes = {name: getattr(given, name) for name in ("events", "keys", "spine", "days", "seed")}
    result["workload"] = {
        **sizes,
        "windows": list(workload.WINDOWS),
        "aggregates": list(workload.AGGREGATES),
        "zipf_exponent": workload.ZIPF_EXPONENT,
        "runs": given.runs,
        "limit_s": given.limit_s,
        "tolerance": TOLERANCE,
    }
    if given.memory:
        # First: a child's peak counts what its parent held when it started.
        result["memory"] = _memory(given.memory_events, given.keys, given.spine)
    timings, summaries = {}, {}
    for distribution in ("uniform", "zipf"):
        load = workload.Workload(**sizes, distribution=distribution)
        timings[distribution] = contest(load, given.runs, given.limit_s)
        summaries[distribution] = summary(timings[distribution], given.spine)
    result |= summaries
    ratios = ratios_of(timings["uniform"], timings["zipf"], "seconds")
    result["ratios"] = ratios
    result["ratios_cpu"] = ratios_of(timings["uniform"], timings["zipf"], "cpu_seconds")
    result["targets"] = TARGETS
    result["reached"] = {name: ratios[name] >= target for name, target in TARGETS.items()}
    contestants = [
        (f"{name}_{distribution}", one)
        for distribution, found in summaries.items()
        for name, one in found.items()
    ]
    # Peers that the limit stopped: their ratios say "at least".
    result["lower_bounds"] = [name for name, one in contestants if one["lower_bound"]]
    result["agrees"] = all(one.get("agrees", True) for _, one in contestants)
    write_result(result, as_json=given.json)


if __name__ == "__main__":
    main()
