"""Comparison to the last bit of two frames with the same columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Compared", "compare"]


class Compared:
    """A running count of values compared and of those that differ; keeps the first difference."""

    def __init__(self) -> None:
        self.values = 0
        self.differences = 0
        self.first = ""

    def add(self, name: str, row: int, differences: int, rows: int) -> None:
        """Count a column of `rows` values; `row` is the first that differs, if any does."""
        self.values += rows
        self.differences += differences
        if differences and not self.first:
            self.first = f"{name}, row {row}"


def compare(one: pl.DataFrame, other: pl.DataFrame, count: Compared) -> None:
    """Compare every value of `one` with the column of the same name in `other`.

    Nulls equal nulls, and doubles are equal when all their bits are.
    """
    assert one.height == other.height
    for column in one:
        ours, theirs = _bits(column), _bits(other[column.name])
        differ = np.flatnonzero(
            (ours != theirs) | (column.is_null() != other[column.name].is_null()).to_numpy()
        )
        first = int(differ[0]) if len(differ) else -1
        count.add(column.name, first, len(differ), len(column))


def _bits(series: pl.Series) -> NDArray[np.generic]:
    if series.dtype == pl.Float64:
        found: NDArray[np.generic] = series.fill_null(0.0).to_numpy().view(np.uint64)
        return found
    if series.dtype == pl.Boolean:
        return series.fill_null(value=False).to_numpy()
    return series.to_physical().fill_null(0).to_numpy()
