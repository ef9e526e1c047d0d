"""Point in time: a view's features for (entity, time) pairs, from events in any order."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.gather import ascends, gather_events
from headwater.kernels.keys import counting_sort_by_slot
from headwater.kernels.memory import SPACE_WORDS
from headwater.kernels.replay import replay
from headwater.kernels.rows import ROW_WORDS
from headwater.kernels.workspace import workspace
from headwater.state.group import Values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headwater.plan.layout import Layout

__all__ = ["Events", "Reads", "features_at", "no_events"]

_ARENA_WORDS = 1 << 16
# A block is what a thread takes at a time: its events fit a core's cache, and the pool evens out.
_WORK_PER_BLOCK = 50_000
_EVENTS_PER_READ = 20  # a read costs about as much as so many events


@dataclass(frozen=True, slots=True)
class Events:
    """Events: `slots` (n) number the entity, `words` (n, event words) are its rows.

    A read sees the events with `visible` (n) below its own.
    """

    slots: NDArray[np.int32]
    words: NDArray[np.uint64]
    visible: NDArray[np.int64]


def no_events(layout: Layout) -> Events:
    """Return the history of entities that never had an event."""
    width = layout.event_words
    return Events(np.empty(0, np.int32), np.empty((0, width), np.uint64), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Reads:
    """Reads of entities at `times` (n, µs); `visible` (n) says how much of history each sees.

    `ages`: within an entity, reads that see more are never earlier, so that what lies behind one
    read is behind the next.
    """

    slots: NDArray[np.int32]
    times: NDArray[np.int64]
    visible: NDArray[np.int64]
    ages: bool


@dataclass(frozen=True, slots=True)
class _Block:
    """Some entities' events and reads, sorted by entity and `visible`; `words` are flat."""

    words: NDArray[np.uint64]
    visible: NDArray[np.int64]
    event_starts: NDArray[np.int64]
    read_times: NDArray[np.int64]
    read_visible: NDArray[np.int64]
    read_starts: NDArray[np.int64]
    by_time: bool
    ages: bool


def features_at(layout: Layout, entities: int, events: Events, reads: Reads) -> Values:
    """Return the features of every read, in the order of `reads`.

    Entities are independent, so threads take blocks of them; the bits don't depend on how many.
    """
    event_rows, event_starts = counting_sort_by_slot(events.slots, entities)
    read_rows, read_starts = counting_sort_by_slot(reads.slots, entities)
    words = np.ascontiguousarray(events.words)
    result = Values(len(reads.slots), len(layout.output_dtypes))

    def run(bounds: tuple[int, int]) -> None:
        first, last = bounds
        starts = event_starts[first : last + 1] - event_starts[first]
        rows = event_rows[event_starts[first] : event_starts[last]]
        # A block's events are brought together for its replay only: a sorted copy of them all would
        # be as large as the history, and slower to read.
        block_words, visible = _gathered(words, events.visible, rows)
        sorted_rows = _by_visible(rows, visible, starts)
        if sorted_rows is not rows:  # history mostly comes in order
            block_words, visible = _gathered(words, events.visible, sorted_rows)
        asked = read_rows[read_starts[first] : read_starts[last]]
        starts_of_reads = read_starts[first : last + 1] - read_starts[first]
        asked = _by_visible(asked, reads.visible[asked], starts_of_reads)
        block = _Block(
            words=block_words.reshape(-1),
            visible=visible,
            event_starts=starts,
            read_times=reads.times[asked],
            read_visible=reads.visible[asked],
            read_starts=starts_of_reads,
            by_time=np.array_equal(block_words[:, 0].view(np.int64), visible),
            ages=reads.ages,
        )
        found = _replayed(layout, block)
        result.bits[asked] = found.bits
        result.valid[asked] = found.valid

    blocks = _blocks(event_starts, read_starts)
    threads = min(len(blocks), os.cpu_count() or 1)
    if threads <= 1:
        for block in blocks:
            run(block)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, blocks))
    result.found[:] = np.diff(event_starts)[reads.slots] > 0
    return result


def _gathered(
    words: NDArray[np.uint64], visible: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return `words` and `visible` of rows, in that order."""
    found = np.empty((len(rows), words.shape[1]), np.uint64)
    found_visible = np.empty(len(rows), np.int64)
    gather_events(words, visible, rows, found, found_visible)
    return found, found_visible


def _by_visible(
    rows: NDArray[np.int64], visible: NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return `rows` with each entity's ascending by `visible` (n), stable; as given if they are."""
    if ascends(visible, starts):
        return rows
    entity = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return rows[np.lexsort((visible, entity))]


def _replayed(layout: Layout, block: _Block) -> Values:
    """Return the features of a block's reads, in the block's order."""
    found = Values(len(block.read_times), len(layout.output_dtypes))
    arena = np.empty(_ARENA_WORDS, np.uint64)
    space = np.empty(SPACE_WORDS, np.int64)
    row = np.empty(ROW_WORDS, np.int64)
    work = workspace(layout.table)
    first, last = 0, len(block.event_starts) - 1
    while first < last:
        first = replay(
            layout.table,
            work,
            block.words,
            block.visible,
            block.event_starts,
            block.read_times,
            block.read_visible,
            block.read_starts,
            block.by_time,
            block.ages,
            first,
            last,
            arena,
            space,
            row,
            found.bits.view(np.float64),
            found.bits,
            found.valid,
        )
        if first < last:
            arena = np.empty(4 * len(arena), np.uint64)
    return found


def _blocks(
    event_starts: NDArray[np.int64], read_starts: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Cut the entities into runs of about equal work; one entity is never cut."""
    entities = len(event_starts) - 1
    work = event_starts + _EVENTS_PER_READ * read_starts
    total = int(work[-1])
    cuts = np.searchsorted(work, np.arange(_WORK_PER_BLOCK, total, _WORK_PER_BLOCK))
    bounds = np.unique([0, *np.minimum(cuts, entities).tolist(), entities]).tolist()
    return list(pairwise(bounds))
