"""Rows: an entity's tiles and head events, changed in place.

`rows` is int64[slots, ROW_WORDS], one row per entity of a view: where its tiles and its head events
lie in the arena, how many there are and how many fit. Tiles are ordered by start and never overlap;
head events are ordered by (ts, position). Functions that need room return False when the arena has
none, and leave the row as right as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.compiled import kernel
from headwater.kernels.fold import fold_event, fold_tile
from headwater.kernels.memory import allocate, release

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headwater.plan.layout import Table

__all__ = [
    "APPLIED", "EPOCH", "FOREVER", "HEADS", "HEAD_AT", "HEAD_ROOM", "NO_HORIZON", "NO_ROOM",
    "ROW_WORDS", "TILES", "TILE_AT", "TILE_ROOM", "TOO_LATE", "TOUCHED", "age_row", "free_rows",
    "head_start", "insert_event", "left_edges", "make_head_room", "rung_limits",
]  # fmt: skip

ROW_WORDS = 8
TILE_AT, TILES, TILE_ROOM, HEAD_AT, HEADS, HEAD_ROOM, EPOCH, TOUCHED = range(ROW_WORDS)

# A horizon before every event: all events stay single. Far enough from the edge not to overflow.
NO_HORIZON = -(1 << 61)
FOREVER = 1 << 62

NO_ROOM, APPLIED, TOO_LATE = range(3)

_FIRST_EVENTS = 2
_FIRST_TILES = 2


@kernel
def left_edges(windows: NDArray[np.int64], t: int, edges: NDArray[np.int64]) -> int:
    """Fill the left edge of each window at `t`; return the smallest that isn't lifetime's."""
    smallest = np.int64(FOREVER)
    for k in range(windows.shape[0]):
        width, hop = windows[k, 0], windows[k, 1]
        if width < 0:
            edges[k] = -FOREVER
            continue
        edge = t - width
        if hop > 0:
            edge = (edge // hop) * hop
        edges[k] = edge
        smallest = min(smallest, edge)
    return smallest


@kernel
def head_start(table: Table, horizon: int) -> int:
    """Return the time from which events must stay single for any read at or after `horizon`."""
    finest = table.rungs[0]
    return ((horizon - table.shape[2]) // finest) * finest


@kernel
def rung_limits(
    table: Table, edges: NDArray[np.int64], head: int, limits: NDArray[np.int64]
) -> None:
    """Fill `limits` (rungs): tiles that start before `limits[i]` may be as wide as rung `i`.

    A block of rung `i` must end before the head and before the left edge of every window with a
    finer hop; rungs nest, so the limits fall as rungs widen.
    """
    for i in range(table.rungs.shape[0]):
        rung = table.rungs[i]
        limit = head
        for k in range(edges.shape[0]):
            if 0 < table.windows[k, 1] < rung:
                limit = min(limit, edges[k])
        limits[i] = (limit // rung) * rung


@kernel
def age_row(
    arena: NDArray[np.uint64],
    rows: NDArray[np.int64],
    r: int,
    table: Table,
    limits: NDArray[np.int64],
    smallest: int,
) -> None:
    """Merge tiles no read needs apart, and drop (or keep for a lifetime) those no window holds."""
    fields, rungs, words = table.fields, table.rungs, table.shape[0]
    base = rows[r + TILE_AT]
    end = base + rows[r + TILES] * words
    rung = rungs.shape[0] - 1
    last = np.int64(-1)  # the tile kept last, and where its block ends
    block_end = np.int64(-FOREVER)
    q = base
    for p in range(base, end, words):
        start, size = np.int64(arena[p]), np.int64(arena[p + 1])
        if size == FOREVER or start + size <= smallest:
            if table.shape[3] == 0:
                continue
            start, size = np.int64(-FOREVER), np.int64(FOREVER)
            same = last >= 0 and np.int64(arena[last + 1]) == FOREVER
        else:
            same = start < block_end
            while rung > 0 and start >= limits[rung]:
                rung -= 1
            if not same and size < rungs[rung]:
                size = rungs[rung]
                start = (start // size) * size
        if same:
            fold_tile(arena, last, arena, p, fields)
            continue
        if q != p:
            for j in range(words):
                arena[q + j] = arena[p + j]
        arena[q], arena[q + 1] = np.uint64(start), np.uint64(size)
        if size != FOREVER:
            block_end = start + size
        last = q
        q += words
    rows[r + TILES] = (q - base) // words


@kernel
def _grow(
    arena: NDArray[np.uint64],
    space: NDArray[np.int64],
    rows: NDArray[np.int64],
    r: int,
    at: int,
    entry_words: int,
    first: int,
) -> bool:
    """Double the room of the list whose offset, count and room are at `row[at:at+3]`."""
    room = rows[r + at + 2]
    wanted = max(np.int64(first), room * 2) * entry_words
    offset = allocate(arena, space, wanted)
    if offset < 0:
        return False
    used = rows[r + at + 1] * entry_words
    source = rows[r + at]
    for j in range(used):
        arena[offset + j] = arena[source + j]
    if room > 0:
        release(arena, space, source, room * entry_words)
    rows[r + at] = offset
    rows[r + at + 2] = wanted // entry_words
    return True


@kernel
def _tile_index(
    arena: NDArray[np.uint64], rows: NDArray[np.int64], r: int, words: int, ts: int
) -> int:
    """Return the index of the last tile that starts at or before `ts`, or -1."""
    low = np.int64(0)
    high = rows[r + TILES]
    base = rows[r + TILE_AT]
    if high > 0 and np.int64(arena[base + (high - 1) * words]) <= ts:
        return high - 1
    while low < high:
        middle = (low + high) // 2
        if np.int64(arena[base + middle * words]) <= ts:
            low = middle + 1
        else:
            high = middle
    return low - 1


@kernel
def _insert_tile(
    arena: NDArray[np.uint64],
    rows: NDArray[np.int64],
    r: int,
    table: Table,
    index: int,
    start: int,
    size: int,
) -> int:
    """Open a gap at `index`, put an empty tile there and return its offset."""
    words = table.shape[0]
    base = rows[r + TILE_AT]
    end = base + rows[r + TILES] * words
    p = base + index * words
    for j in range(end - 1, p - 1, -1):
        arena[j + words] = arena[j]
    for j in range(words):
        arena[p + j] = table.identity[j]
    arena[p] = np.uint64(start)
    arena[p + 1] = np.uint64(size)
    rows[r + TILES] += 1
    return p


@kernel
def _covering_tile(
    arena: NDArray[np.uint64],
    rows: NDArray[np.int64],
    r: int,
    words: int,
    ts: int,
    index: int,
    expired: bool,
) -> int:
    """Return the offset of the tile an event at `ts` belongs to, or -1 when there is none yet."""
    base = rows[r + TILE_AT]
    if index >= 0:
        tile = base + index * words
        size = np.int64(arena[tile + 1])
        if size != FOREVER and ts < np.int64(arena[tile]) + size:
            return tile
    if expired and rows[r + TILES] > 0 and np.int64(arena[base + 1]) == FOREVER:
        return base
    return -1


@kernel
def _fold_closed(
    arena: NDArray[np.uint64],
    space: NDArray[np.int64],
    rows: NDArray[np.int64],
    r: int,
    table: Table,
    events: NDArray[np.uint64],
    p: int,
    limits: NDArray[np.int64],
    smallest: int,
) -> int:
    """Fold an event before the head into its tile; one that no window can hold is left out."""
    words = table.shape[0]
    ts = np.int64(events[p])
    expired = ts < smallest
    if expired and table.shape[3] == 0:
        return TOO_LATE
    while True:
        index = _tile_index(arena, rows, r, words, ts)
        tile = _covering_tile(arena, rows, r, words, ts, index, expired)
        if tile >= 0:
            fold_event(arena, tile, events, p, table.fields)
            return APPLIED
        if rows[r + TILES] < rows[r + TILE_ROOM]:
            break
        if rows[r + TILES] > 0:
            age_row(arena, rows, r, table, limits, smallest)
        if rows[r + TILES] * 4 >= rows[r + TILE_ROOM] * 3 and not _grow(
            arena, space, rows, r, TILE_AT, words, _FIRST_TILES
        ):
            return NO_ROOM
    size = table.rungs[0]
    start = (ts // size) * size
    if expired:
        index, start, size = np.int64(-1), np.int64(-FOREVER), np.int64(FOREVER)
    tile = _insert_tile(arena, rows, r, table, index + 1, start, size)
    fold_event(arena, tile, events, p, table.fields)
    return APPLIED


@kernel
def _close_head(
    arena: NDArray[np.uint64],
    space: NDArray[np.int64],
    rows: NDArray[np.int64],
    r: int,
    table: Table,
    limits: NDArray[np.int64],
    smallest: int,
    head: int,
) -> bool:
    """Fold the head's events before `head` into tiles; False when the arena was full on the way."""
    words = table.shape[1]
    base = rows[r + HEAD_AT]
    done = np.int64(0)
    right = True
    while done < rows[r + HEADS] and np.int64(arena[base + done * words]) < head:
        p = base + done * words
        if _fold_closed(arena, space, rows, r, table, arena, p, limits, smallest) == NO_ROOM:
            right = False
            break
        done += 1
    if done > 0:
        for j in range((rows[r + HEADS] - done) * words):
            arena[base + j] = arena[base + done * words + j]
        rows[r + HEADS] -= done
    return right


@kernel
def make_head_room(
    arena: NDArray[np.uint64],
    space: NDArray[np.int64],
    rows: NDArray[np.int64],
    r: int,
    table: Table,
    limits: NDArray[np.int64],
    smallest: int,
    head: int,
    count: int,
) -> bool:
    """Make room for `count` more events in the head; False when the arena is full."""
    if rows[r + HEADS] + count <= rows[r + HEAD_ROOM]:
        return True
    if rows[r + HEADS] > 0 and not _close_head(
        arena, space, rows, r, table, limits, smallest, head
    ):
        return False
    # Once closed it should take a while until the next time.
    while (
        rows[r + HEADS] + count > rows[r + HEAD_ROOM]
        or rows[r + HEADS] * 4 >= rows[r + HEAD_ROOM] * 3
    ):
        if not _grow(arena, space, rows, r, HEAD_AT, table.shape[1], _FIRST_EVENTS):
            return False
    return True


@kernel
def _head_index(
    arena: NDArray[np.uint64], rows: NDArray[np.int64], r: int, words: int, ts: int, position: int
) -> int:
    """Return where an event goes among the head's: after every one not later than it."""
    base = rows[r + HEAD_AT]
    low = np.int64(0)
    high = rows[r + HEADS]
    if high > 0 and np.int64(arena[base + (high - 1) * words]) < ts:
        return high
    while low < high:
        middle = (low + high) // 2
        q = base + middle * words
        at = np.int64(arena[q])
        if at < ts or (at == ts and np.int64(arena[q + 1]) <= position):
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def insert_event(
    arena: NDArray[np.uint64],
    space: NDArray[np.int64],
    rows: NDArray[np.int64],
    r: int,
    table: Table,
    events: NDArray[np.uint64],
    p: int,
    limits: NDArray[np.int64],
    smallest: int,
    head: int,
) -> int:
    """Put the event at `events[p]` into the row.

    Returns APPLIED, TOO_LATE (no window a read may still ask for holds it) or NO_ROOM (the arena
    is full and the event is not in).
    """
    ts = np.int64(events[p])
    if ts < head:
        return _fold_closed(arena, space, rows, r, table, events, p, limits, smallest)
    words = table.shape[1]
    if not make_head_room(arena, space, rows, r, table, limits, smallest, head, 1):
        return NO_ROOM
    i = _head_index(arena, rows, r, words, ts, np.int64(events[p + 1]))
    base = rows[r + HEAD_AT]
    for j in range(base + rows[r + HEADS] * words - 1, base + i * words - 1, -1):
        arena[j + words] = arena[j]
    q = base + i * words
    for j in range(words):
        arena[q + j] = events[p + j]
    rows[r + HEADS] += 1
    return APPLIED


@kernel
def free_rows(
    arena: NDArray[np.uint64],
    space: NDArray[np.int64],
    rows: NDArray[np.int64],
    table: Table,
    count: int,
) -> None:
    """Give back the blocks of the first `count` rows, whose entries are void from then on."""
    for slot in range(count):
        row = rows[slot]
        if row[TILE_ROOM] > 0:
            release(arena, space, row[TILE_AT], row[TILE_ROOM] * table.shape[0])
        if row[HEAD_ROOM] > 0:
            release(arena, space, row[HEAD_AT], row[HEAD_ROOM] * table.shape[1])
