"""Merging: many events of one row into its head, in one pass over what they displace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.compiled import kernel
from headwater.kernels.rows import (
    APPLIED,
    HEAD_AT,
    HEADS,
    NO_ROOM,
    make_head_room,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headwater.plan.layout import Table

__all__ = ["goes_deep", "merge_events"]

# Below this many displaced events each finds its own place: that is cheaper than looking for more.
_DEEP_EVENTS = 32


@kernel
def goes_deep(
    arena: NDArray[np.uint64], rows: NDArray[np.int64], r: int, words: int, ts: int
) -> bool:
    """Return whether an event at `ts` would displace many of the head's."""
    count = rows[r + HEADS]
    if count <= _DEEP_EVENTS:
        return False
    return np.int64(arena[rows[r + HEAD_AT] + (count - _DEEP_EVENTS) * words]) > ts


@kernel
def _is_after(events: NDArray[np.uint64], a: int, b: int) -> bool:
    """Return whether the event at `a` comes after the one at `b`, by time and position."""
    ts, other = np.int64(events[a]), np.int64(events[b])
    return ts > other or (ts == other and np.int64(events[a + 1]) > np.int64(events[b + 1]))


@kernel
def _collect(
    slots: NDArray[np.int32],
    events: NDArray[np.uint64],
    words: int,
    first: int,
    head: int,
    found: NDArray[np.int64],
) -> int:
    """List the events from `first` on that go into the head of the same row, in their order."""
    slot = slots[first]
    count = np.int64(0)
    for i in range(first, slots.shape[0]):
        if slots[i] != slot or np.int64(events[i * words]) < head:
            continue
        at = count
        while at > 0 and _is_after(events, found[at - 1] * words, i * words):
            found[at] = found[at - 1]
            at -= 1
        found[at] = i
        count += 1
    return count


@kernel
def merge_events(
    arena: NDArray[np.uint64],
    space: NDArray[np.int64],
    rows: NDArray[np.int64],
    r: int,
    table: Table,
    slots: NDArray[np.int32],
    events: NDArray[np.uint64],
    first: int,
    limits: NDArray[np.int64],
    smallest: int,
    head: int,
    found: NDArray[np.int64],
) -> int:
    """Put event `first` and all later ones of its row that belong in the head there.

    Their `slots` become -1. Returns APPLIED, or NO_ROOM with none of them in. `found` (as long as
    `slots`) is scratch. One by one, n events into a head of m would move up to n·m events.
    """
    words = table.shape[1]
    count = _collect(slots, events, words, first, head, found)
    if not make_head_room(arena, space, rows, r, table, limits, smallest, head, count):
        return NO_ROOM
    base = rows[r + HEAD_AT]
    old = base + (rows[r + HEADS] - 1) * words
    target = base + (rows[r + HEADS] + count - 1) * words
    left = count - 1
    while left >= 0:
        p = found[left] * words
        if old >= base and _head_is_after(arena, old, events, p):
            for j in range(words):
                arena[target + j] = arena[old + j]
            old -= words
        else:
            for j in range(words):
                arena[target + j] = events[p + j]
            slots[found[left]] = -1
            left -= 1
        target -= words
    rows[r + HEADS] += count
    return APPLIED


@kernel
def _head_is_after(arena: NDArray[np.uint64], q: int, events: NDArray[np.uint64], p: int) -> bool:
    ts, other = np.int64(arena[q]), np.int64(events[p])
    return ts > other or (ts == other and np.int64(arena[q + 1]) > np.int64(events[p + 1]))
