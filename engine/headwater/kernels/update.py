"""The update kernel: events into rows. The same one online, offline and in a backfill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.borrowed import borrowed
from headwater.kernels.compiled import kernel
from headwater.kernels.merge import goes_deep, merge_events
from headwater.kernels.prefetch import prefetch
from headwater.kernels.rows import (
    EPOCH,
    HEAD_AT,
    HEADS,
    NO_ROOM,
    ROW_WORDS,
    TILE_AT,
    TILES,
    TOO_LATE,
    TOUCHED,
    head_start,
    insert_event,
    left_edges,
    rung_limits,
)
from headwater.kernels.workspace import borrowed_table, borrowed_workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headwater.kernels.workspace import Workspace
    from headwater.plan.layout import Table

__all__ = ["update"]

# How many events ahead a row's entry and its blocks are asked for.
_FAR = 16
_NEAR = 8
_LINE_WORDS = 8


@kernel
def update(
    arena: NDArray[np.uint64],
    space: NDArray[np.int64],
    rows: NDArray[np.int64],
    table: Table,
    work: Workspace,
    slots: NDArray[np.int32],
    events: NDArray[np.uint64],
    begin: int,
    horizon: int,
    epoch: int,
    counters: NDArray[np.int64],
) -> int:
    """Apply `events[begin:]` (n, event words) to the rows at `slots` (n); return where it stopped.

    `slots` of events that went in out of turn, beside an earlier one of their row, become -1.
    It stops before the first event for which the arena has no room; the caller makes room and goes
    on from there. `counters[0]` grows by the events too late for every window.
    """
    arena, space, slots, counters = (
        borrowed(arena),
        borrowed(space),
        borrowed(slots),
        borrowed(counters),
    )
    table, work = borrowed_table(table), borrowed_workspace(work)
    flat, flat_rows = borrowed(events.reshape(-1)), borrowed(rows.reshape(-1))
    limits = work.limits
    smallest = left_edges(table.windows, horizon, work.edges)
    head = head_start(table, horizon)
    rung_limits(table, work.edges, head, limits)
    words = table.shape[1]
    count = slots.shape[0]
    found = np.empty(count, np.int64)
    for i in range(begin, count):
        # Rows lie anywhere in memory: their lines are asked for while earlier events are folded.
        if i + _FAR < count and slots[i + _FAR] >= 0:
            prefetch(flat_rows, np.int64(slots[i + _FAR]) * ROW_WORDS)
        if i + _NEAR < count and slots[i + _NEAR] >= 0:
            near = np.int64(slots[i + _NEAR]) * ROW_WORDS
            prefetch(arena, flat_rows[near + HEAD_AT] + flat_rows[near + HEADS] * words)
            end = flat_rows[near + TILE_AT] + flat_rows[near + TILES] * table.shape[0]
            prefetch(arena, end - _LINE_WORDS)
            prefetch(arena, end)
            prefetch(arena, end + _LINE_WORDS)
        if slots[i] < 0:
            continue  # it went in with an earlier event of its row
        r = np.int64(slots[i]) * ROW_WORDS
        ts = np.int64(flat[i * words])
        if ts >= head and goes_deep(arena, flat_rows, r, words, ts):
            outcome = merge_events(
                arena, space, flat_rows, r, table, slots, flat, i, limits, smallest, head, found
            )
        else:
            outcome = insert_event(
                arena, space, flat_rows, r, table, flat, i * words, limits, smallest, head
            )
        if outcome == NO_ROOM:
            return i
        if outcome == TOO_LATE:
            counters[0] += 1
        flat_rows[r + EPOCH] = epoch
        flat_rows[r + TOUCHED] = epoch
    return count
