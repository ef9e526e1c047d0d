"""Canonical keys in bulk: parts encoded into ragged bytes, gathered, sharded and sorted by group.

Ragged bytes are `data` (uint8) and `offsets` (int64, n + 1): row i lies from offsets[i] up to
offsets[i + 1]. A part of a key is written at `cursors` (int64, n), the next free byte of each row,
which it moves on; rows that aren't `valid` take no bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.compiled import kernel
from headwater.kernels.unaligned import copy_bytes, store_half, store_word

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "add_ragged_lengths",
    "counting_sort_by_slot",
    "gather_offsets",
    "gather_rows",
    "partition_rows",
    "put_bytes",
    "put_halves",
    "put_ragged",
    "put_words",
    "shard_of",
    "sum_lengths",
]

_LENGTH_BYTES = 4


@kernel
def add_ragged_lengths(part_offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    """Add to `lengths` (n) what each row of a ragged part takes: tag, length and bytes."""
    for i in range(lengths.shape[0]):
        lengths[i] += 1 + _LENGTH_BYTES + part_offsets[i + 1] - part_offsets[i]


@kernel
def sum_lengths(
    lengths: NDArray[np.int64], valid: NDArray[np.bool_], offsets: NDArray[np.int64]
) -> int:
    """Fill `offsets` (n + 1) from the lengths of the valid rows; return the total."""
    total = np.int64(0)
    offsets[0] = 0
    for i in range(lengths.shape[0]):
        if valid[i]:
            total += lengths[i]
        offsets[i + 1] = total
    return total


@kernel
def put_ragged(
    tag: np.uint8,
    part_data: NDArray[np.uint8],
    part_offsets: NDArray[np.int64],
    valid: NDArray[np.bool_],
    cursors: NDArray[np.int64],
    data: NDArray[np.uint8],
) -> None:
    """Write tag, u32 length and bytes of each row."""
    for i in range(valid.shape[0]):
        if valid[i]:
            at = cursors[i]
            count = part_offsets[i + 1] - part_offsets[i]
            data[at] = tag
            store_half(data, at + 1, np.uint32(count))
            at += 1 + _LENGTH_BYTES
            copy_bytes(part_data, part_offsets[i], data, at, count)
            cursors[i] = at + count


@kernel
def put_words(
    tag: np.uint8,
    tag_negative: np.uint8,
    part: NDArray[np.int64],
    valid: NDArray[np.bool_],
    cursors: NDArray[np.int64],
    data: NDArray[np.uint8],
) -> None:
    """Write tag and 8 bytes of each row; `tag_negative` is that of rows whose top bit is set."""
    for i in range(valid.shape[0]):
        if valid[i]:
            at = cursors[i]
            data[at] = tag_negative if part[i] < 0 else tag
            store_word(data, at + 1, np.uint64(part[i]))
            cursors[i] = at + 9


@kernel
def put_halves(
    tag: np.uint8,
    part: NDArray[np.int32],
    valid: NDArray[np.bool_],
    cursors: NDArray[np.int64],
    data: NDArray[np.uint8],
) -> None:
    """Write tag and 4 bytes of each row."""
    for i in range(valid.shape[0]):
        if valid[i]:
            at = cursors[i]
            data[at] = tag
            store_half(data, at + 1, np.uint32(part[i]))
            cursors[i] = at + 5


@kernel
def put_bytes(
    tag: np.uint8,
    part: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    cursors: NDArray[np.int64],
    data: NDArray[np.uint8],
) -> None:
    """Write tag and 1 byte of each row."""
    for i in range(valid.shape[0]):
        if valid[i]:
            at = cursors[i]
            data[at] = tag
            data[at + 1] = part[i]
            cursors[i] = at + 2


@kernel
def gather_offsets(
    offsets: NDArray[np.int64], rows: NDArray[np.int64], target_offsets: NDArray[np.int64]
) -> int:
    """Fill `target_offsets` (rows + 1) for the rows taken in that order; return the total."""
    total = np.int64(0)
    target_offsets[0] = 0
    for i in range(rows.shape[0]):
        total += offsets[rows[i] + 1] - offsets[rows[i]]
        target_offsets[i + 1] = total
    return total


@kernel
def gather_rows(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    target_offsets: NDArray[np.int64],
    target: NDArray[np.uint8],
) -> None:
    """Copy the rows into `target` at the offsets that `gather_offsets` gave."""
    for i in range(rows.shape[0]):
        count = target_offsets[i + 1] - target_offsets[i]
        copy_bytes(data, offsets[rows[i]], target, target_offsets[i], count)


@kernel
def shard_of(hashes: NDArray[np.uint64], shards: int, out: NDArray[np.int32]) -> None:
    """Fill `out` with hash mod `shards`, which may only ever be multiplied.

    Modulo splits each shard into its own multiples: with k·S shards, a key of shard s is in one of
    s, s + S, … s + (k − 1)·S, so no key ever moves between two old shards.
    """
    divisor = np.uint64(shards)
    for i in range(hashes.shape[0]):
        out[i] = np.int32(hashes[i] % divisor)


@kernel
def _counting_sort(
    groups: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Counts sit two places up, so that sums come out one place up and the placing loop, which
    # moves each start on to its end, leaves every start where it belongs.
    starts = np.zeros(count + 2, np.int64)
    for i in range(groups.shape[0]):
        assert groups[i] < count, "a group beyond the last one"
        if groups[i] >= 0:
            starts[groups[i] + 2] += 1
    for g in range(2, count + 2):
        starts[g] += starts[g - 1]
    order = np.empty(starts[count + 1], np.int64)
    for i in range(groups.shape[0]):
        if groups[i] >= 0:
            at = starts[groups[i] + 1]
            order[at] = i
            starts[groups[i] + 1] = at + 1
    return order, starts[: count + 1]


@kernel
def partition_rows(
    shard: NDArray[np.int32], shards: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (order, starts): shard s has rows order[starts[s]:starts[s + 1]], in their order.

    A row with a negative shard is in none.
    """
    return _counting_sort(shard, shards)


@kernel
def counting_sort_by_slot(
    slots: NDArray[np.int32], slot_count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (order, starts): slot s has rows order[starts[s]:starts[s + 1]], in their order.

    A row with a negative slot is in none. Takes time and memory in proportion to `slot_count` too.
    """
    return _counting_sort(slots, slot_count)
