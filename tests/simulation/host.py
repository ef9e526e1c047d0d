"""A host: the process of one worker on one disk, its threads run by the scheduler."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from simulation.bucket import HostBlobs
from simulation.disk import DiskStores
from simulation.fuse import Fuse
from simulation.host_log import HostLog
from simulation.later import Later
from simulation.peers import HostPeers
from simulation.strand import HeldLock, Strand
from simulation.witness import Witness

from headwater.flow import plain_driver
from headwater.flow.checkpoint_store import CheckpointStore
from headwater.flow.cluster_status import ClusterStatus
from headwater.flow.freshness import Freshness, Guard
from headwater.flow.lanes import Lanes
from headwater.flow.membership import Alone, Shared
from headwater.flow.running import CurrentPlan, Running
from headwater.flow.worker import Worker
from headwater_connectors.log.log import LogUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from simulation.bucket import Bucket
    from simulation.coordinator import Coordinator
    from simulation.disk import Disk
    from simulation.profile import Profile

    from headwater.flow.membership import Membership
    from headwater.flow.pipeline import Pipeline
    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan

__all__ = ["Host"]

_epochs = count()


class Host:
    """One process. Its wall clock is the brokers' plus `skew_us`, which may jump."""

    def __init__(
        self,
        name: str,
        running: Running,
        coordinator: Coordinator,
        disk: Disk,
        bucket: Bucket,
        *,
        profile: Profile,
        starts: Mapping[str, Start],
        everyone: Callable[[], Iterable[Host]],
    ) -> None:
        self.name = name
        self.first = running
        self.disk = disk
        self.broker = broker = coordinator._broker
        self.skew_us = 0
        self.boot_skew_us = 0
        self.stopped_until_us = 0
        self.cut_off_until_us = 0
        self.is_open = False
        self.ingests: list[Pipeline] = []
        self.fuse = Fuse(broker.counts)
        self.threads = {
            one: Strand(one) for one in ("ingest", "shards", "writer", "probe", "reader", "plans")
        }
        self.peers: HostPeers | None = None
        self.guard: Guard | None = None
        self._bucket = bucket
        self._coordinator = coordinator
        self._everyone = everyone
        self._profile = profile
        self._starts = dict(starts)
        kept = bucket.kept_offset if profile.is_stored else disk.durable_offset
        self.witness = Witness(broker, starts, profile.settings.shards, kept)
        self.log = HostLog(broker, coordinator, self.fuse, self.witness, name)

    def clock(self) -> int:
        """Return the time on this host's wall."""
        return self.broker.clock.now_us + self.skew_us

    def boot_clock(self) -> int:
        """Return the time since this host's boot: it runs on while the process is stopped."""
        return self.broker.clock.elapsed_us + self.boot_skew_us

    def open(self) -> None:
        """Start the worker."""
        profile, log = self._profile, self.log
        current = CurrentPlan(self.first.plan)
        current.now = self.first
        if profile.is_grouped:
            self.peers = HostPeers(
                self,
                self._coordinator.group(
                    f"{profile.settings.namespace}.shards", self.broker.exchange
                ),
                self._everyone,
            )
        if profile.is_guarded:
            partitions = {name: log.topic(name).partitions for name in current.plan.streams}
            lanes = Lanes(current, self._starts, partitions)
            freshness = Freshness(self.boot_clock)
            self.guard = Guard(freshness, lanes.of_view, profile.max_staleness_us)
        self.ahead = Later(self.fuse)
        self.worker = worker = Worker(
            current,
            log,  # type: ignore[arg-type]
            profile.settings,
            clock=self.clock,
            starts=self._starts,
            stores=DiskStores(self.disk, self.fuse),  # type: ignore[arg-type]
            archive=None,
            membership=self._membership(),
            stored=self._stored(),
            guard=self.guard,
            peers=self.peers,
            ahead=self.ahead,  # type: ignore[arg-type]
        )
        self.witness.worker = worker
        worker.checkpoints._executor = self.later = Later(self.fuse)  # type: ignore[assignment]
        worker.memory.lock = self.fuse.lock = HeldLock()  # type: ignore[assignment]
        if self.guard is not None:
            self.status = ClusterStatus(worker, self.guard, lanes)
        if profile.budget_bytes is not None:
            # Less than a memory's own floor.
            worker.memory.budget_bytes = profile.budget_bytes
        groups = worker.pipelines()
        self.ingests = list(groups[0])
        (self.sink,) = groups[1]
        if profile.slice_rows is not None:
            self.sink.stages[0]._slice_rows = lambda: profile.slice_rows  # type: ignore[attr-defined]
        worker.backfill._rows_max = profile.piece_rows
        if worker.shards:
            self.witness.opened(list(worker.shards))
        self.is_open = True

    def _membership(self) -> Membership:
        if not self._profile.is_grouped:
            return Alone(self.log)  # type: ignore[arg-type]
        return Shared(
            self.log,  # type: ignore[arg-type]
            worker_id=self.name,
            target=self.name,
            session_timeout_ms=10_000,
        )

    def _stored(self) -> CheckpointStore | None:
        profile = self._profile
        if not profile.is_stored:
            return None
        return CheckpointStore(
            HostBlobs(self._bucket, self.broker, self.fuse),
            namespace=profile.settings.namespace,
            writer=self.name,
            keep=profile.stored_checkpoints,
            grace_us=profile.grace_us,
            clock=self.clock,
            epoch=lambda: f"{next(_epochs):x}",
        )

    def probe(self) -> None:
        """Ask how far the log is, as a worker does every second."""
        with suppress(LogUnreachableError):
            self.status.probe()

    def is_fresh(self) -> bool:
        """Whether no read here would be marked as stale."""
        return self.guard is None or self.status.is_fresh()

    def step(self, pipeline: Pipeline) -> bool:
        """Run a pipeline once; return whether there was anything."""
        before = self.worker.current.now
        busy = plain_driver.step(pipeline)
        if self.worker.current.now is not before:
            self.witness.follow()
            self.broker.counts["plan adopted"] += 1
        return busy

    def follow(self, running: Running) -> None:
        """Look at the plans topic, as a worker does every second."""
        with suppress(LogUnreachableError):
            self.log.reach("plans")
            worker = self.worker
            if worker.current.now.number < running.number:
                worker.adoption.offer(running)
            self._match_streams()

    def _match_streams(self) -> None:
        worker, wanted = self.worker, self.worker.current.plan.streams.keys()
        for name in wanted - worker.ingests.keys():
            self.ingests += worker.open_stream(name)
        for name in worker.ingests.keys() - wanted:
            (gone,) = [one for one in self.ingests if one.name == f"ingest.{name}"]
            self.ingests.remove(gone)
            gone.source.close()
            self.log.consumers.remove(gone.source._consumer)  # type: ignore[attr-defined]
            worker.forget_stream(name)

    @property
    def plan(self) -> Plan:
        """The plan that it runs, or begins with."""
        return self.worker.current.plan if self.is_open else self.first.plan

    def checkpoint(self) -> None:
        """Copy out what changed; it is written later."""
        self.worker.checkpoints.start(self.clock())

    def close(self) -> None:
        """Stop in order, as a worker does when it is told to."""
        for pipeline in (*self.ingests, self.sink):
            pipeline.source.close()
        self.worker.close()
        self.log.close()

    def abandon(self) -> None:
        """Stop after an error: nothing is written or handed over."""
        self.worker.abandon()
        self.log.close()

    def beat(self) -> None:
        """Let the groups hear of us, if they can."""
        if not self.is_stopped and not self.log.is_cut_off:
            for consumer in self.log.consumers:
                consumer.beat()

    @property
    def is_stopped(self) -> bool:
        """Whether the whole process stands still."""
        return self.broker.clock.elapsed_us < self.stopped_until_us

    @property
    def busy(self) -> list[Strand]:
        """The threads that stand in the middle of something."""
        return [one for one in self.threads.values() if one.busy]

    def can_read(self) -> bool:
        """Whether a read would be answered, and not for ever wait for the lock."""
        return self.is_open and not self.is_stopped and not self.worker.memory.lock.depth  # type: ignore[attr-defined]

    def kill(self) -> None:
        """End the process where it is."""
        self.fuse.dead = True
        self.fuse.lock = None
        if self.is_open:
            self.worker.reader.close()
        for strand in self.threads.values():
            while strand.busy:
                with suppress(BaseException):  # a dead process does nothing that counts
                    strand.resume()
            strand.end()

    def offsets(self) -> dict[int, int]:
        """Return how far each shard here has read the exchange."""
        return {n: s.next_offset for n, s in self.worker.shards.items()} if self.is_open else {}

    def progress(self) -> tuple[dict[int, int], int]:
        """Return how far the shards here are, and how much of their past is still to come."""
        return self.offsets(), self.worker.backfill.left if self.is_open else 0

    def positions(self) -> dict[tuple[str, int], int]:
        """Return how far each source partition that is here has been read."""
        return {
            (topic, partition): offset
            for topic, ingest in self.worker.ingests.items()
            for partition, offset in ingest.positions.items()
        }

    def is_caught_up(self, ends: Mapping[str, list[int]]) -> bool:
        """Whether the shards here have applied all of the sources and all of the exchange."""
        exchange = self.broker.log.end_offsets(self.broker.exchange)
        wanted = {topic: ends[topic] for topic in self.plan.streams}
        return (
            self.is_open
            and not self.busy
            and self.worker.is_applied(wanted)
            and all(s.next_offset == exchange[n] for n, s in self.worker.shards.items())
        )
