"""A worker: the tasks of a plan on one log, their shards, and how far they have come."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from headwater.flow.adoption import Adoption
from headwater.flow.archive_task import ArchiveTask
from headwater.flow.backfill import Backfill
from headwater.flow.backlog import Backlog
from headwater.flow.checkpoints import Checkpoints
from headwater.flow.decode import Decoder
from headwater.flow.exchange import EXCHANGE_TOPIC
from headwater.flow.history import History
from headwater.flow.ingest import Ingest
from headwater.flow.membership import Alone
from headwater.flow.metrics import Metrics
from headwater.flow.pipeline import LogSource, Pipeline, Tick
from headwater.flow.publisher import Publisher
from headwater.flow.reader import ShardReader
from headwater.flow.shard_opener import ShardOpener
from headwater.flow.shard_task import ShardTask
from headwater.flow.shards import Shards
from headwater.flow.source_end import SourceEnd
from headwater.state.lane import lane_of
from headwater.state.memory import Memory
from headwater_connectors.dead_letters import DeadLetters, dead_letter_topic
from headwater_connectors.log.log import LogUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from headwater.flow.checkpoint_store import CheckpointStore
    from headwater.flow.freshness import Guard
    from headwater.flow.membership import Membership
    from headwater.flow.peers import Peers
    from headwater.flow.pipeline import Batches
    from headwater.flow.running import CurrentPlan
    from headwater.flow.settings import WorkerSettings
    from headwater.flow.starts import Start
    from headwater.state.shard import Shard
    from headwater.state.store import Stores
    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.formats.schema_registry import RegistrySettings
    from headwater_connectors.log.log import Log, Topic

__all__ = ["Worker"]

# Files are written by the ten seconds: fetches that bring little would only cost.
_ARCHIVE_FETCH_BYTES = 256 << 10


class Worker:
    """Ingest, shard and archive tasks of a plan in one process: all of them, or a group's share.

    `guard` and `peers` are for a worker that has others beside it. `ahead` reads history; a thread
    unless told.
    """

    def __init__(  # noqa: PLR0913 - what a worker is made of
        self,
        current: CurrentPlan,
        log: Log,
        settings: WorkerSettings,
        *,
        clock: Callable[[], int],
        starts: dict[str, Start],
        stores: Stores,
        archive: Archive | None,
        membership: Membership | None = None,
        stored: CheckpointStore | None = None,
        guard: Guard | None = None,
        peers: Peers | None = None,
        registry: RegistrySettings | None = None,
        ahead: Executor | None = None,
    ) -> None:
        self.current = current
        self.log = log
        self.settings = settings
        self.clock = clock
        self.starts = starts
        self.archive = archive
        self.archive_tasks: dict[str, ArchiveTask] = {}
        self.ingests: dict[str, Ingest] = {}
        self.metrics = Metrics()
        self.memory = Memory(settings.memory_budget_bytes)
        self.exchange = f"{settings.namespace}.{EXCHANGE_TOPIC}"
        self.shards: dict[int, Shard] = {}
        self._topic = log.create_topic(self.exchange, partitions=settings.shards, append_time=True)
        self._membership = membership or Alone(log)
        self._freshness = None if guard is None else guard.freshness
        self._backlog = Backlog(settings.backlog_rows_max, self.metrics.backlog_rows)
        self._registry = registry
        self._history = History(current, log, settings, starts, registry, archive)
        self.checkpoints = Checkpoints(
            self.shards,
            self.memory,
            settings,
            self.metrics,
            durable=stores.durable,
            forget=self._forget,
            stored=stored,
            exchange_id=self._topic.id,
        )
        self.backfill = Backfill(
            current,
            self.shards,
            self.memory,
            self.metrics,
            history=self._history,
            starts=starts,
            checkpoints=self.checkpoints,
            ahead=ahead or ThreadPoolExecutor(1, thread_name_prefix="headwater-history"),
        )
        self.adoption = Adoption(
            current, self.shards, self.memory, checkpoints=self.checkpoints, backfill=self.backfill
        )
        self.reader = self._reader(guard, peers)
        opener = ShardOpener(
            current,
            log,
            settings,
            exchange=self._topic,
            starts=starts,
            stores=stores,
            memory=self.memory,
            stored=stored,
        )
        self._producer = log.producer()
        try:
            self._shard_pipeline = self._join_shards(opener)
        except BaseException:
            self.abandon()
            raise

    def _reader(self, guard: Guard | None, peers: Peers | None) -> ShardReader:
        return ShardReader(
            self.current,
            self.shards,
            self.memory,
            self.clock,
            starts=self.starts,
            shard_count=self.settings.shards,
            guard=guard,
            peers=peers,
        )

    def _join_shards(self, opener: ShardOpener) -> Pipeline:
        consumer = self._membership.consumer(f"{self.settings.namespace}.shards", self._topic)
        shards = Shards(
            self.shards,
            opener,
            self.memory,
            exchange=self._topic,
            consumer=consumer,
            checkpoints=self.checkpoints,
            backfill=self.backfill,
            freshness=self._freshness,
        )
        task = ShardTask(
            self.current,
            self.shards,
            self.memory,
            self.metrics,
            history=self._history,
            applied=self._backlog.applied,
            checkpoints=self.checkpoints,
            heard=None if self._freshness is None else self._freshness.at_end,
        )
        self._membership.join(consumer, self._topic, shards)
        source = LogSource(consumer, records_max=self.settings.poll_records_max, clock=self.clock)
        stages = (task, shards.commit, self._caught_up, self.adoption, self.backfill)
        return Pipeline("shards", source, stages)

    def pipelines(self) -> tuple[tuple[Pipeline, ...], ...]:
        """Return the pipelines, in groups that may each have a thread: ingest, shards, archive."""
        opened = [self.open_stream(topic) for topic in self.current.plan.streams]
        ingests, archives = [one[0] for one in opened], [two for _, *rest in opened for two in rest]
        shards = (self._shard_pipeline,)
        return (tuple(ingests), shards, *([tuple(archives)] if archives else []))

    def open_stream(self, name: str) -> tuple[Pipeline, ...]:
        """Return the pipelines that read a stream of the plan: ingest, and the archive if any."""
        topic = self.log.topic(name)
        ingest = self._ingest_pipeline(topic)
        if self.archive is None:
            return (ingest,)
        return (ingest, self._archive_pipeline(topic, self.archive))

    def forget_stream(self, name: str) -> None:
        """Take note that the pipelines of a stream have ended."""
        del self.ingests[name]
        self.archive_tasks.pop(name, None)

    def _ingest_pipeline(self, topic: Topic) -> Pipeline:
        # First what needs a broker: without it nothing is begun.
        dead_letters = self._dead_letters(topic)
        consumer = self._membership.consumer(f"{self.settings.namespace}.ingest", topic)
        publisher = Publisher(
            self.current,
            topic,
            exchange=self.exchange,
            shards=self.settings.shards,
            producer=self._producer,
            published=self._backlog.published,
        )
        every_us = self.settings.progress_every_us
        ingest = Ingest(
            Decoder(self.current.plan.streams[topic.name], self.settings.namespace, self._registry),
            publisher,
            producer=self._producer,
            consumer=consumer,
            dead_letters=dead_letters,
            metrics=self.metrics,
            start=self.starts[topic.name],
            source_end=None
            if every_us is None
            else SourceEnd(self.log, topic.name, self.exchange, every_us=every_us),
        )
        self._membership.join(consumer, topic, ingest)
        self.ingests[topic.name] = ingest
        source = LogSource(
            consumer,
            records_max=self.settings.poll_records_max,
            clock=self.clock,
            paused=self._backlog.is_full,
            linger_us=self.settings.ingest_linger_us,
        )
        return Pipeline(f"ingest.{topic.name}", source, (ingest,))

    def _dead_letters(self, topic: Topic) -> DeadLetters:
        name = dead_letter_topic(topic.name)
        known = {one.name: one for one in self.log.topics()}
        if name not in known:
            known[name] = self.log.create_topic(
                name, partitions=topic.partitions, append_time=False
            )
        return DeadLetters(self._producer, known[name], self.settings.namespace)

    def _archive_pipeline(self, topic: Topic, archive: Archive) -> Pipeline:
        consumer = self._membership.consumer(
            f"{self.settings.namespace}.archive", topic, fetch_min_bytes=_ARCHIVE_FETCH_BYTES
        )
        task = ArchiveTask(
            Decoder(self.current.plan.streams[topic.name], self.settings.namespace, self._registry),
            self.current,
            archive=archive,
            consumer=consumer,
            metrics=self.metrics,
            start=self.starts[topic.name],
            care=self.settings.archive_care,
            ends=partial(self.log.end_offsets, topic.name),
        )
        self.archive_tasks[topic.name] = task
        self._membership.join(consumer, topic, task)
        source = LogSource(
            consumer,
            records_max=self.settings.poll_records_max,
            clock=self.clock,
            paused=task.is_full,
            linger_us=self.settings.archive_linger_us,
        )
        return Pipeline(f"archive.{topic.name}", source, (task,))

    def _caught_up(self, batches: Batches) -> Batches:
        """Forget the backlog once the exchange has no more."""
        if any(isinstance(batch, Tick) and batch.idle for batch in batches):
            self._backlog.forget()
        return batches

    def _forget(self, shard: int, next_offset: int) -> None:
        if not self.settings.keep_exchange:
            try:
                self.log.delete_records(self.exchange, {shard: next_offset})
            except LogUnreachableError:
                return  # the next checkpoint asks again

    def is_applied(self, ends: dict[str, list[int]]) -> bool:
        """Whether every shard here has applied each topic up to its end offsets, and its past."""
        if any(shard.loading for shard in list(self.shards.values())):
            return False
        for name, offsets in ends.items():
            topic, start = self.log.topic(name), self.starts[name]
            for binding in self.current.plan.bindings_of(name):
                for partition, end in enumerate(offsets):
                    if end <= start.position(partition):
                        continue
                    lane = lane_of(topic.id, binding.id, partition)
                    if any(shard.applied.get(lane, -1) < end - 1 for shard in self.shards.values()):
                        return False
        return True

    def abandon(self) -> None:
        """Let go of everything without writing: after an error, memory isn't trusted."""
        self._membership.abandon()
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
        self.backfill.close()
        # Under the lock: a read that is under way ends first, a later one is refused.
        with self.memory.lock:
            self.memory.release()
            for shard in self.shards.values():
                shard.close()
