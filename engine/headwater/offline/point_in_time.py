"""Point in time: a view's features for (entity, time) pairs, from events in any order."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

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
_WORK_PER_THREAD = 50_000


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
class _Sorted:
    order: NDArray[np.int64]
    starts: NDArray[np.int64]


def _by_entity(slots: NDArray[np.int32], key: NDArray[np.int64], entities: int) -> _Sorted:
    """Sort by (entity, key), stable: a counting sort where keys ascend already, as history does."""
    ascending = len(key) < 2 or bool((key[1:] >= key[:-1]).all())
    if ascending:
        return _Sorted(*counting_sort_by_slot(slots, entities))
    by_key = np.argsort(key, kind="stable")
    order, starts = counting_sort_by_slot(slots[by_key], entities)
    return _Sorted(by_key[order], starts)


def features_at(layout: Layout, entities: int, events: Events, reads: Reads) -> Values:
    """Return the features of every read, in the order of `reads`.

    Entities are independent, so threads take runs of them; the bits don't depend on how many.
    """
    history = _by_entity(events.slots, events.visible, entities)
    spine = _by_entity(reads.slots, reads.visible, entities)
    words = np.ascontiguousarray(events.words[history.order])
    times = words[:, 0].view(np.int64) if len(words) else np.empty(0, np.int64)
    visible = events.visible[history.order]
    by_time = bool(np.array_equal(times, visible))
    read_times = reads.times[spine.order]
    read_visible = reads.visible[spine.order]
    found = Values(len(read_times), len(layout.output_dtypes))

    def run(bounds: tuple[int, int]) -> None:
        first, last = bounds
        arena = np.empty(_ARENA_WORDS, np.uint64)
        space = np.empty(SPACE_WORDS, np.int64)
        row = np.empty(ROW_WORDS, np.int64)
        work = workspace(layout.table)
        while first < last:
            first = replay(
                layout.table,
                work,
                words.reshape(-1),
                visible,
                history.starts,
                read_times,
                read_visible,
                spine.starts,
                by_time,
                reads.ages,
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

    parts = _parts(history.starts, spine.starts)
    if len(parts) == 1:
        run(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(run, parts))
    result = Values(len(read_times), len(layout.output_dtypes))
    result.bits[spine.order] = found.bits
    result.valid[spine.order] = found.valid
    result.found[spine.order] = np.diff(history.starts)[reads.slots[spine.order]] > 0
    return result


def _parts(
    event_starts: NDArray[np.int64], read_starts: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Cut the entities into runs of about equal work, one per core."""
    entities = len(event_starts) - 1
    work = event_starts + 20 * read_starts
    threads = min(os.cpu_count() or 1, 1 + int(work[-1]) // _WORK_PER_THREAD)
    cuts = np.searchsorted(work, np.linspace(0, int(work[-1]), threads + 1)[1:-1])
    bounds = [0, *np.clip(cuts, 0, entities).tolist(), entities]
    return [(a, b) for a, b in pairwise(bounds) if a < b] or [(0, entities)]
