"""Buckets: one view's history for the entities of a spine, in memory or in a few files."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from headwater.definitions.expression import apply_steps
from headwater.errors import ConfigError
from headwater.offline.point_in_time import Events
from headwater.state.events import event_words, positions_of
from headwater.state.keys import canonical_keys
from headwater.state.store import temporary_folder

if TYPE_CHECKING:
    import tempfile
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

    import polars as pl
    from numpy.typing import NDArray

    from headwater.offline.sketch import Sketch
    from headwater.offline.sources import EventSource
    from headwater.plan.plan import ViewPlan
    from headwater.state.key_index import KeyIndex

__all__ = ["MEMORY_BUDGET_BYTES", "Arrived", "Buckets", "Sight"]

MEMORY_BUDGET_BYTES = 1 << 30

# Beside its words an event has its slot, what sees it, and its place in the order by entity.
_EVENT_BYTES = 4 + 8 + 8
_WORD_BYTES = 8
_BUCKETS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Arrived:
    """Events of one partition: times and arrivals (n, µs), positions, key hashes."""

    times: NDArray[np.int64]
    arrivals: NDArray[np.int64]
    positions: NDArray[np.int64]
    hashes: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Sight:
    """How much of history each read sees: the events whose `visible` is below its `seen` (n).

    `ages`: within an entity, reads that see more are never earlier.
    """

    seen: NDArray[np.int64]
    visible: Callable[[Arrived], NDArray[np.int64]]
    ages: bool


class _Gathered:
    """Events in memory, in arrays with room for those to come.

    Room that is never used costs address space only; copies of a list of batches would cost twice
    the memory while they are made.
    """

    def __init__(self, width: int, room: int) -> None:
        self._used = 0
        self._slots = np.empty(room, np.int32)
        self._words = np.empty((room, width), np.uint64)
        self._visible = np.empty(room, np.int64)

    def add(self, events: Events) -> None:
        """Append events."""
        first, last = self._used, self._used + len(events.slots)
        if last > len(self._slots):
            room = max(last, 2 * len(self._slots))
            self._slots = _longer(self._slots, room)
            self._words = _longer(self._words, room)
            self._visible = _longer(self._visible, room)
        self._slots[first:last] = events.slots
        self._words[first:last] = events.words
        self._visible[first:last] = events.visible
        self._used = last

    def events(self) -> Events:
        """Return what was added."""
        used = self._used
        return Events(self._slots[:used], self._words[:used], self._visible[:used])


def _events_per_bucket(view: ViewPlan, memory_budget_bytes: int) -> int:
    event_bytes = _WORD_BYTES * view.layout.event_words + _EVENT_BYTES
    return max(1, memory_budget_bytes // event_bytes)


def _longer(array: NDArray[Any], room: int) -> NDArray[Any]:
    longer = np.empty((room, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


class Buckets:
    """Gathers a view's events once, and hands them out by bucket of entities.

    Only events of the entities of `index` are kept, and of those only what `sketch` lets through.

    The events of a bucket fill about the memory budget. Memory holds one bucket at a time when
    there is more than one: the others lie in a temporary folder that goes when this is closed. An
    entity is never cut, so one that has more events than that fills more.
    """

    def __init__(
        self,
        view: ViewPlan,
        index: KeyIndex,
        sketch: Sketch,
        visible: Callable[[Arrived], NDArray[np.int64]],
        *,
        events: int,
        memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
    ) -> None:
        self._view = view
        self._index = index
        self._sketch = sketch
        self._visible = visible
        self.entities = len(index)
        wanted = -(-events // _events_per_bucket(view, memory_budget_bytes))
        self.buckets = max(1, min(wanted, self.entities, _BUCKETS_MAX))
        room = events if self.buckets == 1 else 0
        self._gathered = _Gathered(view.layout.event_words, room)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if self.buckets > 1:
            self._folder = temporary_folder()

    def columns(self) -> list[str]:
        """Return the stream columns the view needs: keys, row logic and aggregates."""
        names = {*self._view.binding.columns, *self._view.columns}
        return [name for name in self._view.stream.schema if name in names]

    def read(self, source: EventSource, progress: Callable[[int], None]) -> None:
        """Take in the view's whole history: threads turn batches into events, added in order."""
        threads = os.cpu_count() or 1
        waiting: deque[tuple[int, Future[Events]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for partition, frame in source.scan(
                self._view.stream, self.columns(), self._sketch.span
            ):
                waiting.append((frame.height, pool.submit(self._events, partition, frame)))
                if len(waiting) > threads:
                    self._take(*waiting.popleft(), progress)
            while waiting:
                self._take(*waiting.popleft(), progress)

    def _take(self, rows: int, events: Future[Events], progress: Callable[[int], None]) -> None:
        self._add(events.result())
        progress(rows)

    def _events(self, partition: int, frame: pl.DataFrame) -> Events:
        """Return the events of a batch that a read may see."""
        keys = canonical_keys(frame, self._view.binding.columns)
        # A look-up waits for memory three times, so what no read sees is left out before it.
        seen = self._sketch.rows(keys.hashes, frame["__ts"].to_numpy())
        slots = self._index.find(keys, seen)
        known = slots >= 0
        seen, slots = seen[known], slots[known]
        frame, hashes = frame[seen], keys.hashes[seen]
        rows, kept, _ = apply_steps(frame, self._view.steps)
        times = frame["__ts"].to_numpy()[kept]
        positions = positions_of(partition, frame["__offset"].to_numpy()[kept])
        words, _ = event_words(self._view.layout, rows, times, positions)
        arrivals = frame["__arrival"].to_numpy()[kept]
        visible = self._visible(Arrived(times, arrivals, positions, hashes[kept]))
        return Events(slots[kept], words, visible)

    def _add(self, events: Events) -> None:
        if self.buckets == 1:
            self._gathered.add(events)
            return
        number = events.slots.astype(np.int64) * self.buckets // self.entities
        for b in range(self.buckets):
            rows = np.flatnonzero(number == b)
            if len(rows):
                self._append(b, "slots", events.slots[rows])
                self._append(b, "words", events.words[rows])
                self._append(b, "visible", events.visible[rows])

    def _append(self, bucket: int, name: str, values: NDArray[np.generic]) -> None:
        assert self._folder is not None
        path = Path(self._folder.name) / f"{bucket}.{name}"
        try:
            with path.open("ab") as file:
                file.write(np.ascontiguousarray(values).data)
        except OSError as error:
            msg = (
                f"can't write history to {path.parent}: {error.strerror or error}; make room there,"
                " name another folder in the variable TMPDIR, or give a larger memory budget"
            )
            raise ConfigError(msg) from error

    def bounds(self, bucket: int) -> tuple[int, int]:
        """Return the first entity of a bucket and the first of the next."""
        first = -(-bucket * self.entities // self.buckets)
        return first, -(-(bucket + 1) * self.entities // self.buckets)

    def bucket(self, number: int) -> Events:
        """Return the events of a bucket; slots count from the bucket's first entity."""
        first, _ = self.bounds(number)
        if self.buckets == 1:
            return self._gathered.events()
        slots = self._load(number, "slots", np.dtype(np.int32)) - np.int32(first)
        width = self._view.layout.event_words
        words = self._load(number, "words", np.dtype(np.uint64)).reshape(-1, width)
        return Events(slots, words, self._load(number, "visible", np.dtype(np.int64)))

    def _load(self, bucket: int, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        assert self._folder is not None
        path = Path(self._folder.name) / f"{bucket}.{name}"
        return np.fromfile(path, dtype) if path.exists() else np.empty(0, dtype)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Remove the temporary folder."""
        if self._folder is not None:
            self._folder.cleanup()

    def __iter__(self) -> Iterator[int]:
        """Yield the buckets' numbers."""
        return iter(range(self.buckets))
