"""How much memory does a training set over a large history take? Run in a process of its own.

Events lie in Parquet files, written by another process so that only the training set is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import workload
from headwater.offline.sources import ParquetEvents
from headwater.offline.training_set import training_set

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_DAYS, _SEED = 30, 1


def _write(folder: Path, load: workload.Workload) -> None:
    events, spine = load.frames()
    events.write_parquet(folder / "events.parquet")
    spine.write_parquet(folder / "spine.parquet")


def _measure(folder: Path) -> dict[str, float]:
    import polars as pl

    plan = workload.plan()
    source = ParquetEvents(plan, {workload.STREAM: folder / "events.parquet"})
    spine = pl.read_parquet(folder / "spine.parquet")
    begin = time.perf_counter()
    rows = training_set(plan, workload.SERVICE, spine, time="at", source=source).collect()
    seconds = time.perf_counter() - begin
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"rows": rows.height, "seconds": seconds, "peak_gib": peak / (1 << 30)}


def main(argv: Sequence[str] | None = None) -> None:
    """Write a workload in one process, measure in another, and print what it found as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--spine", type=int, default=200_000)
    parser.add_argument("--step", choices=("write", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.step == "write":
        load = workload.Workload(
            given.events, given.keys, given.spine, _DAYS, _SEED, distribution="zipf"
        )
        _write(given.folder, load)
    elif given.step == "measure":
        sys.stdout.write(json.dumps({"events": given.events, **_measure(given.folder)}) + "\n")
    else:
        sizes = [f"--{name}={getattr(given, name)}" for name in ("events", "keys", "spine")]
        with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
            for step in ("write", "measure"):
                command = [sys.executable, "-m", "bench.memory", *sizes, "--folder", folder]
                subprocess.run([*command, "--step", step], check=True)


if __name__ == "__main__":
    main()
