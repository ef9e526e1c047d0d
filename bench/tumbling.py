"""Tumbling windows: which they are, and the totals that tell whether a peer computed them right.

Nothing but the standard library: peers that live in an environment of their own import it too.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["AGGREGATES", "WINDOWS_MS", "PeerRun", "Totals", "agree", "peer_arguments", "totals_of"]

WINDOWS_MS = {"1h": 3_600_000, "24h": 86_400_000, "7d": 604_800_000}
AGGREGATES = ("count", "sum", "mean", "min", "max")

# Of each window: how many pairs of a user and a window there are, and each aggregate's total.
Totals = dict[str, dict[str, float]]

_TOLERANCE = 1e-9


def totals_of(rows: Iterable[tuple[float, ...]]) -> dict[str, float]:
    """Return how many (count, sum, mean, min, max) rows there are, and their totals."""
    columns = list(zip(*rows, strict=True)) or [()] * len(AGGREGATES)
    sums = [math.fsum(column) for column in columns]
    return {"pairs": float(len(columns[0])), **dict(zip(AGGREGATES, sums, strict=True))}


def agree(found: Mapping[str, Mapping[str, float]], wanted: Totals) -> bool:
    """Return whether totals are the same: numbers of rows exactly, sums but for their rounding."""
    for window, totals in wanted.items():
        theirs = found.get(window, {})
        for name, total in totals.items():
            tolerance = 0.0 if name in {"pairs", "count"} else _TOLERANCE * abs(total)
            if name not in theirs or not abs(theirs[name] - total) <= tolerance:
                return False
    return True


@dataclass(slots=True)
class PeerRun:
    """A peer's run: it counts events, and takes the time from the first to the last."""

    wanted: int
    events: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    has_begun: bool = False
    _began: float = 0.0
    _began_cpu: float = 0.0

    def begin(self) -> None:
        """Note that the first event is here."""
        self.has_begun = True
        self._began, self._began_cpu = time.perf_counter(), _cpu_seconds()

    def end(self, events: int) -> None:
        """Note that the last event is done."""
        self.events = events
        self.seconds = time.perf_counter() - self._began
        self.cpu_seconds = _cpu_seconds() - self._began_cpu

    def write(self, totals: Totals) -> None:
        """Write what was measured and found to standard output."""
        result = {"events": self.events, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
        sys.stdout.write(json.dumps({**result, "totals": totals}) + "\n")


def peer_arguments(name: str, about: str | None) -> argparse.Namespace:
    """Return where a peer finds its events, and how many it has to do."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=about)
    parser.add_argument("--servers", required=True, help="the Kafka cluster")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--events", type=int, required=True, help="how many the topic holds")
    parser.add_argument("--folder", required=True, help="for state; the caller removes it")
    return parser.parse_args()


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
