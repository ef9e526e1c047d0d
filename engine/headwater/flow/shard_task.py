"""The shard task: exchange records into rows, each row once, whatever is sent twice."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from headwater.flow.evaluate import Run, evaluate
from headwater.flow.exchange import split, wires_of
from headwater.flow.pipeline import Tick
from headwater.kernels.rows import NO_HORIZON
from headwater.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headwater.flow.exchange import Header
    from headwater.flow.history import History
    from headwater.flow.metrics import Metrics
    from headwater.flow.pipeline import Batches
    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan
    from headwater.state.memory import Memory
    from headwater.state.shard import Shard
    from headwater_connectors.log.log import Records

__all__ = ["ShardTask"]

_log = get_logger(__name__)


@dataclass(slots=True)
class _Poll:
    """What one poll brings: lanes as they will be applied by shard, rows to evaluate by binding."""

    applied: dict[int, dict[str, int]]
    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    newest_us: dict[int, int] = field(default_factory=lambda: defaultdict(lambda: NO_HORIZON))
    rows: int = 0


class ShardTask:
    """Applies exchange records to the shards of this worker."""

    def __init__(
        self,
        plan: Plan,
        shards: Mapping[int, Shard],
        memory: Memory,
        metrics: Metrics,
        *,
        history: History,
        starts: Mapping[str, Start],
        applied: Callable[[int], None],
        checkpoint: Callable[[Tick], None],
    ) -> None:
        self._plan = plan
        self._shards = shards
        self._memory = memory
        self._metrics = metrics
        self._history = history
        self._starts = starts
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
        poll = _Poll(
            {
                records.partition: dict(self._shards[records.partition].applied)
                for records in batches
            }
        )
        for records in batches:
            self._take(records, poll)
        evaluated = [
            one
            for binding, runs in poll.runs.items()
            for one in evaluate(self._views[binding], runs, self._metrics)
        ]
        with self._memory.lock:
            for one in evaluated:
                one.apply()
            for records in batches:
                shard = self._shards[records.partition]
                shard.applied.update(poll.applied[shard.number])
                shard.advance(records.next_offset, poll.newest_us[shard.number])
        self._applied(poll.rows)

    def _take(self, records: Records, poll: _Poll) -> None:
        """Take in the records of one shard: what they cover, and the rows not applied yet."""
        shard = self._shards[records.partition]
        lanes = poll.applied[shard.number]
        newest_us = poll.newest_us[shard.number]
        arrivals = records.timestamps_us.tolist()
        for value, arrival_us in zip(records.values, arrivals, strict=True):
            assert value is not None
            header, body = split(value)
            poll.rows += header.rows
            if header.binding not in self._wires:
                continue
            done = lanes.get(header.lane, self._before(header))
            if header.to_offset <= done:
                continue
            for run in self._chained(shard, header, body, done):
                poll.runs[header.binding].append(run)
                latest = int(run.rows.column(2).to_numpy().max())
                newest_us = max(newest_us, min(latest, arrival_us))
            lanes[header.lane] = header.to_offset
        poll.newest_us[shard.number] = newest_us

    def _before(self, header: Header) -> int:
        """Return the last offset a lane that was never applied need not have: before its start."""
        start = self._starts[self._wires[header.binding].stream.topic]
        return start.positions[header.partition] - 1

    def _chained(self, shard: Shard, header: Header, body: memoryview, done: int) -> list[Run]:
        """Return a record's rows above `done`, and before them those of a hole (chain rule)."""
        runs = []
        if header.from_offset > done:
            runs = self._fill(shard, header, (done, header.from_offset))
        if header.rows:
            rows = self._wires[header.binding].decode(body)
            if header.from_offset < done:
                offsets = rows.column(1).to_numpy()
                rows = rows.slice(int(np.searchsorted(offsets, done, side="right")))
            runs.append(Run(shard, header.partition, rows))
        return [run for run in runs if run.rows.num_rows]

    def _fill(self, shard: Shard, header: Header, stretch: tuple[int, int]) -> list[Run]:
        self._metrics.holes.labels(str(shard.number)).inc()
        _log.warning(
            "exchange_hole_filled", lane=header.lane, after=stretch[0], to=stretch[1],
            shard=shard.number,
        )  # fmt: skip
        history = self._history.rows(header.binding, header.partition, stretch)
        return [
            Run(shard, header.partition, rows) for number, rows in history if number == shard.number
        ]
