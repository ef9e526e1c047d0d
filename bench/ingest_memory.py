"""Bytes in memory to state, in one process: our stages one after the other, beside plain Python.

The stages are those of a worker without what lies between them: decode, key and split, evaluate,
update. No log, no exchange records, no threads of ours (Polars decodes on all cores).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from bench.ingest_workload import SERVICE
from bench.tumbling import AGGREGATES, WINDOWS_MS, totals_of
from bench.tumbling_plain_python import Spending, decode_json, msgspec_decoder
from headwater.flow.decode import Decoder
from headwater.flow.evaluate import Run, evaluate
from headwater.flow.exchange import wires_of
from headwater.flow.metrics import Metrics
from headwater.flow.reader import ShardReader
from headwater.flow.running import CurrentPlan
from headwater.flow.settings import WorkerSettings
from headwater.flow.starts import Start
from headwater.kernels.rows import NO_HORIZON
from headwater.state.memory import Memory
from headwater.state.shard import Shard
from headwater.state.store import Stores
from headwater_connectors.log.log import Records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.ingest_workload import Load
    from bench.tumbling import Totals
    from headwater.flow.decode import Rows
    from headwater.plan.plan import Plan

__all__ = ["InMemory", "measure", "read_totals"]

_BATCH_RECORDS = 16_384
_US = 1_000


class InMemory:
    """Shards in memory, and the stages that lead to them."""

    def __init__(self, plan: Plan, topic: str) -> None:
        settings = WorkerSettings()
        self._decoder = Decoder(plan.streams[topic], "bench")
        (self._binding,) = plan.bindings
        self._wire = wires_of(plan)[self._binding.id]
        self._views = plan.views_of(self._binding)
        self._metrics = Metrics()
        self._memory = Memory(settings.memory_budget_bytes)
        self._topic = topic
        self.shards = {
            number: Shard(
                plan,
                self._memory,
                namespace=settings.namespace,
                number=number,
                shards=settings.shards,
                exchange_id="",
                read_back_us=settings.read_back_us,
                stores=Stores(None),
            )
            for number in range(settings.shards)
        }
        self.reader = ShardReader(
            CurrentPlan(plan),
            self.shards,
            self._memory,
            lambda: 0,
            starts={topic: Start("", {}, NO_HORIZON)},
        )

    def batches(self, values: dict[int, list[bytes]], arrival_ms: int) -> list[Records]:
        """Return records as a poll brings them: the partitions in turn, each from its offset 0."""
        found = []
        for begin in range(0, max(map(len, values.values())), _BATCH_RECORDS):
            for partition, mine in values.items():
                part = mine[begin : begin + _BATCH_RECORDS]
                if part:
                    found.append(self._records(partition, begin, part, arrival_ms))
        return found

    def _records(
        self, partition: int, offset: int, values: Sequence[bytes], arrival_ms: int
    ) -> Records:
        return Records(
            topic=self._topic,
            topic_id="",
            partition=partition,
            offsets=np.arange(offset, offset + len(values)),
            timestamps_us=np.full(len(values), arrival_ms * _US),
            keys=[None] * len(values),
            values=values,
            headers=[()] * len(values),
        )

    def apply(self, batches: Iterable[Records]) -> None:
        """Take records all the way to state."""
        for records in batches:
            rows = self._decoder.decode(records)
            self._update(rows, records.partition)

    def _update(self, rows: Rows, partition: int) -> None:
        keyed = self._wire.keyed([rows.frame], len(self.shards))
        newest_us = int(rows.frame["__ts"].max())  # type: ignore[arg-type]
        runs = [
            Run(shard, partition, part)
            for shard in self.shards.values()
            if (part := keyed.of_shard(shard.number)).num_rows
        ]
        found = evaluate(self._views, runs, self._metrics)
        assert sum(one.words_wanted() for one in found) < self._memory.free_words
        with self._memory.lock:
            for one in found:
                one.apply()
                one.shard.advance(0, newest_us)


def read_totals(reader: ShardReader, users: Sequence[str], end_ms: int) -> Totals:
    """Return the totals of what can be read at a time after every event."""
    info = reader.describe(SERVICE)
    answer = reader.read(info, pl.DataFrame({"user": users}), end_ms * _US).values
    return {
        window: totals_of(answer.select(*(f"{one}_{window}" for one in AGGREGATES)).iter_rows())
        for window in WINDOWS_MS
    }


def measure(plan: Plan, topic: str, load: Load, runs: int) -> dict[str, dict[str, object]]:
    """Return each contestant's figures and totals, of the best of several runs taken in turns."""
    values, users = load.values(), load.user_names()
    contestants: dict[str, Callable[[], _Contest]] = {
        "headwater_memory": lambda: _ours(plan, topic, load, values, users),
        "plain_python_json": lambda: _plain(plan, load, values, users, decode_json),
        "plain_python_msgspec": lambda: _plain(plan, load, values, users, msgspec_decoder()),
    }
    found: dict[str, dict[str, object]] = {}
    for _ in range(runs):
        for name, prepare in contestants.items():
            run, totals = prepare()
            figures = _timed(run, load.events)
            best = found.get(name)
            if best is None or figures["events_per_s"] > float(best["events_per_s"]):  # type: ignore[arg-type]
                found[name] = {**figures, "totals": totals()}
    return found


# What is timed, and what tells the totals afterwards.
_Contest = tuple["Callable[[], None]", "Callable[[], Totals]"]


def _ours(
    plan: Plan, topic: str, load: Load, values: dict[int, list[bytes]], users: list[str]
) -> _Contest:
    store = InMemory(plan, topic)
    batches = store.batches(values, load.end_ms)
    return lambda: store.apply(batches), lambda: read_totals(store.reader, users, load.end_ms)


def _plain(
    plan: Plan,
    load: Load,
    values: dict[int, list[bytes]],
    users: list[str],
    decode: Callable[..., Iterable[tuple[str, float, int]]],
) -> _Contest:
    (view,) = plan.views.values()
    windows = [(width // _US, hop // _US) for width, hop in view.layout.table.windows.tolist()]
    spending = Spending(windows)

    def run() -> None:
        for mine in values.values():
            spending.apply(decode(mine, load.end_ms))
        assert not spending.dead_letters, "the workload has no bad records"

    def totals() -> Totals:
        rows = [spending.read(user, load.end_ms) for user in users]
        return {
            window: totals_of([row[i] for row in rows])  # type: ignore[misc]
            for i, window in enumerate(WINDOWS_MS)
        }

    return run, totals


def _timed(run: Callable[[], None], events: int) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return {"events_per_s": events / seconds, "cpu_s_per_m": cpu_seconds / events * 1e6}
