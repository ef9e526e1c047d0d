"""A worker among others: its share of the tasks, from Kafka, and a server for any read."""

from __future__ import annotations

import math
import socket
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from headwater.errors import ConfigError, HeadwaterError
from headwater.flow import plain_driver
from headwater.flow.archive_care import CareSettings
from headwater.flow.boot_clock import boot_clock_us
from headwater.flow.checkpoint_store import CheckpointStore
from headwater.flow.cluster_status import ClusterStatus
from headwater.flow.follower import Follower
from headwater.flow.freshness import Freshness, Guard
from headwater.flow.lanes import Lanes
from headwater.flow.membership import Shared
from headwater.flow.orphans import Orphans
from headwater.flow.pipeline_threads import PipelineThreads
from headwater.flow.plans_topic import PlansTopic
from headwater.flow.running import CurrentPlan
from headwater.flow.sample_files import SampleFiles
from headwater.flow.sample_log import SampleLog, SampleSettings
from headwater.flow.settings import WorkerSettings
from headwater.flow.starts import resolve_start
from headwater.flow.stream_reset import with_cure
from headwater.flow.warm_up import warm_up
from headwater.flow.worker import Worker
from headwater.logs import get_logger
from headwater.state.store import Stores
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.location import blobs_of
from headwater_connectors.formats.schema_registry import RegistrySettings
from headwater_connectors.log.kafka_groups import owners_of
from headwater_connectors.log.log import LogUnreachableError
from headwater_serving.call_metrics import CallMetrics
from headwater_serving.peer_servicer import Peer
from headwater_serving.routing import KafkaPeers
from headwater_serving.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from headwater.config import Config
    from headwater.definitions.stream import Stream
    from headwater.flow.metrics import Metrics
    from headwater.flow.starts import Start
    from headwater.flow.status import WorkerStatus
    from headwater.plan.plan import Plan
    from headwater_connectors.log.kafka import KafkaLog

__all__ = ["ClusterWorker"]

_log = get_logger(__name__)

_SHARDS = 16
_KINDS = ("ingest", "archive")
_PROBE_S = 1.0
_FOLLOW_S = 1.0
_ORPHANS_S = 2.0
_PROGRESS_US = 1_000_000
# By shard: each poll is cut into so many batches.
_LINGER_US = 500
_ARCHIVE_LINGER_US = 250_000
# A thread that comes back from Polars or a kernel waits so long for the interpreter. Each stage
# does so several times a batch: with Python's own 5 ms, threads stood in line most of the time.
_SWITCH_S = 0.0002
# What this worker publishes others apply: Kafka holds what is on its way, not our memory.
_NO_BACKLOG = 1 << 62


class ClusterWorker:
    """One process of a namespace: takes its share of tasks, and answers reads for all of them."""

    def __init__(
        self,
        plan: Plan,
        log: KafkaLog,
        config: Config,
        slot: int | None = None,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000,
        boot_clock: Callable[[], int] = boot_clock_us,
        driver: Callable[[Sequence[Any], threading.Event], None] = plain_driver.run,
        number: int | None = None,
    ) -> None:
        """Take what is to be run, without doing anything yet.

        `number` is that of the plan in the plans topic, which is followed then: what is applied
        later is run without a restart. Without a number the plan is run to the end.
        """
        self.config = config
        self.worker_id = config.worker.id_of(slot)
        self._plan = plan
        self._log = log
        self._slot = slot
        self._clock = clock
        self._boot_clock = boot_clock
        self._number = number
        self._stop = threading.Event()
        self._running = PipelineThreads(driver, fail=self._fail, waited_at=log.waited_at)
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._started_us = 0
        # Streams that have a start: what becomes of their topics is no mistake in the definitions.
        self._begun: Container[str] = ()

    def start(self) -> None:
        """Join the groups, begin to serve, and return; tasks come when Kafka hands them out.

        Raises ConfigError and StateError for what can't work: an unknown topic, another number of
        shards, a topic that was made again. Then there is nothing to stop.
        """
        given = self.config.worker
        port = given.port_of(self._slot) or _free_port(given.host)
        self.target = given.address_of(self._slot, port)
        self._started_us = self._clock()
        self._peers = KafkaPeers(self._owners, own_target=self.target)
        sys.setswitchinterval(_SWITCH_S)
        try:
            with self._cured():
                warm_up(self._plan)
                self._open_worker()
                reader = self._worker.reader
                reader.check = self.check
                reader.warm_up()
                self._server = Server(
                    reader,
                    host=given.host,
                    port=port,
                    peer=Peer(reader.read_rows, self.status),
                    metrics=CallMetrics(self.metrics.registry),
                )
                groups = self._worker.pipelines()
                reader.samples = self._samples()
                self._server.start()
        except BaseException:
            self._peers.close()
            raise
        for pipeline in (pipeline for group in groups for pipeline in group):
            self._running.start(pipeline)
        self._spawn("probe", self._probe)
        if self._number is not None:
            self._spawn("plans", self._follow)
        if self._log.group_protocol == "classic":
            # With the protocol of KIP-848 the broker itself sees to it that all have an owner.
            self._spawn("orphans", self._look_for_orphans)

    def _open_worker(self) -> None:
        given, namespace = self.config.worker, self.config.namespace
        registry = self.config.schema_registry
        topic = PlansTopic(self._log, namespace)
        self._begun = topic.starts
        asked = given.shards if "shards" in given.model_fields_set else None
        shards = topic.agree_on_shards(asked, _SHARDS)
        settings = WorkerSettings(
            namespace=namespace,
            shards=shards,
            ingest_linger_us=shards * _LINGER_US,
            archive_linger_us=_ARCHIVE_LINGER_US,
            archive_care=CareSettings.of(self.config.archive),
            memory_budget_bytes=given.memory_budget_bytes,
            read_back_us=None
            if math.isinf(given.read_back_s)
            else int(given.read_back_s * 1_000_000),
            keep_exchange=given.keep_exchange,
            progress_every_us=_PROGRESS_US,
            backlog_rows_max=_NO_BACKLOG,
        )
        starts = {name: self._start_of(topic, one) for name, one in self._plan.streams.items()}
        partitions = {name: self._log.topic(name).partitions for name in self._plan.streams}
        current = CurrentPlan(self._plan, self._number or 0)
        lanes = Lanes(current, starts, partitions)
        guard = Guard(
            Freshness(self._boot_clock),
            lanes.of_view,
            max_staleness_us=given.max_staleness_ms * 1_000,
            on_stale=given.on_stale,
        )
        self._worker = Worker(
            current,
            self._log,
            settings,
            clock=self._clock,
            registry=RegistrySettings.of(registry.url, registry.basic_auth),
            starts=starts,
            stores=Stores(given.state / self.worker_id),
            archive=self._archive(),
            membership=Shared(
                self._log,
                worker_id=self.worker_id,
                target=self.target,
                session_timeout_ms=given.session_timeout_ms,
            ),
            stored=CheckpointStore(
                blobs_of(given.checkpoints, self.config.object_store),
                namespace=namespace,
                writer=self.worker_id,
            ),
            guard=guard,
            peers=self._peers,
        )
        self.metrics: Metrics = self._worker.metrics
        self._follower = Follower(
            self._log, namespace, current, self.metrics,
            prepare=self._prepare, offer=self._worker.adoption.offer,
        )  # fmt: skip
        self._status = ClusterStatus(self._worker, guard, lanes)

    def _start_of(self, topic: PlansTopic, stream: Stream) -> Start:
        source = self._log.topic(stream.topic)
        resolve = partial(resolve_start, self._log, stream, self._clock)
        return topic.agree_on_start(stream.topic, source.id, resolve)

    def _archive(self) -> Archive | None:
        location = self.config.worker.archive
        if location is None:
            return None
        blobs = blobs_of(location, self.config.object_store)
        return Archive(blobs, stamp=str(self._plan.stamp))

    def _samples(self) -> SampleLog | None:
        given = self.config.audit
        if not given.samples_per_s:
            return None
        blobs = blobs_of(given.samples, self.config.object_store)
        return SampleLog(
            SampleFiles(blobs, self.config.namespace),
            SampleSettings.of(given),
            self.metrics,
            worker=self.worker_id,
            clock=self._clock,
            seed=self._started_us,
        )

    def _owners(self) -> dict[int, str] | None:
        """Ask Kafka where the shards are; None while it is handing them out."""
        return owners_of(self._log, f"{self.config.namespace}.shards", self._worker.exchange)

    def _spawn(self, name: str, loop: Callable[[], None]) -> None:
        thread = threading.Thread(target=loop, name=f"headwater-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _probe(self) -> None:
        """Every second, take a stamp and then ask how far the log is: freshness rests on it."""
        while not self._stop.wait(_PROBE_S):
            try:
                self._status.probe()
            except LogUnreachableError as error:
                _log.warning("probe_failed", reason=str(error))
            except HeadwaterError as error:
                self._fail(error)

    def _follow(self) -> None:
        """Every second, look for a newer plan, and have the streams that the plan has read."""
        while not self._stop.wait(_FOLLOW_S):
            self._follower.look()
            try:
                self._match_streams()
            except LogUnreachableError as error:
                _log.warning("stream_not_opened", reason=str(error))
            except HeadwaterError as error:
                self._fail(error)

    def _prepare(self, topic: PlansTopic, plan: Plan) -> None:
        """Find where the streams begin that are new; refuse a plan that can't be read."""
        running = self._worker.current.plan.streams
        # Those that run go on as they began, whatever was said of them since.
        new = {name: one for name, one in plan.streams.items() if name not in running}
        self._worker.starts |= {name: self._start_of(topic, one) for name, one in new.items()}
        self._begun = topic.starts

    def _match_streams(self) -> None:
        worker, wanted = self._worker, self._worker.current.plan.streams.keys()
        for name in wanted - worker.ingests.keys():
            for pipeline in worker.open_stream(name):
                self._running.start(pipeline)
        for name in worker.ingests.keys() - wanted:
            self._running.end({f"{kind}.{name}" for kind in _KINDS} & self._running.names)
            worker.forget_stream(name)

    def _look_for_orphans(self) -> None:
        """See to it, for as long as we run, that every task is somebody's."""
        namespace, plans = self.config.namespace, PlansTopic.name_in(self.config.namespace)
        kinds = ["ingest", *(["archive"] if self._worker.archive is not None else [])]
        orphans = Orphans(self._log, plans, is_stopped=self._stop.is_set)
        while not self._stop.wait(_ORPHANS_S):
            topics = self._worker.current.plan.streams
            watched = [(f"{namespace}.{kind}", topic) for kind in kinds for topic in topics]
            watched.append((f"{namespace}.shards", self._worker.exchange))
            try:
                orphans.look(watched)
            except HeadwaterError as error:
                # Nothing rests on it: what is wrong with a group its members say themselves.
                _log.warning("orphans_not_looked_for", reason=str(error))

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = with_cure(error, self._begun)
        self._stop.set()
        self._running.stop()
        self._server.set_serving(serving=False)

    @contextmanager
    def _cured(self) -> Iterator[None]:
        """Raise errors of the log with what heals them."""
        try:
            yield
        except HeadwaterError as error:
            cured = with_cure(error, self._begun)
            if cured is error:
                raise
            raise cured from error

    def check(self) -> None:
        """Raise what stopped a task, if anything did."""
        if isinstance(self._error, HeadwaterError):
            raise self._error
        if self._error is not None:
            msg = f"the worker has stopped: {type(self._error).__name__}: {self._error}"
            raise HeadwaterError(msg) from self._error

    def heartbeat_age_s(self) -> float:
        """Return how long the slowest loop has stood still; waiting for a broker isn't that."""
        return self._running.heartbeat_age_s()

    def is_ready(self) -> bool:
        """Whether every shard here is fresh, and every other one has an owner."""
        if self._error is not None or self._stop.is_set():
            return False
        owners = self._peers.owners()
        return len(owners) == self._worker.settings.shards and self._status.is_fresh()

    def status(self) -> WorkerStatus:
        """Say what this worker holds and how far it is."""
        found = self._status.status(self.worker_id, self.target, self._started_us)
        return structs.replace(found, plan_refused=self._follower.refused)

    def stop(self) -> None:
        """Stop in order: no new calls, tasks handed over, last checkpoints written and stored."""
        self._server.set_serving(serving=False)
        self._stop.set()
        self._running.stop()
        for thread in self._threads:
            thread.join()
        # What the follower has started meanwhile.
        self._running.stop()
        self._running.join()
        try:
            if self._error is None:
                # Each gives its partitions up as if they were revoked: commits, files, checkpoints.
                with self._cured():
                    self._running.close()
                    self._worker.close()
            else:
                self._worker.abandon()
        finally:
            self._server.stop()
            self._worker.reader.close()
            self._peers.close()


def _free_port(host: str) -> int:
    """Return a port that is free now: members of a group say where they are before they serve."""
    try:
        with socket.create_server((host, 0)) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        msg = f'host "{host}" can\'t be listened on ({error}); choose another worker.host'
        raise ConfigError(msg) from error
