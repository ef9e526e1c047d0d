"""A contestant of the training part of the backfill benchmark, in a process of its own.

It prints one line of JSON; its features go to a file, to be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import workload
from bench.backfill_workload import Prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

__all__ = ["JOIN", "OURS", "PEERS", "main"]

OURS, FRAMES, JOIN = "headwater", "duckdb_frames", "duckdb_join"
PEERS = (FRAMES, JOIN)


def _headwater(made: Prepared) -> Callable[[], pl.DataFrame | None]:
    import polars as pl

    from headwater.offline.sources import ParquetEvents
    from headwater.offline.training_set import training_set

    plan = workload.plan()
    # Kernels are compiled, or loaded from their cache, before anything is timed.
    events, spine = workload.Workload(1_000, 10, 10, 30, 1, "uniform").frames()
    source = ParquetEvents(plan, {workload.STREAM: events})
    training_set(plan, workload.SERVICE, spine, time="at", source=source)

    def run() -> pl.DataFrame:
        spine = pl.scan_parquet(made.spine)
        source = made.source()
        return training_set(plan, workload.SERVICE, spine, time="at", source=source).collect()

    return run


def _duckdb(made: Prepared, name: str, limit_s: float) -> Callable[[], pl.DataFrame | None]:
    from bench.duckdb_peer import DuckDB, frames_query, join_query

    plan = workload.plan()
    windows = workload.windows_us(plan)
    query = join_query(windows) if name == JOIN else frames_query(windows)
    duckdb = DuckDB.over_parquet(made.files, str(made.spine))
    return lambda: duckdb.run(query, limit_s)


def measure(run: Callable[[], pl.DataFrame | None], runs: int, out: Path) -> dict[str, object]:
    """Return the best of some runs; one that the limit stopped is the last."""
    seconds = cpu = float("inf")
    found = None
    for _ in range(runs):
        wall, used = time.perf_counter(), time.process_time()
        found = run()
        seconds = min(seconds, time.perf_counter() - wall)
        cpu = min(cpu, time.process_time() - used)
        if found is None:
            break
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if found is not None:
        found.select(sorted(workload.feature_names())).write_parquet(out)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_gib": peak / (1 << 30),
        "lower_bound": found is None,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run one contestant and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant", choices=(OURS, *PEERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--limit-s", type=float, default=60.0)
    given = parser.parse_args(argv)
    made = Prepared(given.folder)
    run = (
        _headwater(made)
        if given.contestant == OURS
        else _duckdb(made, given.contestant, given.limit_s)
    )
    result = measure(run, given.runs, given.out)
    sys.stdout.write(json.dumps({"cores": os.cpu_count(), **result}) + "\n")


if __name__ == "__main__":
    main()
