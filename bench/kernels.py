"""How fast are the update and the read kernel, on one core? `python -m bench.kernels [--json]`.

README.md says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

import headwater as hw
from bench.least_cpu import least_cpu
from bench.machine import machine
from bench.report import write_result
from headwater.kernels.memory import SPACE_WORDS, reset
from headwater.kernels.read import read
from headwater.kernels.rows import HEADS, ROW_WORDS, TILES
from headwater.kernels.update import update
from headwater.kernels.workspace import workspace
from headwater.offline.point_in_time import Events, Reads, features_at
from headwater.plan.layout import layout_of
from headwater.state.events import event_words
from headwater.state.group import Values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from headwater.plan.layout import Layout

__all__ = ["main"]

TARGETS = {"update": 2_500_000.0, "read": 1_000_000.0}
WINDOWS = ("1h", "24h", "7d")
TILES_PER_ROW, TILES_SLACK = 20.0, 1.0

_HOUR_US = 3_600_000_000
_BATCH_EVENTS = 16_384
_READ_BACK_US = 60_000_000
_ARENA_WORDS = 1 << 27  # of address space; memory is taken as it is used
_WARM_EVENTS = 64


def _layout() -> Layout:
    stream = hw.stream(
        "events",
        schema={"key": pl.Int64, "ts": pl.Int64, "x": pl.Float64},
        event_time=hw.epoch("ts", "us"),
    )
    entity = hw.entity("key", key="key", dtype=pl.Int64)
    features = (
        stream.group_by(entity)
        .window(*WINDOWS)
        .agg(
            count=hw.count(),
            sum=hw.sum("x"),
            mean=hw.mean("x"),
            low=hw.min("x"),
            high=hw.max("x"),
        )
    )
    return layout_of(features, "bench")


@dataclass(frozen=True, slots=True)
class History:
    """Events in time order: `slots` (n), `times` (n, µs), `words` (n, event words)."""

    slots: NDArray[np.int32]
    times: NDArray[np.int64]
    words: NDArray[np.uint64]

    @classmethod
    def draw(cls, layout: Layout, rows: int, events: int, hours: float, seed: int) -> History:
        """Return events spread evenly over rows and hours."""
        rng = np.random.default_rng(seed)
        times = np.sort(rng.integers(0, int(hours * _HOUR_US), events))
        slots = rng.integers(0, rows, events).astype(np.int32)
        frame = pl.DataFrame({"x": np.round(rng.lognormal(3.0, 1.0, events), 2)})
        words, _ = event_words(layout, frame, times, np.arange(events))
        return cls(slots, times, words)


class State:
    """Rows in an arena that is used again by every run, as a worker's is."""

    def __init__(self, layout: Layout, rows: int) -> None:
        self.layout = layout
        self.arena = np.empty(_ARENA_WORDS, np.uint64)
        self.space = np.empty(SPACE_WORDS, np.int64)
        self.rows = np.zeros((rows, ROW_WORDS), np.int64)
        self.work = workspace(layout.table)
        self.counters = np.zeros(1, np.int64)
        self.clear()

    def clear(self) -> None:
        """Forget every event."""
        reset(self.space, len(self.arena))
        self.rows[:] = 0

    def apply(self, history: History, begin: int, end: int) -> None:
        """Apply events in batches; the horizon follows `read_back` behind the newest."""
        for first in range(begin, end, _BATCH_EVENTS):
            last = min(first + _BATCH_EVENTS, end)
            done = update(
                self.arena,
                self.space,
                self.rows,
                self.layout.table,
                self.work,
                history.slots[first:last].copy(),
                history.words[first:last],
                0,
                int(history.times[first]) - _READ_BACK_US,
                1,
                self.counters,
            )
            assert done == last - first, "the arena is too small for this benchmark"

    def read(self, slots: NDArray[np.int32], times: NDArray[np.int64]) -> Values:
        """Return the features of rows."""
        found = Values(len(slots), len(self.layout.output_dtypes))
        self.read_into(found, slots, times)
        return found

    def read_into(self, found: Values, slots: NDArray[np.int32], times: NDArray[np.int64]) -> None:
        """Read into values that are there already, as a server's are."""
        read(
            self.arena,
            self.rows,
            self.layout.table,
            self.work,
            slots,
            times,
            found.bits.view(np.float64),
            found.bits,
            found.valid,
        )

    def shape(self) -> dict[str, float]:
        """Return what a row holds, on average; bytes are those in use, as written to disk."""
        tiles, heads = float(self.rows[:, TILES].mean()), float(self.rows[:, HEADS].mean())
        words = tiles * self.layout.tile_words + heads * self.layout.event_words
        return {
            "tiles_per_row": tiles,
            "head_events_per_row": heads,
            "bytes_per_row": words * 8,
            "memory_bytes_per_row": (self.space[0] - self.space[2]) * 8 / len(self.rows),
        }


def measure_update(
    layout: Layout, rows: int, per_row_hour: float, hours: float, runs: int
) -> dict[str, float]:
    """Return how fast events enter rows that have been filled by as many before."""
    events = int(rows * per_row_hour * hours)
    history = History.draw(layout, rows, events, hours, seed=1)
    state = State(layout, rows)
    half = events // 2

    def fill() -> None:
        state.clear()
        state.apply(history, 0, half)

    best = least_cpu(runs, lambda: state.apply(history, half, events), fill)
    measured = events - half
    return {
        "events_per_s_per_core": measured / best["cpu_seconds"],
        "events_per_s_wall": measured / best["seconds"],
        "events": measured,
        "rows": rows,
        "events_per_row_per_hour": per_row_hour,
        **state.shape(),
    }


def _rows_of_twenty_tiles(layout: Layout, rows: int) -> State:
    """Return rows that a week of events has left with 20 tiles on average."""
    state = State(layout, rows)
    low, high = 1, 400
    while low < high:
        # More events make more tiles: halve towards the density that gives the number wanted.
        per_row = (low + high) // 2
        history = History.draw(layout, rows, rows * per_row, 7 * 24, seed=2)
        state.clear()
        state.apply(history, 0, len(history.slots))
        tiles = float(state.rows[:, TILES].mean())
        if abs(tiles - TILES_PER_ROW) <= TILES_SLACK:
            return state
        low, high = (per_row + 1, high) if tiles < TILES_PER_ROW else (low, per_row)
    raise AssertionError("no density gives 20 tiles a row: the layout has changed")


def measure_read(layout: Layout, rows: int, reads: int, runs: int) -> dict[str, float]:
    """Return how fast rows of 20 tiles are read, in random order, at the newest time."""
    state = _rows_of_twenty_tiles(layout, rows)
    rng = np.random.default_rng(3)
    slots = rng.integers(0, rows, reads).astype(np.int32)
    times = np.full(reads, 7 * 24 * _HOUR_US)
    found = state.read(slots, times)
    best = least_cpu(runs, lambda: state.read_into(found, slots, times), lambda: None)
    return {
        "entities_per_s_per_core": reads / best["cpu_seconds"],
        "entities_per_s_wall": reads / best["seconds"],
        "reads": reads,
        "rows": rows,
        "features_per_entity": len(layout.output_dtypes),
        **state.shape(),
    }


def measure_replay(
    layout: Layout, rows: int, events: int, reads: int, runs: int
) -> dict[str, float]:
    """Return how fast a month of history is replayed for reads in between, sorting included."""
    hours = 30 * 24
    drawn = History.draw(layout, rows, events, hours, seed=4)
    history = Events(drawn.slots, drawn.words, drawn.times)
    rng = np.random.default_rng(5)
    slots = rng.integers(0, rows, reads).astype(np.int32)
    times = rng.integers(0, hours * _HOUR_US, reads)
    asked = Reads(slots, times, times, ages=True)
    features_at(layout, rows, history, asked)
    best = least_cpu(
        runs, lambda: _discard(features_at(layout, rows, history, asked)), lambda: None
    )
    return {
        "events_per_s_per_core": events / best["cpu_seconds"],
        "reads_per_s_per_core": reads / best["cpu_seconds"],
        "seconds": best["seconds"],
        "cpu_seconds": best["cpu_seconds"],
        "events": events,
        "reads": reads,
        "rows": rows,
    }


def _discard(_values: Values) -> None:
    pass


def _warm_up(layout: Layout) -> None:
    """Compile, or load from the cache, before anything is timed."""
    history = History.draw(layout, 2, _WARM_EVENTS, 1, seed=0)
    state = State(layout, 2)
    state.apply(history, 0, _WARM_EVENTS)
    state.read(np.zeros(1, np.int32), np.full(1, _HOUR_US))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dense-hours", type=float, default=12.0, help="at 12 events an hour")
    parser.add_argument("--sparse-hours", type=float, default=168.0, help="at one in 4 hours")
    parser.add_argument("--reads", type=int, default=200_000)
    parser.add_argument("--replay-events", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5, help="the best of so many is reported")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its result."""
    given = _arguments(argv)
    layout = _layout()
    _warm_up(layout)
    rows, runs = given.rows, given.runs
    updates = {
        "dense": measure_update(layout, rows, 12.0, given.dense_hours, runs),
        "sparse": measure_update(layout, rows, 0.25, given.sparse_hours, runs),
    }
    reads = measure_read(layout, rows, given.reads, runs)
    replayed = measure_replay(layout, rows, given.replay_events, given.reads // 2, runs)
    reached = {
        "update": updates["dense"]["events_per_s_per_core"],
        "update_sparse": updates["sparse"]["events_per_s_per_core"],
        "read": reads["entities_per_s_per_core"],
    }
    result = {
        "benchmark": "kernels",
        "machine": machine(),
        "layout": {
            "windows": list(WINDOWS),
            "aggregates": ["count", "sum", "mean", "min", "max"],
            "tile_bytes": layout.tile_words * 8,
            "event_bytes": layout.event_words * 8,
            "read_back_s": _READ_BACK_US // 1_000_000,
        },
        "update": updates,
        "read": reads,
        "replay": replayed,
        "targets": TARGETS,
        # Of what we ask of ourselves: 1 is the target.
        "ratios": {
            name: rate / TARGETS["read" if name == "read" else "update"]
            for name, rate in reached.items()
        },
    }
    write_result(result, as_json=given.json)


if __name__ == "__main__":
    main()
