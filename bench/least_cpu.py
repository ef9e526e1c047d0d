"""The run of several that took least CPU time: what others do on the machine changes it least."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["least_cpu"]


def least_cpu(
    runs: int, run: Callable[[], object], before: Callable[[], object]
) -> dict[str, float]:
    """Return CPU seconds, of all threads, and wall seconds of the run that took least CPU time."""
    best = {"cpu_seconds": float("inf"), "seconds": float("inf")}
    for _ in range(runs):
        before()
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        took = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall}
        best = min(best, took, key=lambda one: one["cpu_seconds"])
    return best
