"""Spans: for each entity the event times that its reads can see; the rest is left out early."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.borrowed import borrowed
from headwater.kernels.compiled import kernel
from headwater.kernels.prefetch import prefetch
from headwater.kernels.rows import FOREVER, left_edges

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["rows_within", "widen"]

# How many rows ahead an entity's span is asked for.
_AHEAD = 16


@kernel
def widen(
    spans: NDArray[np.int64],
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    windows: NDArray[np.int64],
    edges: NDArray[np.int64],
) -> None:
    """Widen `spans` (entities, 2), [from, before) in µs, by reads of `slots` (n) at `times` (n).

    `windows` (windows, 2) is that of a table, `edges` (windows) is room. A slot below 0 is nobody.
    """
    for i in range(slots.shape[0]):
        slot = slots[i]
        if slot < 0:
            continue
        smallest = np.int64(left_edges(windows, times[i], edges))
        for k in range(windows.shape[0]):
            if windows[k, 0] < 0:  # a lifetime
                smallest = np.int64(-FOREVER)
        spans[slot, 0] = min(spans[slot, 0], smallest)
        spans[slot, 1] = max(spans[slot, 1], times[i])


@kernel
def rows_within(
    spans: NDArray[np.int64],
    slots: NDArray[np.int32],
    times: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> int:
    """Fill `rows` with the numbers of the events that lie in their entity's span; return how many.

    The event of row i has slot `slots[i]`, below 0 for an entity nobody asks for, and `times[i]`.
    """
    flat, slots = borrowed(spans.reshape(-1)), borrowed(slots)
    times, rows = borrowed(times), borrowed(rows)
    count = slots.shape[0]
    found = 0
    for i in range(count):
        if i + _AHEAD < count and slots[i + _AHEAD] >= 0:
            prefetch(flat, 2 * np.int64(slots[i + _AHEAD]))
        at = 2 * np.int64(slots[i])
        if at >= 0 and flat[at] <= times[i] < flat[at + 1]:
            rows[found] = i
            found += 1
    return found
