"""Rows as words in a row: the same tiles and head events on disk as in memory.

A blob is [tiles, head events, tile words..., event words...].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.compiled import kernel
from headwater.kernels.memory import allocate
from headwater.kernels.rows import (
    EPOCH,
    HEAD_AT,
    HEAD_ROOM,
    HEADS,
    TILE_AT,
    TILE_ROOM,
    TILES,
    TOUCHED,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headwater.plan.layout import Table

__all__ = ["BLOB_HEADER_WORDS", "blob_sizes", "copy_blobs", "load_blobs"]

BLOB_HEADER_WORDS = 2


@kernel
def blob_sizes(
    rows: NDArray[np.int64], table: Table, slots: NDArray[np.int32], ends: NDArray[np.int64]
) -> int:
    """Fill `ends` (n) with where each row's blob ends, in words; return the total."""
    total = np.int64(0)
    for i in range(slots.shape[0]):
        row = rows[slots[i]]
        total += BLOB_HEADER_WORDS + row[TILES] * table.shape[0] + row[HEADS] * table.shape[1]
        ends[i] = total
    return total


@kernel
def copy_blobs(
    arena: NDArray[np.uint64],
    rows: NDArray[np.int64],
    table: Table,
    slots: NDArray[np.int32],
    ends: NDArray[np.int64],
    out: NDArray[np.uint64],
) -> None:
    """Copy the rows at `slots` into `out`, each up to its end in `ends`."""
    at = np.int64(0)
    for i in range(slots.shape[0]):
        row = rows[slots[i]]
        out[at] = np.uint64(row[TILES])
        out[at + 1] = np.uint64(row[HEADS])
        at += BLOB_HEADER_WORDS
        for j in range(row[TILES] * table.shape[0]):
            out[at + j] = arena[row[TILE_AT] + j]
        at += row[TILES] * table.shape[0]
        for j in range(row[HEADS] * table.shape[1]):
            out[at + j] = arena[row[HEAD_AT] + j]
        at = ends[i]


@kernel
def load_blobs(
    arena: NDArray[np.uint64],
    space: NDArray[np.int64],
    rows: NDArray[np.int64],
    table: Table,
    slots: NDArray[np.int32],
    starts: NDArray[np.int64],
    blobs: NDArray[np.uint64],
    begin: int,
    touched: int,
) -> int:
    """Load the blobs at `starts[begin:]` into the rows at `slots`; return where room ended."""
    for i in range(begin, slots.shape[0]):
        row = rows[slots[i]]
        p = starts[i]
        tiles, heads = np.int64(blobs[p]), np.int64(blobs[p + 1])
        tile_words, head_words = tiles * table.shape[0], heads * table.shape[1]
        tile_at = allocate(arena, space, tile_words) if tiles > 0 else np.int64(0)
        if tile_at < 0:
            return i
        head_at = allocate(arena, space, head_words) if heads > 0 else np.int64(0)
        if head_at < 0:
            return i
        row[TILE_AT], row[TILES], row[TILE_ROOM] = tile_at, tiles, tiles
        row[HEAD_AT], row[HEADS], row[HEAD_ROOM] = head_at, heads, heads
        row[EPOCH], row[TOUCHED] = 0, touched
        p += BLOB_HEADER_WORDS
        for j in range(tile_words):
            arena[tile_at + j] = blobs[p + j]
        for j in range(head_words):
            arena[head_at + j] = blobs[p + tile_words + j]
    return slots.shape[0]
