"""What does the archive cost, by event? `python -m bench.archive [--json]`.

README.md says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from bench.least_cpu import least_cpu
from bench.machine import machine
from bench.report import write_result
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.compaction import Sizes, compact

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

# CPU seconds for a million events.
TARGETS = {"append": 0.4}

_TOPIC, _ID = "payments", "bench"
_COLUMNS = ("user", "amount", "merchant", "country", "channel", "ts")
_BEGIN_US = 1_700_092_800_000_000
_EVENTS_A_SECOND = 20_000
_COUNTRIES = ("CZ", "DE", "FR", "PL", "US")
_CHANNELS = ("web", "pos", "app")


def payments(events: int, seed: int) -> pl.DataFrame:
    """Return decoded payments with their JSON of about 100 bytes, as an archive task has them."""
    rng = np.random.default_rng(seed)
    offsets = np.arange(events)
    times_us = _BEGIN_US + offsets * 1_000_000 // _EVENTS_A_SECOND
    frame = pl.DataFrame(
        {
            "__offset": offsets,
            "__ts": times_us // 1_000 * 1_000,
            # Records come in batches of the producer's, a few ms after the event.
            "__arrival": times_us // 5_000 * 5_000 + 10_000,
            "user": rng.integers(0, 1 << 40, 20_000)[rng.zipf(1.2, events) % 20_000],
            "amount": np.round(rng.lognormal(3.0, 1.0, events), 2),
            "merchant": rng.integers(0, 2_000, events),
            "country": np.array(_COUNTRIES)[rng.integers(0, len(_COUNTRIES), events)],
            "channel": np.array(_CHANNELS)[rng.integers(0, len(_CHANNELS), events)],
            "ts": times_us // 1_000,
        }
    ).with_columns(
        user=pl.format("u{}", "user"),
        merchant=pl.format("m{}", pl.col("merchant").cast(pl.String).str.zfill(4)),
    )
    raw = pl.struct(_COLUMNS).struct.json_encode().cast(pl.Binary)
    return frame.with_columns(__raw=raw).rechunk()


class History:
    """An archive of one partition in a folder, made of the same rows again and again."""

    def __init__(self, folder: Path, frame: pl.DataFrame, batch_rows: int) -> None:
        self._folder = folder
        self._frames = list(frame.iter_slices(batch_rows))
        self.clear()

    def clear(self) -> None:
        """Begin with an empty folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.archive = Archive(FolderBlobs(self._folder), stamp="bench")

    def append(self) -> None:
        """Append all rows."""
        done = -1
        for frame in self._frames:
            last = done + frame.height
            self.archive.append(
                _TOPIC, _ID, 0, frame, from_offset=done, to_offset=last, frontier_us=last
            )
            done = last

    def fill(self) -> None:
        """Begin anew and append all rows."""
        self.clear()
        self.append()

    def scan(self, *, raw: bool) -> int:
        """Read all rows; return how many."""
        found = self.archive.scan(_TOPIC, _ID, columns=_COLUMNS, raw=raw, batch_rows=131_072)
        return sum(frame.height for _, frame in found)

    def compact(self) -> None:
        """Make one file of all."""
        compact(self.archive, _TOPIC, _ID, 0, now_us=0, sizes=Sizes(1 << 30, 1 << 28))

    def size_bytes(self) -> int:
        """Return the bytes of the files of rows."""
        return sum(path.stat().st_size for path in self._folder.rglob("*.parquet"))


def measure(
    events: int, batch_rows: int, small_rows: int, runs: int
) -> dict[str, dict[str, float]]:
    """Return what appending, reading and merging costs, by name."""
    frame = payments(events, seed=1)
    raw_bytes = int(frame["__raw"].bin.size().sum())
    with tempfile.TemporaryDirectory() as place:
        large = History(Path(place, "large"), frame, batch_rows)
        small = History(Path(place, "small"), frame, small_rows)
        found = {
            "append": least_cpu(runs, large.append, large.clear),
            "scan": least_cpu(runs, lambda: large.scan(raw=False), lambda: None),
            "scan_raw": least_cpu(runs, lambda: large.scan(raw=True), lambda: None),
            "append_small": least_cpu(runs, small.append, small.clear),
            "scan_small": least_cpu(runs, lambda: small.scan(raw=False), lambda: None),
            "compact": least_cpu(runs, small.compact, small.fill),
            "scan_compacted": least_cpu(runs, lambda: small.scan(raw=False), lambda: None),
        }
        assert small.scan(raw=True) == large.scan(raw=True) == events
        found["bytes_per_event"] = {
            "raw": raw_bytes / events,
            "stored": large.size_bytes() / events,
        }
    for name, took in found.items():
        if name != "bytes_per_event":
            took["cpu_s_per_m"] = took["cpu_seconds"] / events * 1e6
            took["events_per_s"] = events / took["seconds"]
    return found


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.archive", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--batch-rows", type=int, default=200_000, help="rows of an append")
    parser.add_argument(
        "--small-rows", type=int, default=10_000, help="of one after 10 s of waiting"
    )
    parser.add_argument("--runs", type=int, default=3, help="the best of so many is reported")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its result."""
    given = _arguments(argv)
    found = measure(given.events, given.batch_rows, given.small_rows, given.runs)
    result = {
        "benchmark": "archive",
        "machine": machine(),
        "workload": {
            "events": given.events,
            "batch_rows": given.batch_rows,
            "small_rows": given.small_rows,
            "columns": len(_COLUMNS),
        },
        **found,
        "targets": TARGETS,
        "ratios": {name: target / found[name]["cpu_s_per_m"] for name, target in TARGETS.items()},
    }
    write_result(result, as_json=given.json)


if __name__ == "__main__":
    main()
