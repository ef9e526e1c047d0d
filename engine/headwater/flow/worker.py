"""A worker: the tasks of a plan on one log, their shards, and how far they have come."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import StateError
from headwater.flow.archive_task import ArchiveTask
from headwater.flow.checkpoints import Checkpoints
from headwater.flow.evaluate import Run, evaluate
from headwater.flow.exchange import EXCHANGE_TOPIC, lane_of
from headwater.flow.history import History
from headwater.flow.ingest import Ingest
from headwater.flow.metrics import Metrics
from headwater.flow.pipeline import LogSource, Pipeline
from headwater.flow.publisher import Publisher
from headwater.flow.reader import ShardReader
from headwater.flow.shard_task import ShardTask
from headwater.state.memory import Memory
from headwater.state.shard import Shard
from headwater_connectors.dead_letters import DeadLetters, dead_letter_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwater.flow.settings import WorkerSettings
    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan, ViewPlan
    from headwater.state.store import Stores
    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.log.log import Log, Topic

__all__ = ["Worker"]


class Worker:
    """All ingest, shard and archive tasks of a plan, in one process."""

    def __init__(
        self,
        plan: Plan,
        log: Log,
        settings: WorkerSettings,
        *,
        clock: Callable[[], int],
        starts: dict[str, Start],
        stores: Stores,
        archive: Archive | None,
    ) -> None:
        self.plan = plan
        self.log = log
        self.settings = settings
        self.clock = clock
        self.starts = starts
        self.metrics = Metrics()
        self.memory = Memory(settings.memory_budget_bytes)
        self.exchange = f"{settings.namespace}.{EXCHANGE_TOPIC}"
        log.create_topic(self.exchange, partitions=settings.shards, append_time=True)
        self.shards = self._open_shards(stores)
        self.checkpoints = Checkpoints(
            self.shards,
            self.memory,
            settings,
            self.metrics,
            durable=stores.durable,
            forget=self._forget,
        )
        self.reader = ShardReader(
            plan,
            self.shards,
            self.memory,
            clock,
            complete_from={topic: start.complete_from_us for topic, start in starts.items()},
        )
        self.archive = archive
        self.archive_tasks: dict[str, ArchiveTask] = {}
        self._producer = log.producer()
        self._backlog = 0
        self._backlog_lock = threading.Lock()
        self._history = History(plan, log, settings.shards)
        try:
            self._check_not_ahead()
            self._build_new_views()
        except BaseException:
            self.abandon()
            raise

    def _open_shards(self, stores: Stores) -> dict[int, Shard]:
        """Open every shard, or none: one that is refused leaves no other's folder locked."""
        opened: dict[int, Shard] = {}
        try:
            for number in range(self.settings.shards):
                opened[number] = Shard(
                    self.plan,
                    self.memory,
                    namespace=self.settings.namespace,
                    number=number,
                    shards=self.settings.shards,
                    read_back_us=self.settings.read_back_us,
                    stores=stores,
                )
        except BaseException:
            for shard in opened.values():
                shard.close()
            raise
        return opened

    def _build_new_views(self) -> None:
        """Give views that a shard's state has never seen their past, up to what it has applied."""
        for view in self.plan.views.values():
            shards = [shard for shard in self.shards.values() if view.id in shard.unbuilt]
            topic_id = self.starts[view.stream.topic].topic_id
            for partition, start in self.starts[view.stream.topic].positions.items():
                lane = lane_of(topic_id, view.binding.id, partition)
                upto = {shard.number: shard.applied.get(lane, start - 1) for shard in shards}
                stretch = (start - 1, max(upto.values(), default=start - 1))
                self._build(view, partition, stretch, upto)
            for shard in shards:
                shard.unbuilt.discard(view.id)

    def _build(
        self, view: ViewPlan, partition: int, stretch: tuple[int, int], upto: dict[int, int]
    ) -> None:
        for number, rows in self._history.rows(view.binding.id, partition, stretch):
            offsets = rows.column(1).to_numpy()
            known = int(np.searchsorted(offsets, upto.get(number, -1), side="right"))
            if known:
                run = Run(self.shards[number], partition, rows.slice(0, known))
                evaluated = evaluate([view], [run], self.metrics)
                if sum(one.words_wanted() for one in evaluated) > self.memory.free_words:
                    self.checkpoints.make_room()
                    evaluated = evaluate([view], [run], self.metrics)
                with self.memory.lock:
                    for one in evaluated:
                        one.apply()
            self.checkpoints.relieve()

    def _check_not_ahead(self) -> None:
        """Refuse state that has applied more than the log holds."""
        for name, start in self.starts.items():
            ends = self.log.end_offsets(name)
            for binding in self.plan.bindings_of(name):
                for partition in start.positions:
                    lane = lane_of(start.topic_id, binding.id, partition)
                    for shard in self.shards.values():
                        if shard.applied.get(lane, -1) >= ends[partition]:
                            msg = (
                                f'stream "{name}": the state of shard {shard.number} is ahead of'
                                f" the log, which ends at offset {ends[partition]} of partition"
                                f" {partition}; the log has lost its end (a power failure?): remove"
                                " the folders state and archive to rebuild them from the log"
                            )
                            raise StateError(msg)

    def pipelines(self) -> tuple[tuple[Pipeline, ...], ...]:
        """Return the pipelines, in groups that may each have a thread: sources, shards."""
        topics = [self.log.topic(topic) for topic in self.plan.streams]
        sources = [self._ingest_pipeline(topic) for topic in topics]
        if self.archive is not None:
            sources += [self._archive_pipeline(topic, self.archive) for topic in topics]
        return (tuple(sources), (self._shard_pipeline(),))

    def _ingest_pipeline(self, topic: Topic) -> Pipeline:
        consumer = self.log.consumer(f"{self.settings.namespace}.ingest")
        positions = {**self.starts[topic.name].positions, **consumer.committed(topic.name)}
        consumer.assign(topic.name, positions)
        publisher = Publisher(
            self.plan,
            topic,
            exchange=self.exchange,
            shards=self.settings.shards,
            producer=self._producer,
            positions=positions,
            published=self._published,
        )
        ingest = Ingest(
            self.plan.streams[topic.name],
            publisher,
            producer=self._producer,
            consumer=consumer,
            dead_letters=self._dead_letters(topic),
            metrics=self.metrics,
            positions=positions,
        )
        source = LogSource(
            consumer,
            records_max=self.settings.poll_records_max,
            clock=self.clock,
            paused=lambda: self._backlog > self.settings.backlog_rows_max,
        )
        return Pipeline(f"ingest.{topic.name}", source, (ingest.decode, ingest.publish))

    def _dead_letters(self, topic: Topic) -> DeadLetters:
        name = dead_letter_topic(topic.name)
        made = self.log.create_topic(name, partitions=topic.partitions, append_time=False)
        return DeadLetters(self._producer, made)

    def _archive_pipeline(self, topic: Topic, archive: Archive) -> Pipeline:
        consumer = self.log.consumer(f"{self.settings.namespace}.archive")
        positions = {}
        for partition, start in self.starts[topic.name].positions.items():
            done = archive.position(topic.name, topic.id, partition)
            positions[partition] = start if done is None else done + 1
        consumer.assign(topic.name, positions)
        task = ArchiveTask(
            self.plan.streams[topic.name],
            topic.id,
            archive=archive,
            consumer=consumer,
            metrics=self.metrics,
            positions=positions,
        )
        self.archive_tasks[topic.name] = task
        source = LogSource(consumer, records_max=self.settings.poll_records_max, clock=self.clock)
        return Pipeline(f"archive.{topic.name}", source, (task,))

    def _shard_pipeline(self) -> Pipeline:
        consumer = self.log.consumer(f"{self.settings.namespace}.shards")
        # A shard whose state is older than the exchange goes on where that begins: the chain rule
        # finds the hole and history fills it.
        first = self.log.start_offsets(self.exchange)
        positions = {n: max(shard.next_offset, first[n]) for n, shard in self.shards.items()}
        consumer.assign(self.exchange, positions)
        task = ShardTask(
            self.plan,
            self.shards,
            self.memory,
            self.metrics,
            history=self._history,
            starts=self.starts,
            applied=self._applied,
            checkpoints=self.checkpoints,
        )
        source = LogSource(consumer, records_max=self.settings.poll_records_max, clock=self.clock)
        return Pipeline("shards", source, (task,))

    def _published(self, rows: int) -> None:
        with self._backlog_lock:
            self._backlog += rows
            self.metrics.backlog_rows.set(self._backlog)

    def _applied(self, rows: int) -> None:
        # Records from before a restart were never counted as published here.
        with self._backlog_lock:
            self._backlog = max(0, self._backlog - rows)
            self.metrics.backlog_rows.set(self._backlog)

    def _forget(self, shard: int, next_offset: int) -> None:
        if not self.settings.keep_exchange:
            self.log.delete_records(self.exchange, {shard: next_offset})

    def is_applied(self, ends: dict[str, list[int]]) -> bool:
        """Whether every shard has applied each topic up to its end offsets."""
        for name, offsets in ends.items():
            topic = self.log.topic(name)
            first = self.starts[name].positions
            for binding in self.plan.bindings_of(name):
                for partition, end in enumerate(offsets):
                    if end <= first[partition]:
                        continue
                    lane = lane_of(topic.id, binding.id, partition)
                    if any(shard.applied.get(lane, -1) < end - 1 for shard in self.shards.values()):
                        return False
        return True

    def abandon(self) -> None:
        """Let go of everything without writing: after an error, memory isn't trusted."""
        self.checkpoints.abandon()
        self._release()

    def close(self) -> None:
        """Write the last checkpoint and close the stores; call it when no pipeline runs."""
        try:
            for task in self.archive_tasks.values():
                task.flush()
            self.checkpoints.close(self.clock())
        finally:
            self._producer.close()
            self._release()

    def _release(self) -> None:
        # Under the lock: a read that is under way ends first, a later one is refused.
        with self.memory.lock:
            self.memory.release()
            for shard in self.shards.values():
                shard.close()
