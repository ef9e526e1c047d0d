"""Spines from history: entities and moments that really were, chosen by a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.state.events import positions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from headwater.offline.sources import EventSource
    from headwater.plan.plan import ViewPlan

__all__ = ["sample_spine", "time_name"]

_TIME = "at"
_RANK = "__rank"


def time_name(keys: Sequence[str]) -> str:
    """Return the name of a sample's time column, which is no key's."""
    name = _TIME
    while name in keys:
        name = f"{name}_"
    return name


def sample_spine(
    views: Sequence[ViewPlan],
    source: EventSource,
    *,
    rows: int,
    seed: int,
    advance: Callable[[int], None] = lambda _events: None,
) -> pl.DataFrame:
    """Return keys and times of at most `rows` events of the views' streams, by time.

    A row is just after its event, 1 µs, so that it sees it. Each event has the same chance; the
    same history and seed choose the same events, in whatever batches they come. Memory: `rows` and
    a batch.
    """
    keys = views[0].entity.key
    time = time_name(keys)
    types = {**views[0].key_dtypes, time: pl.Datetime("us", "UTC"), _RANK: pl.UInt64()}
    sample = _Sample(rows, pl.DataFrame(schema=types))
    read = {(view.stream.topic, view.binding.columns): view for view in views}
    for number, view in enumerate(read.values()):
        columns = list(view.binding.columns)
        for partition, frame in source.scan(view.stream, list(dict.fromkeys(columns))):
            offsets = frame["__offset"].to_numpy()
            ranks = _ranks(positions_of(partition, offsets), (seed << 8) + number)
            at = pl.from_epoch(frame["__ts"] + 1, "us").dt.replace_time_zone("UTC")
            found = [frame[column].alias(key) for key, column in zip(keys, columns, strict=True)]
            named = pl.DataFrame([*found, at.alias(time), pl.Series(_RANK, ranks)])
            sample.add(named.drop_nulls())
            advance(frame.height)
    return sample.chosen(time)


class _Sample:
    """The rows of the least ranks so far."""

    def __init__(self, rows: int, empty: pl.DataFrame) -> None:
        self._rows = rows
        self._frames = [empty]
        self._bound: int | None = None

    def add(self, frame: pl.DataFrame) -> None:
        """Take in rows; only those that can still be chosen are kept."""
        if self._bound is not None:
            frame = frame.filter(pl.col(_RANK) < self._bound)
        self._frames.append(frame)
        if sum(one.height for one in self._frames) > 2 * self._rows:
            self._shrink()

    def _shrink(self) -> None:
        kept = pl.concat(self._frames).bottom_k(self._rows, by=_RANK)
        self._frames = [kept]
        if kept.height == self._rows > 0:
            self._bound = kept[_RANK].max()  # type: ignore[assignment]

    def chosen(self, time: str) -> pl.DataFrame:
        """Return the rows of the least ranks, in the order of time."""
        self._shrink()
        return self._frames[0].sort(time, _RANK).drop(_RANK)


def _ranks(positions: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Return a random word for each position (n): the finalizer of splitmix64.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    words = positions.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words += np.uint64(seed * 0xD1342543DE82EF95 % (1 << 64))
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return found
