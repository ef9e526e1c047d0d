"""Comparison of columns to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["bits_of", "differ"]

_WORDS: dict[pl.DataType, type[np.unsignedinteger]] = {
    pl.Float32(): np.uint32,
    pl.Float64(): np.uint64,
}


def differ(one: pl.Series, other: pl.Series) -> NDArray[np.bool_]:
    """Return which values (n) of two columns of one type differ.

    Nulls equal nulls, and floats are equal when all their bits are: NaN equals that NaN, and 0.0
    isn't −0.0.
    """
    assert one.dtype == other.dtype
    found: NDArray[np.bool_]
    if one.dtype in _WORDS:
        nulls = one.is_null().to_numpy() != other.is_null().to_numpy()
        found = nulls | (bits_of(one) != bits_of(other))
    else:
        found = one.ne_missing(other).to_numpy()
    return found


def bits_of(floats: pl.Series) -> NDArray[np.unsignedinteger]:
    """Return the bits of floats (n), 0 for null."""
    filled = np.ascontiguousarray(floats.fill_null(0.0).to_numpy())
    return filled.view(_WORDS[floats.dtype])
