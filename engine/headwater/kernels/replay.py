"""Replay: history and spine rows of many entities, each entity's update and read interleaved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.borrowed import borrowed
from headwater.kernels.compiled import kernel
from headwater.kernels.memory import reset
from headwater.kernels.read import read_row
from headwater.kernels.rows import (
    HEAD_AT,
    HEADS,
    NO_HORIZON,
    NO_ROOM,
    TILE_AT,
    TILES,
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

__all__ = ["replay"]


@kernel
def _reads_events_directly(
    table: Table, events: NDArray[np.uint64], begin: int, end: int, reads: int
) -> bool:
    """Whether folding single events at each read costs less than building tiles first."""
    count = end - begin
    words = table.shape[1]
    span = np.int64(events[(end - 1) * words]) - np.int64(events[begin * words])
    widest = np.int64(0)
    for k in range(table.windows.shape[0]):
        if table.windows[k, 0] < 0:
            widest = span
        else:
            widest = max(widest, table.windows[k, 0] + table.windows[k, 1])
    in_window = count if widest >= span else max(np.int64(1), np.int64(count * (widest / span)))
    return reads * in_window <= 4 * count + 128 * reads


@kernel
def replay(
    table: Table,
    work: Workspace,
    events: NDArray[np.uint64],
    visible: NDArray[np.int64],
    event_starts: NDArray[np.int64],
    read_times: NDArray[np.int64],
    read_visible: NDArray[np.int64],
    read_starts: NDArray[np.int64],
    by_time: bool,
    ages: bool,
    first: int,
    last: int,
    arena: NDArray[np.uint64],
    space: NDArray[np.int64],
    row: NDArray[np.int64],
    values: NDArray[np.float64],
    bits: NDArray[np.uint64],
    valid: NDArray[np.uint8],
) -> int:
    """Write the features of every read of the entities `first` to `last`; return where it stopped.

    Entity `e` has the events `event_starts[e]:event_starts[e + 1]`, ascending by `visible`, and the
    reads `read_starts[e]:read_starts[e + 1]`, ascending by `read_visible`; a read sees the events
    with `visible < read_visible`. `events` is flat, (n · event words). `by_time` says that the
    events are also in (ts, position) order: then a run of them is a head as it lies, and is read in
    place where that is cheaper. `ages` says that read times ascend too, so that each read is the
    horizon of the next. It stops before an entity for which `arena` is too small.
    """
    table, work = borrowed_table(table), borrowed_workspace(work)
    events, visible, event_starts = borrowed(events), borrowed(visible), borrowed(event_starts)
    read_times, read_visible, read_starts = (
        borrowed(read_times), borrowed(read_visible), borrowed(read_starts)
    )  # fmt: skip
    arena, space, row = borrowed(arena), borrowed(space), borrowed(row)
    flat_values, flat_bits = borrowed(values.reshape(-1)), borrowed(bits.reshape(-1))
    flat_valid = borrowed(valid.reshape(-1))
    words, width = table.shape[1], table.features.shape[0]
    for entity in range(first, last):
        begin, end = event_starts[entity], event_starts[entity + 1]
        reads = read_starts[entity + 1] - read_starts[entity]
        if reads == 0:
            continue
        direct = by_time and (
            begin == end or _reads_events_directly(table, events, begin, end, reads)
        )
        row[:] = 0
        reset(space, arena.shape[0])
        seen = begin
        for i in range(read_starts[entity], read_starts[entity + 1]):
            t = read_times[i]
            if direct:
                while seen < end and visible[seen] < read_visible[i]:
                    seen += 1
                read_row(
                    events, 0, 0, events, begin * words, seen - begin, table, t, flat_values,
                    flat_bits, flat_valid, i * width, work,
                )  # fmt: skip
                continue
            horizon = t if ages else np.int64(NO_HORIZON)
            smallest = left_edges(table.windows, horizon, work.edges)
            head = head_start(table, horizon)
            rung_limits(table, work.edges, head, work.limits)
            while seen < end and visible[seen] < read_visible[i]:
                outcome = insert_event(
                    arena, space, row, 0, table, events, seen * words, work.limits, smallest, head
                )
                if outcome == NO_ROOM:
                    return entity
                seen += 1
            read_row(
                arena, row[TILE_AT], row[TILES], arena, row[HEAD_AT], row[HEADS], table, t,
                flat_values, flat_bits, flat_valid, i * width, work,
            )  # fmt: skip
    return last
