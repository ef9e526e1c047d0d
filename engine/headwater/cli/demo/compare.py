"""Comparison to the last bit of two frames with the same columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.offline.bitwise import differ

if TYPE_CHECKING:
    import polars as pl

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
        found = np.flatnonzero(differ(column, other[column.name]))
        first = int(found[0]) if len(found) else -1
        count.add(column.name, first, len(found), len(column))
