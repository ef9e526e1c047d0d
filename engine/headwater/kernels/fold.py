"""Folding: one event into a tile, and one tile into another, by the layout table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.compiled import inlined
from headwater.kernels.wide import (
    add_128,
    add_256,
    add_bits_256,
    add_int_128,
    add_moments_bits,
    add_moments_int,
    add_moments_uint,
    add_uint_128,
    in_moment_range,
    in_sum_range,
)
from headwater.plan.ops import (
    COUNT_ROWS,
    COUNT_VALUES,
    EVENT_HEADER_WORDS,
    FIRST,
    MAX_FLOAT,
    MAX_UINT,
    MIN_FLOAT,
    MIN_UINT,
    MOMENTS_FLOAT,
    MOMENTS_INT,
    MOMENTS_UINT,
    SUM_FLOAT,
    SUM_INT,
    SUM_UINT,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fold_event", "fold_tile", "ordered_double", "unordered_double"]

_SIGN = np.uint64(1 << 63)
_ONE = np.uint64(1)


@inlined
def ordered_double(bits: int) -> int:
    """Map double bits to an int64 that sorts as the doubles do."""
    signed = np.int64(bits)
    return signed ^ ((signed >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))


@inlined
def unordered_double(ordered: int) -> int:
    """Undo `ordered_double`; the mapping is its own inverse."""
    return np.uint64(ordered ^ ((ordered >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF)))


@inlined
def _ordered(op: int, value: int) -> int:
    if op == MIN_FLOAT or op == MAX_FLOAT:
        return ordered_double(value)
    if op == MIN_UINT or op == MAX_UINT:
        return np.int64(value ^ _SIGN)
    return np.int64(value)


@inlined
def _fold_edge(
    op: int, tile: NDArray[np.uint64], q: int, ts: int, position: int, value: int
) -> None:
    kept_ts = np.int64(tile[q])
    kept_position = np.int64(tile[q + 1])
    if op == FIRST:
        better = ts < kept_ts or (ts == kept_ts and position < kept_position)
    else:
        better = ts > kept_ts or (ts == kept_ts and position > kept_position)
    if better:
        tile[q] = np.uint64(ts)
        tile[q + 1] = np.uint64(position)
        tile[q + 2] = value


@inlined
def fold_event(
    tile: NDArray[np.uint64],
    o: int,
    events: NDArray[np.uint64],
    p: int,
    fields: NDArray[np.int64],
) -> None:
    """Fold the event at `events[p]` into the tile at `tile[o]`."""
    ts = np.int64(events[p])
    position = np.int64(events[p + 1])
    mask = events[p + 2]
    for f in range(fields.shape[0]):
        op = fields[f, 0]
        q = o + fields[f, 2]
        if op == COUNT_ROWS:
            tile[q] += _ONE
            continue
        column = fields[f, 1]
        if (mask >> np.uint64(column)) & _ONE == np.uint64(0):
            continue
        value = events[p + EVENT_HEADER_WORDS + column]
        if op == COUNT_VALUES:
            tile[q] += _ONE
        elif op == SUM_FLOAT:
            if in_sum_range(value):
                tile[q] += _ONE
                add_bits_256(tile, q + 1, value)
        elif MIN_FLOAT <= op <= MIN_UINT:
            ordered = _ordered(op, value)
            if ordered < np.int64(tile[q]):
                tile[q] = np.uint64(ordered)
        elif MAX_FLOAT <= op <= MAX_UINT:
            ordered = _ordered(op, value)
            if ordered > np.int64(tile[q]):
                tile[q] = np.uint64(ordered)
        elif op == SUM_INT:
            add_int_128(tile, q, np.int64(value))
        elif op == SUM_UINT:
            add_uint_128(tile, q, value)
        elif op == MOMENTS_FLOAT:
            if in_moment_range(value):
                tile[q] += _ONE
                add_moments_bits(tile, q + 1, value)
        elif op == MOMENTS_INT:
            tile[q] += _ONE
            add_moments_int(tile, q + 1, np.int64(value))
        elif op == MOMENTS_UINT:
            tile[q] += _ONE
            add_moments_uint(tile, q + 1, value)
        else:
            _fold_edge(op, tile, q, ts, position, value)


@inlined
def fold_tile(
    target: NDArray[np.uint64],
    o: int,
    source: NDArray[np.uint64],
    p: int,
    fields: NDArray[np.int64],
) -> None:
    """Fold the tile at `source[p]` into the tile at `target[o]`."""
    for f in range(fields.shape[0]):
        op = fields[f, 0]
        q = o + fields[f, 2]
        r = p + fields[f, 2]
        if op <= COUNT_VALUES:
            target[q] += source[r]
        elif op == SUM_FLOAT:
            target[q] += source[r]
            add_256(target, q + 1, source, r + 1)
        elif MIN_FLOAT <= op <= MIN_UINT:
            if np.int64(source[r]) < np.int64(target[q]):
                target[q] = source[r]
        elif MAX_FLOAT <= op <= MAX_UINT:
            if np.int64(source[r]) > np.int64(target[q]):
                target[q] = source[r]
        elif op <= SUM_UINT:
            add_128(target, q, source, r)
        elif op <= MOMENTS_UINT:
            target[q] += source[r]
            add_256(target, q + 1, source, r + 1)
            add_256(target, q + 5, source, r + 5)
        else:
            _fold_edge(op, target, q, np.int64(source[r]), np.int64(source[r + 1]), source[r + 2])
