"""A group: the rows of one view version in one shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import StateError
from headwater.kernels.blobs import blob_sizes, copy_blobs, load_blobs
from headwater.kernels.read import read
from headwater.kernels.rows import (
    EPOCH,
    HEAD_ROOM,
    HEADS,
    NO_HORIZON,
    ROW_WORDS,
    TILE_ROOM,
    TILES,
    TOUCHED,
    free_rows,
    left_edges,
)
from headwater.kernels.update import update
from headwater.kernels.workspace import workspace
from headwater.state.key_index import KeyIndex
from headwater.state.keys import Keys
from headwater.state.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from headwater.plan.plan import ViewPlan

__all__ = ["Blobs", "Group", "Values"]

_FIRST_ROWS = 256
_WORD_BYTES = 8
_SCRATCH_BYTES = 1 << 20


class Values:
    """Features of some rows: `bits` and `valid` (n, features), and which rows were `found` (n)."""

    __slots__ = ("bits", "found", "valid")

    def __init__(self, rows: int, features: int) -> None:
        self.bits = np.zeros((rows, features), np.uint64)
        self.valid = np.zeros((rows, features), np.uint8)
        self.found = np.zeros(rows, np.bool_)


class Blobs:
    """Copies of rows, as they go to disk: keys (n), their words, and where each ends (n)."""

    __slots__ = ("ends", "keys", "words")

    def __init__(
        self, keys: list[bytes], words: NDArray[np.uint64], ends: NDArray[np.int64]
    ) -> None:
        self.keys = keys
        self.words = words
        self.ends = ends

    def __iter__(self) -> zip[tuple[bytes, bytes]]:
        """Yield (key, blob) pairs."""
        data = self.words.view(np.uint8).data
        bounds = (self.ends * 8).tolist()
        starts = [0, *bounds][: len(bounds)]
        return zip(
            self.keys,
            (bytes(data[a:b]) for a, b in zip(starts, bounds, strict=True)),
            strict=True,
        )


class Group:
    """Rows by key, in the worker's memory; what isn't there is on disk or has never been seen."""

    def __init__(self, view: ViewPlan, memory: Memory) -> None:
        self.view = view
        self.table = view.layout.table
        self.memory = memory
        self.index = KeyIndex(_FIRST_ROWS)
        self.rows = np.zeros((_FIRST_ROWS, ROW_WORDS), np.int64)
        self.counters = np.zeros(1, np.int64)
        self._work = workspace(self.table)  # used under the memory's lock

    def __len__(self) -> int:
        """Return how many rows are in memory."""
        return len(self.index)

    @property
    def late_events(self) -> int:
        """Events too late for every window, since the group was opened."""
        return int(self.counters[0])

    def needs_from_us(self, horizon: int) -> int | None:
        """Return the time before which no read at or after a horizon sees events; None: all do."""
        windows = self.table.windows
        if horizon == NO_HORIZON or np.any(windows[:, 0] < 0):
            return None
        return int(left_edges(windows, horizon, np.empty(len(windows), np.int64)))

    def missing(self, keys: Keys, slots: NDArray[np.int32]) -> list[bytes]:
        """Return the distinct keys that have no row in memory; `slots` are those of the index."""
        absent = np.flatnonzero((slots < 0) & keys.valid)
        return list(dict.fromkeys(keys.take(absent).to_list())) if len(absent) else []

    def load(self, keys: Sequence[bytes], blobs: Sequence[bytes], touched: int) -> None:
        """Put rows read from disk into memory, clean."""
        if not keys:
            return
        slots = self._slots(Keys.from_list(list(keys)))
        words = np.frombuffer(bytearray(b"".join(blobs)), np.uint64)
        lengths = np.fromiter((len(blob) // 8 for blob in blobs), np.int64, len(blobs))
        starts = np.cumsum(lengths) - lengths
        memory = self.memory
        done = load_blobs(
            memory.arena, memory.space, self.rows, self.table, slots, starts, words, 0, touched
        )
        self._check_room(done, len(slots))

    def words_wanted(self, slots: NDArray[np.int32], fetched: Iterable[bytes]) -> int:
        """Return how many arena words events of rows at `slots` (n) may take, at the very most.

        -1 is a row that isn't in memory. A list that grows is copied to a block of twice its size,
        and an event may open a tile.
        """
        distinct = np.unique(slots)
        rows = self.rows[distinct[distinct >= 0]]
        layout = self.view.layout
        held = int(rows[:, TILE_ROOM].sum()) * layout.tile_words
        held += int(rows[:, HEAD_ROOM].sum()) * layout.event_words
        held += sum(len(blob) for blob in fetched) // _WORD_BYTES
        return 4 * held + 8 * len(slots) * (layout.tile_words + layout.event_words)

    @property
    def overhead_bytes(self) -> int:
        """Bytes of the group's own tables, beside the arena."""
        return self.index.nbytes + self.rows.nbytes

    def apply(self, keys: Keys, events: NDArray[np.uint64], horizon: int, epoch: int) -> None:
        """Fold events (n, event words) into their rows; every row that is on disk is loaded."""
        slots = self._slots(keys)
        times = events[:, 0].view(np.int64)
        if np.any(times[1:] < times[:-1]):
            # Several partitions, each almost in time order: merged, an event goes to the end of a
            # head instead of into the middle of it. Which order is taken makes no difference else.
            order = np.argsort(times, kind="stable")
            slots, events = slots[order], events[order]
        memory = self.memory
        done = update(
            memory.arena,
            memory.space,
            self.rows,
            self.table,
            self._work,
            slots,
            events,
            0,
            horizon,
            epoch,
            self.counters,
        )
        self._check_room(done, len(slots))

    def read(self, keys: Keys, times: NDArray[np.int64]) -> Values:
        """Return the features of rows in memory; a key without one reads as an empty row."""
        slots = self.index.find(keys)
        values = Values(len(slots), len(self.view.layout.output_dtypes))
        read(
            self.memory.arena,
            self.rows,
            self.table,
            self._work,
            slots,
            times,
            values.bits.view(np.float64),
            values.bits,
            values.valid,
        )
        # A row whose events were all too late has nothing to say, like one never seen.
        entries = self.rows[np.maximum(slots, 0)]
        values.found[:] = (slots >= 0) & (entries[:, TILES] + entries[:, HEADS] > 0)
        return values

    def read_blobs(self, blobs: Sequence[bytes], times: NDArray[np.int64]) -> Values:
        """Return the features of rows that are only on disk, without keeping them."""
        size = sum(len(blob) for blob in blobs)
        scratch = Group(self.view, Memory(max(_SCRATCH_BYTES, 2 * size)))
        keys = [i.to_bytes(8, "little") for i in range(len(blobs))]
        scratch.load(keys, blobs, 0)
        return scratch.read(Keys.from_list(keys), times)

    def dirty(self, persisted_epoch: int) -> NDArray[np.int32]:
        """Return the slots changed since the last finished checkpoint."""
        changed = self.rows[: len(self.index), EPOCH] > persisted_epoch
        return np.flatnonzero(changed).astype(np.int32)

    def copy(self, slots: NDArray[np.int32]) -> Blobs:
        """Copy rows out, as they stand."""
        ends = np.empty(len(slots), np.int64)
        total = blob_sizes(self.rows, self.table, slots, ends)
        words = np.empty(total, np.uint64)
        copy_blobs(self.memory.arena, self.rows, self.table, slots, ends, words)
        return Blobs(self.index.keys(slots).to_list(), words, ends)

    def touched(self) -> NDArray[np.int64]:
        """Return the epoch in which each row was last used."""
        found: NDArray[np.int64] = self.rows[: len(self.index), TOUCHED]
        return found

    def clear(self) -> None:
        """Forget every row in memory."""
        self.index = KeyIndex(_FIRST_ROWS)
        self.rows = np.zeros((_FIRST_ROWS, ROW_WORDS), np.int64)

    def free(self) -> None:
        """Forget every row in memory, and give its room to the rows of others."""
        memory = self.memory
        free_rows(memory.arena, memory.space, self.rows, self.table, len(self.index))
        self.clear()

    def _slots(self, keys: Keys) -> NDArray[np.int32]:
        slots = self.index.find_or_add(keys)
        if len(self.index) > len(self.rows):
            rows = np.zeros((max(2 * len(self.rows), len(self.index)), ROW_WORDS), np.int64)
            rows[: len(self.rows)] = self.rows
            self.rows = rows
        return slots

    def _check_room(self, done: int, wanted: int) -> None:
        if done < wanted:
            msg = (
                f'view "{self.view.view}": one batch needs more row memory than the budget of'
                f" {self.memory.budget_bytes} bytes and its headroom; raise memory_budget_bytes"
            )
            raise StateError(msg)
