"""The read kernel: features of entities at a time. The same one online and offline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.borrowed import borrowed
from headwater.kernels.compiled import inlined, kernel
from headwater.kernels.fold import fold_event, fold_tile, unordered_double
from headwater.kernels.prefetch import prefetch
from headwater.kernels.rounding import (
    int_128_fits_64,
    mean_128_to_double,
    mean_256_to_double,
    sum_256_to_double,
    variance_to_double,
)
from headwater.kernels.rows import HEAD_AT, HEADS, ROW_WORDS, TILE_AT, TILES, left_edges
from headwater.kernels.workspace import borrowed_table, borrowed_workspace
from headwater.plan.ops import (
    OUT_COUNT,
    OUT_MEAN_FLOAT,
    OUT_MEAN_INT,
    OUT_ORDERED_FLOAT,
    OUT_ORDERED_INT,
    OUT_ORDERED_UINT,
    OUT_STD,
    OUT_SUM_FLOAT,
    OUT_SUM_INT,
    OUT_SUM_UINT,
    OUT_VARIANCE,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headwater.kernels.workspace import Workspace
    from headwater.plan.layout import Table

__all__ = ["read", "read_row"]

_SIGN = np.uint64(1 << 63)

# How many reads ahead a row's entry and its blocks are asked for, and how much of a long row.
_FAR = 8
_NEAR = 2
_PREFETCHED_ENTRIES = 32
_LINE_WORDS = 8


@inlined
def _emit(
    tile: NDArray[np.uint64],
    features: NDArray[np.int64],
    f: int,
    values: NDArray[np.float64],
    bits: NDArray[np.uint64],
    valid: NDArray[np.uint8],
    j: int,
    scratch: NDArray[np.uint64],
) -> None:
    """Write one feature of an accumulated window; `values` and `bits` are the same memory."""
    op, a, b, ddof = features[f, 1], features[f, 2], features[f, 3], features[f, 4]
    if op == OUT_COUNT:
        bits[j] = tile[a]
        valid[j] = 1
        return
    grid = op == OUT_SUM_FLOAT or op == OUT_MEAN_FLOAT or op == OUT_VARIANCE or op == OUT_STD
    n = np.int64(tile[a]) if grid else np.int64(tile[b])
    if n <= ddof and (n == 0 or op == OUT_VARIANCE or op == OUT_STD):
        bits[j] = np.uint64(0)
        valid[j] = 0
        return
    valid[j] = 1
    if op == OUT_SUM_FLOAT:
        values[j] = sum_256_to_double(tile, a + 1)
    elif op == OUT_MEAN_FLOAT:
        values[j] = mean_256_to_double(tile, a + 1, n)
    elif op == OUT_SUM_INT:
        valid[j] = np.uint8(int_128_fits_64(tile, a))
        bits[j] = tile[a]
    elif op == OUT_SUM_UINT:
        valid[j] = np.uint8(tile[a + 1] == np.uint64(0))
        bits[j] = tile[a]
    elif op == OUT_MEAN_INT:
        values[j] = mean_128_to_double(tile, a, n)
    elif op == OUT_VARIANCE:
        values[j] = variance_to_double(tile, a + 1, n, ddof, scratch)
    elif op == OUT_STD:
        values[j] = np.sqrt(variance_to_double(tile, a + 1, n, ddof, scratch))
    elif op == OUT_ORDERED_FLOAT:
        bits[j] = unordered_double(np.int64(tile[a]))
    elif op == OUT_ORDERED_UINT:
        bits[j] = tile[a] ^ _SIGN
    elif op == OUT_ORDERED_INT:
        bits[j] = tile[a]
    else:
        bits[j] = tile[a]


@inlined
def _order_windows(edges: NDArray[np.int64], order: NDArray[np.int64]) -> None:
    """Order the windows by left edge, latest first; `order` keeps its last content as a start."""
    for i in range(1, order.shape[0]):
        one = order[i]
        j = i
        while j > 0 and edges[order[j - 1]] < edges[one]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = one


@kernel
def _last_before(arena: NDArray[np.uint64], head: int, words: int, events: int, t: int) -> int:
    """Return the index of the newest head event before `t`, -1 if there is none.

    Most reads are recent: doubling steps back from the newest event find a stretch that holds it,
    halving finds it there.
    """
    after, before, step = events, events - 1, 1
    while before >= 0 and np.int64(arena[head + before * words]) >= t:
        after = before
        before -= step
        step *= 2
    before = max(before, -1)
    while after - before > 1:
        middle = (before + after) // 2
        if np.int64(arena[head + middle * words]) >= t:
            after = middle
        else:
            before = middle
    return before


@inlined
def read_row(
    tile_words: NDArray[np.uint64],
    tile_at: int,
    tiles: int,
    head_words: NDArray[np.uint64],
    head_at: int,
    heads: int,
    table: Table,
    t: int,
    values: NDArray[np.float64],
    bits: NDArray[np.uint64],
    valid: NDArray[np.uint8],
    at: int,
    work: Workspace,
) -> None:
    """Write every feature of one row at `t`, from `bits[at]` on.

    The row is `tiles` tiles at `tile_words[tile_at]` and `heads` events at `head_words[head_at]`.

    Windows nest from their right edge, so one pass from the newest entry to the oldest serves them
    all: each window is written when the pass reaches its left edge.
    """
    fields, features, identity = table.fields, table.features, table.identity
    tile, edges, order, scratch = work.tile, work.read_edges, work.order, work.scratch
    for j in range(identity.shape[0]):
        tile[j] = identity[j]
    left_edges(table.windows, t, edges)
    _order_windows(edges, order)
    tile_size, event_size = table.shape[0], table.shape[1]
    p = head_at + _last_before(head_words, head_at, event_size, heads, t) * event_size
    q = tile_at + (tiles - 1) * tile_size
    for k in range(order.shape[0]):
        window = order[k]
        edge = edges[window]
        while p >= head_at and np.int64(head_words[p]) >= edge:
            fold_event(tile, 0, head_words, p, fields)
            p -= event_size
        while q >= tile_at and np.int64(tile_words[q]) >= edge:
            fold_tile(tile, 0, tile_words, q, fields)
            q -= tile_size
        for f in range(features.shape[0]):
            if features[f, 0] == window:
                _emit(tile, features, f, values, bits, valid, at + f, scratch)


@inlined
def _prefetch_row(arena: NDArray[np.uint64], rows: NDArray[np.int64], r: int, table: Table) -> None:
    tiles = min(rows[r + TILES], np.int64(_PREFETCHED_ENTRIES)) * table.shape[0]
    end = rows[r + TILE_AT] + rows[r + TILES] * table.shape[0]
    for p in range(end - tiles, end, _LINE_WORDS):
        prefetch(arena, p)
    heads = min(rows[r + HEADS], np.int64(_PREFETCHED_ENTRIES)) * table.shape[1]
    end = rows[r + HEAD_AT] + rows[r + HEADS] * table.shape[1]
    for p in range(end - heads, end, _LINE_WORDS):
        prefetch(arena, p)


@kernel
def read(
    arena: NDArray[np.uint64],
    rows: NDArray[np.int64],
    table: Table,
    work: Workspace,
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    values: NDArray[np.float64],
    bits: NDArray[np.uint64],
    valid: NDArray[np.uint8],
) -> None:
    """Write the features of the rows at `slots` (n; -1 is an empty row) at `times` (n, µs).

    `values` and `bits` (n, features) view the same memory, as doubles and as words; `valid`
    (n, features) is 1 where there is a value.
    """
    arena, slots, times = borrowed(arena), borrowed(slots), borrowed(times)
    table, work = borrowed_table(table), borrowed_workspace(work)
    flat_rows, flat_values = borrowed(rows.reshape(-1)), borrowed(values.reshape(-1))
    flat_bits, flat_valid = borrowed(bits.reshape(-1)), borrowed(valid.reshape(-1))
    width, count = table.features.shape[0], slots.shape[0]
    for i in range(count):
        # Rows lie anywhere in memory: their lines are asked for while earlier ones are read.
        if i + _FAR < count and slots[i + _FAR] >= 0:
            prefetch(flat_rows, np.int64(slots[i + _FAR]) * ROW_WORDS)
        if i + _NEAR < count and slots[i + _NEAR] >= 0:
            _prefetch_row(arena, flat_rows, np.int64(slots[i + _NEAR]) * ROW_WORDS, table)
        r = np.int64(slots[i]) * ROW_WORDS
        tiles, heads = np.int64(0), np.int64(0)
        tile_at, head_at = np.int64(0), np.int64(0)
        if r >= 0:
            tile_at, tiles = flat_rows[r + TILE_AT], flat_rows[r + TILES]
            head_at, heads = flat_rows[r + HEAD_AT], flat_rows[r + HEADS]
        read_row(
            arena, tile_at, tiles, arena, head_at, heads, table, times[i], flat_values, flat_bits,
            flat_valid, i * width, work,
        )  # fmt: skip
