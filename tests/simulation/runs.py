"""Runs of many seeds, one after the other or in several processes."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING

from simulation.failure import SimulationError
from simulation.simulation import run_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Run", "first_failure", "results"]


@dataclass(frozen=True, slots=True)
class Run:
    """What a seed went through, and why it failed if it did."""

    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    failure: str = ""


def _run(seed: int) -> Run:
    try:
        return Run(seed, run_seed(seed))
    except SimulationError as failure:
        return Run(seed, failure=str(failure))


def results(seeds: Iterable[int], jobs: int = 1) -> Iterator[Run]:
    """Yield the run of each seed, in their order."""
    if jobs == 1:
        yield from map(_run, seeds)
        return
    # Spawned: forks would share locks of threads that they don't have.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_run, seeds)


def first_failure(seeds: Iterable[int]) -> Run | None:
    """Return the first seed that fails; None if none does."""
    return next((run for run in results(seeds) if run.failure), None)
