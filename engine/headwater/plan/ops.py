"""Op codes of the layout table: how a field folds and how a feature is read from fields."""

from __future__ import annotations

__all__ = [
    "COUNT_ROWS", "COUNT_VALUES", "EVENT_HEADER_WORDS", "FIRST", "LAST", "MAX_FLOAT", "MAX_INT",
    "MAX_UINT", "MIN_FLOAT", "MIN_INT", "MIN_UINT", "MOMENTS_FLOAT", "MOMENTS_INT", "MOMENTS_UINT",
    "OUT_COUNT", "OUT_MEAN_FLOAT", "OUT_MEAN_INT", "OUT_ORDERED_FLOAT", "OUT_ORDERED_INT",
    "OUT_ORDERED_UINT", "OUT_STD", "OUT_SUM_FLOAT", "OUT_SUM_INT", "OUT_SUM_UINT", "OUT_VALUE",
    "OUT_VARIANCE", "SUM_FLOAT", "SUM_INT", "SUM_UINT", "TILE_HEADER_WORDS",
]  # fmt: skip

# A tile is [start, resolution, fields...]; an event is [ts, position, valid mask, inputs...].
TILE_HEADER_WORDS = 2
EVENT_HEADER_WORDS = 3

# Fields. The type suffix says how the input word is read: double bits, int64 or uint64.
COUNT_ROWS = 0  # [n]
COUNT_VALUES = 1  # [n]
SUM_FLOAT = 2  # [n, 256 bits in units of 2⁻¹²⁸]
SUM_INT = 3  # [128 bits]
SUM_UINT = 4  # [128 bits]
MOMENTS_FLOAT = 5  # [n, Σx 256 bits in 2⁻⁴⁸, Σx² 256 bits in 2⁻⁹⁶]
MOMENTS_INT = 6
MOMENTS_UINT = 7
MIN_FLOAT = 8  # [the value mapped to an int64 of the same order]
MIN_INT = 9
MIN_UINT = 10
MAX_FLOAT = 11
MAX_INT = 12
MAX_UINT = 13
FIRST = 14  # [ts, position, value]
LAST = 15

# Features: what is made of the fields `a` and `b` of the layout's feature row.
OUT_COUNT = 0
OUT_SUM_FLOAT = 1
OUT_MEAN_FLOAT = 2
OUT_SUM_INT = 3
OUT_SUM_UINT = 4
OUT_MEAN_INT = 5
OUT_VARIANCE = 6
OUT_STD = 7
OUT_ORDERED_FLOAT = 8
OUT_ORDERED_INT = 9
OUT_ORDERED_UINT = 10
OUT_VALUE = 11
