"""The shard task: exchange records into rows, each row once, whatever is sent twice."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from headwater.definitions.expression import apply_steps
from headwater.errors import StateError
from headwater.flow.exchange import KEY, split, wires_of
from headwater.flow.pipeline import Tick
from headwater.kernels.rows import NO_HORIZON
from headwater.state.events import event_words, positions_of
from headwater.state.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from headwater.flow.exchange import Header
    from headwater.flow.metrics import Metrics
    from headwater.flow.pipeline import Batches
    from headwater.plan.plan import Plan, ViewPlan
    from headwater.state.memory import Memory
    from headwater.state.shard import Shard
    from headwater_connectors.log.log import Records

__all__ = ["HoleError", "ShardTask"]


class HoleError(StateError):
    """A stretch of a lane is missing from the exchange."""


@dataclass(slots=True)
class _Run:
    """Rows of one binding for one shard, from one source partition."""

    shard: Shard
    partition: int
    batch: pa.RecordBatch


class ShardTask:
    """Applies exchange records to the shards of this worker."""

    def __init__(
        self,
        plan: Plan,
        shards: Mapping[int, Shard],
        memory: Memory,
        metrics: Metrics,
        *,
        applied: Callable[[int], None],
        checkpoint: Callable[[Tick], None],
    ) -> None:
        self._plan = plan
        self._shards = shards
        self._memory = memory
        self._metrics = metrics
        self._applied = applied
        self._checkpoint = checkpoint
        self._wires = wires_of(plan)
        self._views = {binding.id: plan.views_of(binding) for binding in plan.bindings}

    def __call__(self, batches: Batches) -> Batches:
        """Apply every record of a poll, then let the checkpoint policy act."""
        records = [batch for batch in batches if not isinstance(batch, Tick)]
        if records:
            self._apply(records)
        ticks = [batch for batch in batches if isinstance(batch, Tick)]
        for tick in ticks:
            self._checkpoint(tick)
        return ticks

    def _apply(self, batches: list[Records]) -> None:
        runs: dict[str, list[_Run]] = defaultdict(list)
        applied: dict[int, dict[str, int]] = {}
        newest: dict[int, int] = defaultdict(lambda: NO_HORIZON)
        count = 0
        for records in batches:
            shard = self._shards[records.partition]
            lanes = applied.setdefault(records.partition, dict(shard.applied))
            times = zip(records.values, records.timestamps_us.tolist(), strict=True)
            for value, arrival_us in times:
                assert value is not None
                header, body = split(value)
                count += header.rows
                fresh = self._fresh(header, body, lanes)
                if fresh is not None and fresh.num_rows:
                    runs[header.binding].append(_Run(shard, header.partition, fresh))
                    latest = int(fresh.column(2).to_numpy().max())
                    newest[shard.number] = max(newest[shard.number], min(latest, arrival_us))
        evaluated = [
            one for binding, found in runs.items() for one in self._evaluate(binding, found)
        ]
        with self._memory.lock:
            for shard, view_id, keys, events in evaluated:
                shard.apply(view_id, keys, events)
            for records in batches:
                shard = self._shards[records.partition]
                shard.applied.update(applied[records.partition])
                shard.advance(records.next_offset, newest[records.partition])
        self._applied(count)

    def _fresh(
        self, header: Header, body: memoryview, lanes: dict[str, int]
    ) -> pa.RecordBatch | None:
        """Return the rows of a record that are not applied yet (the chain rule)."""
        wire = self._wires.get(header.binding)
        if wire is None:
            return None
        lane = header.lane
        done = lanes.get(lane, header.from_offset)
        if header.to_offset <= done:
            return None
        if header.from_offset > done:
            self._metrics.holes.labels(str(header.partition)).inc()
            msg = (
                f"lane {lane}: offsets {done + 1} to {header.from_offset} are missing from the"
                " exchange;"
                " remove the state folder to rebuild from the source topic"
            )
            raise HoleError(msg)
        lanes[lane] = header.to_offset
        if not header.rows:
            return None
        batch = wire.decode(body)
        if header.from_offset < done:
            offsets = batch.column(1).to_numpy()
            batch = batch.slice(int(np.searchsorted(offsets, done, side="right")))
        return batch

    def _evaluate(
        self, binding: str, runs: list[_Run]
    ) -> list[tuple[Shard, str, Keys, NDArray[np.uint64]]]:
        """Run the row logic of a binding's views once over all runs; cut the result by shard."""
        table = pa.Table.from_batches([run.batch for run in runs])
        lengths = np.array([run.batch.num_rows for run in runs])
        partitions = np.repeat([run.partition for run in runs], lengths)
        ends = np.cumsum(lengths)
        keys = Keys.from_arrow(table.column(KEY).combine_chunks())
        frame = pl.DataFrame(pl.from_arrow(table.drop_columns([KEY])))
        times = frame["__ts"].to_numpy()
        positions = positions_of(partitions, frame["__offset"].to_numpy())
        found = []
        for view in self._views[binding]:
            kept, events = self._events(view, frame, times, positions)
            cuts = [0, *np.searchsorted(kept, ends, side="left").tolist()]
            kept_keys = keys.take(kept)
            for run, begin, end in zip(runs, cuts[:-1], cuts[1:], strict=True):
                if begin < end:
                    found.append(
                        (run.shard, view.id, kept_keys.slice(begin, end), events[begin:end])
                    )
        return found

    def _events(
        self,
        view: ViewPlan,
        frame: pl.DataFrame,
        times: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        rows, kept, failed = apply_steps(frame, view.steps)
        outcomes = self._metrics.view_rows
        if len(failed):
            outcomes.labels(view.view.name, "failed").inc(len(failed))
        outcomes.labels(view.view.name, "applied").inc(len(kept))
        events, unusable = event_words(view.layout, rows, times[kept], positions[kept])
        if unusable:
            self._metrics.unusable_values.labels(view.view.name).inc(unusable)
        return kept, events
