"""Gathering: the events of a few entities, brought together in the order they are replayed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.kernels.borrowed import borrowed
from headwater.kernels.compiled import kernel
from headwater.kernels.prefetch import prefetch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ascends", "gather_events"]

# How many rows ahead a row is asked for; each lies in a cache line of its own.
_AHEAD = 16


@kernel
def gather_events(
    words: NDArray[np.uint64],
    visible: NDArray[np.int64],
    order: NDArray[np.int64],
    events: NDArray[np.uint64],
    events_visible: NDArray[np.int64],
) -> None:
    """Copy the rows `order` (m) of `words` (n, event words) and `visible` (n), in that order.

    They go to `events` (m, event words) and `events_visible` (m).
    """
    width = words.shape[1]
    flat, visible, order = borrowed(words.reshape(-1)), borrowed(visible), borrowed(order)
    target, events_visible = borrowed(events.reshape(-1)), borrowed(events_visible)
    count = order.shape[0]
    for i in range(count):
        if i + _AHEAD < count:
            prefetch(flat, order[i + _AHEAD] * width)
            prefetch(visible, order[i + _AHEAD])
        row = order[i] * width
        for j in range(width):
            target[i * width + j] = flat[row + j]
        events_visible[i] = visible[order[i]]


@kernel
def ascends(visible: NDArray[np.int64], starts: NDArray[np.int64]) -> bool:
    """Whether `visible` never falls from one row of an entity to its next.

    Entity `e` has the rows `starts[e]:starts[e + 1]`.
    """
    visible, starts = borrowed(visible), borrowed(starts)
    for entity in range(starts.shape[0] - 1):
        for i in range(starts[entity] + 1, starts[entity + 1]):
            if visible[i] < visible[i - 1]:
                return False
    return True
