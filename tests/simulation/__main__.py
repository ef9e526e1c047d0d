"""Run the simulation for some seeds: `make simulate SEEDS=200 [FIRST=0] [ARGS=--json]`.

Exits 1 when a seed fails, after all of them have run; each comes with the command that replays it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.progress import track

__all__ = ["main"]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds (default 100)")
    parser.add_argument("--first", type=int, help="the first seed (default: a fresh one)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    given = parser.parse_args(arguments)
    if given.seeds < 1 or given.jobs < 1:
        parser.error("--seeds and --jobs are at least 1")
    if given.first is None:
        given.first = int.from_bytes(os.urandom(4), "little")
    return given


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds and say what came of it; return the exit code."""
    given = _parse(arguments)
    # One core a process: the frames are tiny. Polars reads this when it is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from simulation.runs import results

    seeds = range(given.first, given.first + given.seeds)
    console = Console(stderr=True)
    began = time.monotonic()
    counts: Counter[str] = Counter()
    failures: dict[int, str] = {}
    bar = track(
        results(seeds, min(given.jobs, given.seeds)),
        description="Seeds", total=len(seeds), console=console,
        transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    for run in bar:
        counts += run.counts
        if run.failure:
            failures[run.seed] = run.failure
            console.print(run.failure, markup=False, highlight=False, soft_wrap=True)
    _report(given, counts, failures, time.monotonic() - began)
    return 1 if failures else 0


def _report(
    given: argparse.Namespace, counts: Counter[str], failures: dict[int, str], wall_s: float
) -> None:
    found: dict[str, Any] = {
        "first": given.first,
        "seeds": given.seeds,
        "failures": failures,
        "wall_s": round(wall_s, 1),
        "counts": dict(sorted(counts.items())),
    }
    if given.json:
        text = json.dumps(found, indent=2)
    else:
        lines = [f"{count:>10,}  {what}" for what, count in found["counts"].items()]
        head = f"{given.seeds} seeds from {given.first} in {wall_s:.0f} s: {len(failures)} failed"
        text = "\n".join((*lines, head))
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
