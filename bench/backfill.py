"""How fast is history read again? A training set from the archive, DuckDB on its files beside us.

`python -m bench.backfill [--json] [--quick]`; README.md says how to read the result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from bench import workload
from bench.agreement import TOLERANCE, compare
from bench.backfill_live import measure as measure_live
from bench.backfill_training import JOIN, OURS, PEERS
from bench.backfill_workload import DAYS, SEED, Prepared, Sizes, prepare
from bench.machine import machine
from bench.report import write_result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PARTS", "main"]

TARGETS = {"duckdb": 2.0, "events_per_s": 1_000_000}
LIMITS = {"slow_down_p99": 3.0}
# With the last of these no event of the thirty days is too old.
ALL_WINDOWS = ("24h", "7d", "30d")
PEAK_LIMIT_GIB = 4.0
QUICK = Sizes(events=20_000, entities=500, spine=1_000)


def training(given: argparse.Namespace) -> dict[str, object]:
    """Measure a training set; the answer of every peer is compared with ours.

    With skewed keys the range join pairs the hottest entity's events with its spine rows, which
    are a hundred billion: no contest, so it runs on the uniform ones only.
    """
    result: dict[str, object] = {}
    ratios: dict[str, float] = {}
    bounds: list[str] = []
    agrees = True
    for distribution in ("zipf", "uniform"):
        sizes = replace(given.sizes, distribution=distribution)
        made = prepare(given.folder, sizes)
        peers = [peer for peer in PEERS if peer != JOIN or distribution == "uniform"]
        found = _contest(made, sizes, peers, given)
        best = min(float(found[peer]["seconds"]) for peer in peers)  # type: ignore[arg-type]
        name = "duckdb" if distribution == "zipf" else "duckdb_uniform"
        ratios[name] = best / float(found[OURS]["seconds"])  # type: ignore[arg-type]
        if distribution == "zipf" and found[peers[0]]["lower_bound"]:
            bounds.append(name)
        agrees = agrees and all(one.get("agrees", True) for one in found.values())
        result[distribution] = {**found, "archive_bytes": made.archive_bytes()}
    ours: dict[str, float] = result["zipf"][OURS]  # type: ignore[index]
    return {
        **result,
        "events_per_s": ours["events_per_s"],
        "peak_gib": ours["peak_gib"],
        "within_memory": ours["peak_gib"] < PEAK_LIMIT_GIB,
        "ratios": ratios,
        "lower_bounds": bounds,
        "agrees": agrees,
    }


def _contest(
    made: Prepared, sizes: Sizes, peers: Sequence[str], given: argparse.Namespace
) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        for name in (OURS, *peers):
            out = Path(folder) / f"{name}.parquet"
            command = [sys.executable, "-m", "bench.backfill_training", name]
            command += [str(made.folder), str(out)]
            command += [f"--runs={given.runs}", f"--limit-s={given.limit_s}"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            one: dict[str, object] = json.loads(done.stdout)
            one["events_per_s"] = sizes.events / float(one["seconds"])  # type: ignore[arg-type]
            if name != OURS and out.exists():
                ours = pl.read_parquet(Path(folder) / f"{OURS}.parquet")
                agreement = compare(ours, pl.read_parquet(out))
                one["agrees"] = agreement.agrees
                one["values_compared"] = agreement.values
            found[name] = one
    return found


def online(given: argparse.Namespace) -> dict[str, object]:
    """Measure the past of a new view, from the archive into the state of a worker.

    Windows up to 7 days leave most of 30 days out; with `all_events` every event is folded.
    """
    result: dict[str, dict[str, float]] = {}
    for distribution in ("zipf", "uniform"):
        made = prepare(given.folder, replace(given.sizes, distribution=distribution))
        for name, windows in (("", workload.WINDOWS), ("_all_events", ALL_WINDOWS)):
            command = [sys.executable, "-m", "bench.backfill_online", str(made.folder)]
            command += ["--windows", *windows]
            runs = [
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                for _ in range(given.runs)
            ]
            result[distribution + name] = min(runs, key=lambda run: float(run["seconds"]))
    slowest = min(result[name]["events_per_s"] for name in ("zipf", "uniform"))
    return {**result, "ratios": {"events_per_s": slowest}}


def live(given: argparse.Namespace) -> dict[str, object]:
    """Measure how much later events can be read while a new view gets its past."""
    found = measure_live(given)
    return {**found, "ratios": {"slow_down_p99": found["slow_down_p99"]}}


# What is measured, by name: each takes the arguments and returns its part of the result.
PARTS: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "training": training,
    "online": online,
    "live": live,
}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.backfill", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a small one, to see that it runs")
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="default: all")
    parser.add_argument("--events", type=int)
    parser.add_argument("--entities", type=int)
    parser.add_argument("--spine", type=int)
    parser.add_argument("--runs", type=int, default=2, help="the best of so many is reported")
    parser.add_argument("--limit-s", type=float, default=60.0, help="stops a peer's run")
    parser.add_argument("--live-past", type=int, default=5_000_000, help="events before the load")
    parser.add_argument("--live-users", type=int, default=100_000)
    parser.add_argument("--live-rate", type=int, default=20_000, help="events a second")
    parser.add_argument("--live-s", type=float, default=15.0, help="before the backfill")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "headwater-bench-backfill",
        help="where the archive is kept for the next time",
    )
    given = parser.parse_args(argv)
    if given.quick:
        given.live_past, given.live_rate, given.live_s = 50_000, 1_000, 2.0
    sizes = QUICK if given.quick else Sizes()
    asked = {name: getattr(given, name) for name in ("events", "entities", "spine")}
    given.sizes = replace(sizes, **{name: n for name, n in asked.items() if n is not None})
    return given


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its result."""
    given = _arguments(argv)
    result: dict[str, object] = {"benchmark": "backfill", "machine": machine()}
    result["workload"] = {
        **{name: n for name, n in asdict(given.sizes).items() if name != "distribution"},
        "days": DAYS,
        "seed": SEED,
        "windows": list(workload.WINDOWS),
        "aggregates": list(workload.AGGREGATES),
        "zipf_exponent": workload.ZIPF_EXPONENT,
        "runs": given.runs,
        "limit_s": given.limit_s,
        "tolerance": TOLERANCE,
    }
    ratios: dict[str, float] = {}
    for name in given.part or PARTS:
        part = PARTS[name](given)
        ratios |= part.pop("ratios", {})  # type: ignore[arg-type]
        result[name] = part
    result["ratios"] = ratios
    result["targets"] = {**TARGETS, **LIMITS}
    result["reached"] = {
        **{n: ratios[n] >= least for n, least in TARGETS.items() if n in ratios},
        **{n: ratios[n] <= most for n, most in LIMITS.items() if n in ratios},
    }
    write_result(result, as_json=given.json)


if __name__ == "__main__":
    main()
