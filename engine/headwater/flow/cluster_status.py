"""What a worker among others knows of itself: how far its tasks are, and how fresh its shards."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from headwater.flow.metrics import Series
from headwater.flow.status import TaskStatus, WorkerStatus
from headwater_connectors.log.log import LogUnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater.flow.freshness import Guard
    from headwater.flow.lanes import Lanes
    from headwater.flow.worker import Worker
    from headwater.state.shard import Shard

__all__ = ["ClusterStatus"]


class ClusterStatus:
    """Probes the log's ends, and sets them beside the positions of a worker's tasks."""

    def __init__(self, worker: Worker, guard: Guard, lanes: Lanes) -> None:
        self._worker = worker
        self._guard = guard
        self._lanes = lanes
        self._exchange_ends: dict[int, int] = {}
        self._source_ends: dict[str, list[int]] = {}
        self._probed_us: int | None = None
        metrics = worker.metrics
        self._task_counts = Series(metrics.tasks)
        self._lags = Series(metrics.lag_records)
        self._ages = Series(metrics.freshness_seconds)

    def probe(self) -> None:
        """Take a stamp and then ask for the ends; a shard that has them is as fresh as the stamp.

        Raises LogUnreachableError, which leaves everything as old as it is; the metrics say then
        how old that is by now.
        """
        try:
            self._ask()
        except LogUnreachableError:
            self._measure()
            raise
        self._measure()

    def _ask(self) -> None:
        worker = self._worker
        freshness = self._guard.freshness
        stamp_us = freshness.now_us()
        # The lanes first: what is as fresh as the stamp is so over every lane there was then.
        self._source_ends = {
            name: worker.log.end_offsets(name) for name in worker.current.plan.streams
        }
        self._lanes.learn({name: len(ends) for name, ends in self._source_ends.items()})
        self._exchange_ends = dict(enumerate(worker.log.end_offsets(worker.exchange)))
        freshness.observe(stamp_us, self._exchange_ends)
        self._probed_us = stamp_us

    def _measure(self) -> None:
        tasks = self._tasks()
        kinds = Counter(task.kind for task in tasks)
        lags: dict[tuple[str, ...], float] = {
            (task.kind, task.topic, str(task.partition)): task.lag
            for task in tasks
            if task.lag is not None
        }
        ages: dict[tuple[str, ...], float] = {
            (str(task.partition),): task.freshness_ms / 1_000
            for task in tasks
            if task.freshness_ms is not None
        }
        self._task_counts.set({(kind,): count for kind, count in kinds.items()})
        self._lags.set(lags)
        self._ages.set(ages)

    def is_fresh(self) -> bool:
        """Whether every shard here is as fresh as an answer must be.

        Without a shard it is as fresh as what it knows of the log: one that has lost its shards
        with the broker has nothing to answer from.
        """
        ages = [self._age_us(shard) for shard in self._shards()]
        if self._probed_us is not None:
            ages.append(self._guard.freshness.now_us() - self._probed_us)
        return bool(ages) and all(
            age is not None and age <= self._guard.max_staleness_us for age in ages
        )

    def status(self, worker_id: str, target: str, started_us: int) -> WorkerStatus:
        """Return everything that is known, as of the last probe."""
        worker = self._worker
        dead = sum(
            sample.value
            for metric in worker.metrics.dead_letters.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )
        return WorkerStatus(
            worker=worker_id,
            target=target,
            namespace=worker.settings.namespace,
            started_us=started_us,
            tasks=tuple(self._tasks()),
            state_bytes=worker.memory.used_bytes,
            backlog_rows=sum(task.lag or 0 for task in self._tasks() if task.kind == "shard"),
            dead_letters=int(dead),
            history_left=worker.backfill.left,
            plan=worker.current.now.number,
        )

    def _tasks(self) -> list[TaskStatus]:
        worker = self._worker
        found = []
        for topic, ingest in list(worker.ingests.items()):
            found += self._of_source("ingest", topic, ingest.positions)
        for topic, archive in list(worker.archive_tasks.items()):
            found += self._of_source("archive", topic, archive.positions)
        for shard in self._shards():
            age_us = self._age_us(shard)
            found.append(
                TaskStatus(
                    kind="shard",
                    topic=worker.exchange,
                    partition=shard.number,
                    state="running" if age_us is not None else "replaying",
                    next_offset=shard.next_offset,
                    end_offset=self._exchange_ends.get(shard.number),
                    freshness_ms=None if age_us is None else age_us // 1_000,
                )
            )
        return found

    def _of_source(self, kind: str, topic: str, positions: Mapping[int, int]) -> list[TaskStatus]:
        ends = dict(enumerate(self._source_ends.get(topic, ())))
        return [
            TaskStatus(
                kind=kind,  # type: ignore[arg-type]
                topic=topic,
                partition=partition,
                state="running",
                next_offset=offset,
                end_offset=ends.get(partition),
            )
            for partition, offset in sorted(positions.items())
        ]

    def _shards(self) -> list[Shard]:
        with self._worker.memory.lock:
            return sorted(self._worker.shards.values(), key=lambda shard: shard.number)

    def _age_us(self, shard: Shard) -> int | None:
        """Return how old a read of any view may be that the shard has the past of."""
        freshness = self._guard.freshness
        views = self._worker.current.plan.views.values()
        # Of a new view's lanes nothing may have been heard yet, and its answers say WARMING.
        known = [view for view in views if view.id not in shard.loading]
        lanes = {lane for view in known for lane in self._lanes.of_view(view)}
        return freshness.age_us(shard.number, shard.next_offset, lanes, freshness.now_us())
