"""Evaluation: a binding's rows through the row logic of its views, cut by shard."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from headwater.definitions.expression import apply_steps
from headwater.flow.exchange import KEY
from headwater.state.events import event_words, positions_of
from headwater.state.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from headwater.flow.metrics import Metrics
    from headwater.plan.plan import ViewPlan
    from headwater.state.memory import Memory
    from headwater.state.shard import Shard

__all__ = ["Evaluated", "Run", "evaluate", "evaluate_in_room", "rows_at_once"]

# About what a row of a new entity takes in one view; a guess that only sizes slices.
_ROW_BYTES = 2048
_ROWS_MIN = 256


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one binding for one shard, from one source partition, by offset."""

    shard: Shard
    partition: int
    rows: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Events of one view for one shard: keys (n), where in memory their rows are, event words."""

    shard: Shard
    view_id: str
    keys: Keys
    slots: NDArray[np.int32]
    events: NDArray[np.uint64]
    fetched: dict[bytes, bytes]  # rows of these keys that were only on disk

    def words_wanted(self) -> int:
        """Return how many arena words applying may take."""
        return self.shard.groups[self.view_id].words_wanted(self.slots, self.fetched.values())

    def apply(self) -> None:
        """Fold the events into the shard; the caller holds the memory's lock."""
        self.shard.apply(self.view_id, self.keys, self.events, self.fetched)


def evaluate(views: Sequence[ViewPlan], runs: Sequence[Run], metrics: Metrics) -> list[Evaluated]:
    """Run the row logic of each view once over all runs; return one batch per view and shard."""
    runs = sorted(runs, key=lambda run: run.shard.number)
    table = pa.Table.from_batches([run.rows for run in runs])
    lengths = np.array([run.rows.num_rows for run in runs])
    partitions = np.repeat([run.partition for run in runs], lengths)
    keys = Keys.from_arrow(table.column(KEY).combine_chunks())
    # Texts cost the most to turn into a frame's columns, and most views need none of them.
    read = {name for view in views for name in view.columns}
    columns = ["__offset", "__ts", *(name for name in table.column_names if name in read)]
    frame = pl.DataFrame(pl.from_arrow(table.select(columns)))
    times = frame["__ts"].to_numpy()
    positions = positions_of(partitions, frame["__offset"].to_numpy())
    # One batch per shard: a row on disk must be fetched once, not again over its newer self.
    shards = {run.shard.number: run.shard for run in runs}
    owners = np.repeat([run.shard.number for run in runs], lengths)
    ends = np.searchsorted(owners, list(shards), side="right")
    found = []
    for view in views:
        kept, events = _events(view, frame, times, positions, metrics)
        cuts = [0, *np.searchsorted(kept, ends, side="left").tolist()]
        kept_keys = keys.take(kept)
        for shard, (begin, end) in zip(shards.values(), pairwise(cuts), strict=True):
            if begin < end:
                keyed = kept_keys.slice(begin, end)
                slots = shard.groups[view.id].index.find(keyed)
                fetched = shard.fetch(view.id, keyed, slots)
                found.append(Evaluated(shard, view.id, keyed, slots, events[begin:end], fetched))
    return found


def evaluate_in_room(
    batches: Callable[[], list[Evaluated]], memory: Memory, make_room: Callable[[], None]
) -> tuple[list[Evaluated], bool]:
    """Return what `batches` evaluates, and whether applying it fits memory, room made if need be.

    It is called again once there is room: what it has fetched may have left memory.
    """
    evaluated = batches()
    if _fits(evaluated, memory):
        return evaluated, True
    make_room()
    evaluated = batches()
    return evaluated, _fits(evaluated, memory)


def _fits(evaluated: Sequence[Evaluated], memory: Memory) -> bool:
    return sum(one.words_wanted() for one in evaluated) <= memory.free_words


def rows_at_once(memory: Memory, views: int) -> int:
    """Return how many rows may be applied at once: what they add must fit beyond the budget."""
    return max(_ROWS_MIN, memory.headroom_bytes // (_ROW_BYTES * max(1, views)))


def _events(
    view: ViewPlan,
    frame: pl.DataFrame,
    times: NDArray[np.int64],
    positions: NDArray[np.int64],
    metrics: Metrics,
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    rows, kept, failed = apply_steps(frame, view.steps)
    outcomes = metrics.view_rows
    if len(failed):
        outcomes.labels(view.view.name, "failed").inc(len(failed))
    outcomes.labels(view.view.name, "applied").inc(len(kept))
    events, unusable = event_words(view.layout, rows, times[kept], positions[kept])
    if unusable:
        metrics.unusable_values.labels(view.view.name).inc(unusable)
    return kept, events
