"""A sketch of what reads see: for each cell of keys the slices of time that any of them looks at.

`sketch` is uint64[cells, a power of two]; a key's cell is chosen by the top bits of its hash, and
bit b of a cell stands for slice b of time. As in a Bloom filter (Bloom 1970) with one hash, keys
that share a cell pass for each other: what a sketch lets through may be of no use, what it leaves
out is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.borrowed import borrowed
from headwater.kernels.compiled import kernel
from headwater.kernels.key_index import shift_of
from headwater.kernels.prefetch import prefetch
from headwater.kernels.rows import left_edges

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SLICES", "mark", "marked"]

SLICES = 64

# How many keys ahead a cell is asked for.
_AHEAD = 16


@kernel
def mark(
    sketch: NDArray[np.uint64],
    begin: int,
    before: int,
    slice_shift: int,
    hashes: NDArray[np.uint64],
    valid: NDArray[np.bool_],
    times: NDArray[np.int64],
    windows: NDArray[np.int64],
    edges: NDArray[np.int64],
) -> None:
    """Mark what reads of valid keys (n, by hash) at `times` (n) see of the time before `before`.

    Slices are `1 << slice_shift` long and count from `begin`; the first has all before it too.
    `windows` (windows, 2) is that of a table, `edges` (windows) is room.
    """
    shift = shift_of(sketch)
    lifetime = False
    for k in range(windows.shape[0]):
        lifetime = lifetime or windows[k, 0] < 0
    for i in range(hashes.shape[0]):
        if not valid[i]:
            continue
        start = np.int64(left_edges(windows, times[i], edges))
        first = 0 if lifetime else max(0, start - begin) >> slice_shift
        last = max(0, min(before, times[i]) - 1 - begin) >> slice_shift
        if first > last:
            continue
        ones = ~np.uint64(0)
        seen = (ones << np.uint64(first)) & (ones >> np.uint64(SLICES - 1 - last))
        sketch[np.int64(hashes[i] >> shift)] |= seen


@kernel
def marked(
    sketch: NDArray[np.uint64],
    since: int,
    begin: int,
    before: int,
    slice_shift: int,
    hashes: NDArray[np.uint64],
    times: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> int:
    """Fill `rows` with the numbers of the keys and times (n) that are marked; return how many.

    None is at a time before `since`, or from `before` on.
    """
    sketch, hashes, times = borrowed(sketch), borrowed(hashes), borrowed(times)
    rows = borrowed(rows)
    shift = shift_of(sketch)
    count = hashes.shape[0]
    found = 0
    for i in range(count):
        if i + _AHEAD < count:
            prefetch(sketch, np.int64(hashes[i + _AHEAD] >> shift))
        if since <= times[i] < before:
            bit = np.uint64(max(0, times[i] - begin) >> slice_shift)
            # Kept or not, the row's number is written: a branch on a bit can't be foretold.
            rows[found] = i
            found += np.int64((sketch[np.int64(hashes[i] >> shift)] >> bit) & np.uint64(1))
    return found
