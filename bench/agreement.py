"""Whether two frames of features hold the same values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

__all__ = ["TOLERANCE", "Agreement", "compare"]

# Relative, for sums and means: peers add doubles in an order of their own. Counts, minima, maxima
# and nulls must be the same.
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Agreement:
    """`values` compared, whether they agree, and the largest relative difference."""

    values: int
    agrees: bool
    largest_difference: float


def compare(ours: pl.DataFrame, theirs: pl.DataFrame) -> Agreement:
    """Compare a peer's features with ours; it has the same columns and rows, in the same order."""
    if theirs.height != ours.height:
        return Agreement(0, agrees=False, largest_difference=np.inf)
    largest, agrees = 0.0, True
    for column in ours.get_columns():
        other = theirs[column.name]
        if not (column.is_null() == other.is_null()).all():
            return Agreement(ours.height * ours.width, agrees=False, largest_difference=np.inf)
        a = column.drop_nulls().cast(pl.Float64).to_numpy()
        b = other.drop_nulls().cast(pl.Float64).to_numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            apart = np.where(a == b, 0.0, np.abs(a - b) / np.abs(a))
        difference = float(apart.max(initial=0.0))
        rounded = column.name.startswith(("sum_", "mean_"))
        agrees = agrees and difference <= (TOLERANCE if rounded else 0.0)
        largest = max(largest, difference)
    return Agreement(ours.height * ours.width, agrees, largest)
