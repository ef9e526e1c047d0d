"""A worker over a log that outlives it, stepped by hand: crashes, redelivery, eviction at will."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

import headwater as hw
from headwater.flow import plain_driver
from headwater.flow.pipeline import Tick
from headwater.flow.running import CurrentPlan, Running
from headwater.flow.settings import WorkerSettings
from headwater.flow.starts import resolve_start
from headwater.flow.worker import Worker
from headwater.plan.plan import compile_plan
from headwater.state.store import Store, Stores
from headwater_connectors.log.memory import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from headwater.flow.pipeline import Batches, Pipeline
    from headwater.plan.plan import Plan

__all__ = [
    "BASE_US", "EPOCH", "SECOND_US", "SETTINGS", "Harness", "Pushed", "click", "clicks",
    "clicks_plan", "moment", "records_of",
]  # fmt: skip

SECOND_US = 1_000_000
BASE_US = 1_700_000_000 * SECOND_US
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ROUNDS_MAX = 10_000

SETTINGS = WorkerSettings(
    shards=2,
    read_back_us=None,
    memory_budget_bytes=1 << 20,
    poll_records_max=7,
    keep_exchange=True,
)


@dataclass(frozen=True, slots=True)
class Pushed:
    """An event as it went into the log."""

    partition: int
    offset: int
    arrival_us: int
    row: dict[str, Any]


def clicks(**changes: Any) -> Any:
    """Return a small service: clicks by user and by page."""
    stream = hw.stream(
        "clicks",
        schema={"user": pl.String, "page": pl.Int64, "x": pl.Float64, "at": pl.Int64},
        event_time=hw.epoch("at", "us"),
        **changes,
    )
    by_user = hw.view(
        "by_user",
        features=stream.group_by(hw.entity("user", key="user"))
        .window("10s", "1h", "lifetime")
        .agg(n=hw.count(), total=hw.sum("x")),
    )
    by_page = hw.view(
        "by_page",
        features=stream.group_by(hw.entity("page", key="page")).window("1h").agg(hits=hw.count()),
    )
    return hw.service("clicks_of", [by_user, by_page])


def clicks_plan(**changes: Any) -> Plan:
    """Return the plan of `clicks`."""
    return compile_plan([clicks(**changes)])


def click(
    second: int, user: str | None = "a", page: int | None = 1, x: float | None = 1.0
) -> dict[str, Any]:
    """Return a click, so many seconds after the base time."""
    return {"user": user, "page": page, "x": x, "at": BASE_US + second * SECOND_US}


def moment(us: int) -> datetime:
    """Return a time given in µs since 1970."""
    return EPOCH + timedelta(microseconds=us)


def records_of(log: MemoryLog, topic: str) -> dict[int, list[bytes]]:
    """Return the values of every partition of a topic, from its first offset on."""
    found: dict[int, list[bytes]] = {p: [] for p in range(log.topic(topic).partitions)}
    consumer = log.consumer(None)
    consumer.assign(topic, dict(enumerate(log.start_offsets(topic))))
    while runs := consumer.poll(100_000, 0.0):
        for run in runs:
            found[run.partition] += [value for value in run.values if value is not None]
    consumer.close()
    return found


class _CountedStores(Stores):
    """Stores that count the rows read back from disk."""

    def __init__(self, harness: Harness) -> None:
        super().__init__(harness.folder)
        self._harness = harness

    def open(self, shard: int) -> Store:
        harness = self._harness

        class Counted(Store):
            def get_many(self, view_id: str, keys: Sequence[bytes]) -> list[bytes | None]:
                found = super().get_many(view_id, keys)
                harness.rows_from_disk += sum(blob is not None for blob in found)
                return found

        return Counted(self.folder(shard))


class Harness:
    """One stream, one worker; time moves only when told to."""

    def __init__(
        self, plan: Plan, folder: Path, *, partitions: int = 1, settings: WorkerSettings = SETTINGS
    ) -> None:
        self.now_us = BASE_US
        self.plan = plan
        self.folder = folder
        self.settings = settings
        (self.stream,) = plan.streams.values()
        self.topic = self.stream.topic
        self.log = MemoryLog(clock=lambda: self.now_us)
        self.log.create_topic(self.topic, partitions=partitions, append_time=False)
        self.partitions = partitions
        self.starts = {self.topic: resolve_start(self.log, self.stream, lambda: self.now_us)}
        self.pushed: list[Pushed] = []
        # The memory's own floor is a megabyte; a test may tighten the budget below it.
        self.budget_bytes: int | None = None
        self.rows_from_disk = 0
        self.open()

    def open(self) -> None:
        """Start a worker on what the log and the written checkpoints hold."""
        self.worker = Worker(
            CurrentPlan(self.plan),
            self.log,
            self.settings,
            clock=lambda: self.now_us,
            starts=self.starts,
            stores=_CountedStores(self),
            archive=None,
        )
        if self.budget_bytes is not None:
            self.worker.memory.budget_bytes = self.budget_bytes
        groups = self.worker.pipelines()
        self.sources: list[Pipeline] = list(groups[0])
        (self.sink,) = groups[1]

    @property
    def exchange(self) -> str:
        """The exchange topic's name."""
        return self.worker.exchange

    def tighten(self, budget_bytes: int) -> None:
        """Let rows use this much memory, from now on."""
        self.budget_bytes = budget_bytes
        self.worker.memory.budget_bytes = budget_bytes

    def push(self, rows: Iterable[dict[str, Any]], time: str = "at", late_us: int = 0) -> None:
        """Append rows as JSON, to the partitions in turn; none arrives before it happened."""
        producer = self.log.producer()
        for row in rows:
            partition = len(self.pushed) % self.partitions
            offset = self.log.end_offsets(self.topic)[partition]
            arrival_us = max(self.now_us, row[time]) + late_us
            value = json.dumps(row).encode()
            producer.send(self.topic, partition, value, timestamp_us=arrival_us)
            producer.flush()
            self.pushed.append(Pushed(partition, offset, arrival_us, row))

    def wait(self, us: int) -> None:
        """Let time pass."""
        self.now_us += us

    def step(self, which: int) -> None:
        """Run one pipeline once."""
        pipelines = [*self.sources, self.sink]
        self.now_us += 300_000
        plain_driver.step(pipelines[which % len(pipelines)])

    def publish(self, which: int = 0) -> None:
        """Run an ingest once and let it commit nothing, as if it died before its next tick."""
        pipeline = self.sources[which % len(self.sources)]
        batches: Batches = [*pipeline.source.poll()[:-1], Tick(0, idle=False)]
        for stage in pipeline.stages:
            batches = stage(batches)

    def adopt(self, plan: Plan) -> None:
        """Let the worker, and a later one, run another plan; the shards take it on at once."""
        self.plan = plan
        self.worker.adoption.offer(Running.of(plan, self.worker.current.now.number + 1))
        self.step(len(self.sources))

    def settle(self) -> None:
        """Run everything until all that was pushed is applied and committed."""
        ends = {self.topic: self.log.end_offsets(self.topic)}
        for _ in range(ROUNDS_MAX):
            for which in range(len(self.sources) + 1):
                self.step(which)
            if self.worker.is_applied(ends) and not self.unread():
                return
        msg = "never settled"
        raise AssertionError(msg)

    def unread(self) -> int:
        """Return how many exchange records no shard has applied."""
        ends = self.log.end_offsets(self.exchange)
        return sum(end - self.worker.shards[p].next_offset for p, end in enumerate(ends))

    def checkpoint(self, *, wait: bool = True) -> None:
        """Start a checkpoint; with wait=False it is written while the rest goes on."""
        self.worker.checkpoints.start(self.now_us)
        if wait:
            self.worker.checkpoints.wait()

    def redeliver(self, first: int, count: int) -> None:
        """Send exchange records a second time, in their order."""
        producer = self.log.producer()
        for partition, values in records_of(self.log, self.exchange).items():
            at = first % (len(values) + 1)
            for value in values[at : at + count]:
                producer.send(self.exchange, partition, value)
        producer.close()

    def restart_ingest(self, *, keep_zombie: bool = False, records_max: int | None = None) -> None:
        """Start ingest from its committed offset; the one before may go on beside it.

        With other `records_max` it cuts its stretches elsewhere, so that they overlap the old ones.
        """
        if not keep_zombie:
            self.sources.clear()
        started = self.worker._ingest_pipeline(self.log.topic(self.topic))
        if records_max is not None:
            started.source._records_max = records_max  # type: ignore[attr-defined]
        self.sources.append(started)

    def crash(self, written: Collection[int] = ()) -> None:
        """Lose all memory, with a checkpoint in flight that only some shards have written."""
        self.worker.checkpoints.wait()
        for number, shard in self.worker.shards.items():
            checkpoint = shard.begin_checkpoint()
            if number in written:
                shard.write_checkpoint(checkpoint)
        for shard in self.worker.shards.values():
            shard.close()
        self.worker.checkpoints._executor.shutdown()
        self.open()

    def close(self) -> None:
        """Close the worker as a graceful stop does."""
        self.worker.close()
