"""The simulation: one seed decides plan, settings, events, every step and every fault."""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from simulation.broker import Broker
from simulation.clock import WorldClock
from simulation.cluster import Cluster
from simulation.failure import SimulationError
from simulation.fuse import Crash
from simulation.oracle import check_offline, check_online
from simulation.profile import Profile
from simulation.strand import current
from simulation.workload import BASE_US, HOUR_US, MINUTE_US, SECOND_US, Pushed, make_event

from headwater.flow.patience import patiently
from headwater.flow.starts import resolve_start
from headwater.kernels.rows import NO_HORIZON
from headwater_connectors.log.memory import MemoryLog

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from simulation.host import Host

__all__ = ["Simulation", "run_seed"]

ACTIONS = 60
ACTIONS_PER_WORKER = 30
ROUNDS_MAX = 400
SINK_STEPS_MAX = 200


class Simulation:
    """A world: sources, exchange, and a cluster of workers, stepped by a seeded scheduler."""

    def __init__(self, seed: int, root: Path) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.profile = profile = Profile.of(rng)
        self.clock = WorldClock(BASE_US)
        self.pushed: list[Pushed] = []
        ids = iter(range(1_000))
        log = MemoryLog(clock=lambda: self.clock.now_us, topic_id=lambda: f"t{next(ids)}")
        self.broker = Broker(
            log,
            profile.settings.namespace,
            profile.rates,
            random.Random(f"broker {seed}"),
            self.clock,
        )
        self.counts = self.broker.counts
        streams = {name: one for plan in profile.plans for name, one in plan.streams.items()}
        self.topics = list(streams)
        self.starts = {}
        for topic, stream in streams.items():
            log.create_topic(topic, partitions=profile.partitions, append_time=False)
            self.starts[topic] = resolve_start(log, stream, lambda: self.clock.now_us)
        self.cluster = Cluster(
            profile,
            self.broker,
            rng,
            starts=self.starts,
            new_root=lambda: Path(tempfile.mkdtemp(dir=root)),
            read=self._read,
        )

    def run(self) -> Counter[str]:
        """Run every step of the seed; return what it went through, and how much was compared.

        Raises SimulationError when something does not hold.
        """
        try:
            with self._own_time():
                for part in (1, 3):
                    for _ in range((ACTIONS + ACTIONS_PER_WORKER * self.profile.workers) // part):
                        self._act()
                    self._settle()
                self._check_offline()
        except (Exception, Crash) as error:
            raise SimulationError(self.seed, self.cluster.trace, error) from error
        finally:
            for host in self.cluster.hosts:
                host.kill()
        holes = (sum(host.witness.holes.values()) for host in self.cluster.hosts)
        self.counts["holes"] += sum(holes)
        self.counts["foreign"] += sum(host.witness.foreign for host in self.cluster.hosts)
        self.counts["lossless"] += self.profile.lossless
        self.counts["several workers"] += self.profile.workers > 1
        return self.counts

    @contextmanager
    def _own_time(self) -> Iterator[None]:
        """Let calls that wait for the log wait in the world's time."""

        def sleep(seconds: float) -> None:
            strand = current()
            assert strand is not None, "the log is unreachable, and there is no fault"
            wakes_us = self.clock.elapsed_us + int(seconds * SECOND_US)
            strand.halt(lambda: self.clock.elapsed_us >= wakes_us)

        defaults = patiently.__kwdefaults__
        patiently.__kwdefaults__ = {"sleep": sleep}
        try:
            yield
        finally:
            patiently.__kwdefaults__ = defaults

    # Steps

    def _act(self) -> None:
        rng, cluster = self.rng, self.cluster
        self.clock.advance(rng.choice((1_000, 100_000, 700_000, 3 * SECOND_US)))
        cluster.hear()
        roll = rng.random()
        slot = rng.choice(cluster.slots)
        running = [host for host in cluster.alive() if not host.is_stopped]
        if roll < 0.12:
            self._push()
        elif slot.host is None and roll < 0.4:
            cluster.start(slot)
        elif not running:
            return
        elif roll < 0.77:
            cluster.step(rng.choice(running))
        elif roll < 0.84:
            self._read(rng.choice(running))
        elif roll < 0.93:
            cluster.disturb(slot)
        elif roll < 0.955 and self.profile.is_live:
            cluster.change_plan()
        elif roll < 0.97:
            self._redeliver()
        else:
            self._change(rng.choice(running))

    def _push(self) -> None:
        self.cluster.note("push")
        log, now_us = self.broker.log, self.clock.now_us
        for _ in range(self.rng.choice((1, 3, 8))):
            topic = self.rng.choice(self.topics)
            partition = self.rng.randrange(log.topic(topic).partitions)
            made = make_event(self.rng, now_us)
            offset = log.end_offsets(topic)[partition]
            self.broker.append(topic, partition, made.value, timestamp_us=now_us)
            if made.row is not None:
                one = Pushed(topic, partition, offset, self.clock.elapsed_us, made.row)
                self.pushed.append(one)

    def _redeliver(self) -> None:
        """Append some older exchange records a second time, in their order."""
        log, exchange = self.broker.log, self.broker.exchange
        if exchange not in {topic.name for topic in log.topics()}:
            return
        shard = self.rng.randrange(self.profile.settings.shards)
        start, end = log.start_offsets(exchange)[shard], log.end_offsets(exchange)[shard]
        if start < end:
            self.cluster.note("redeliver")
            self.counts["redelivered"] += 1
            first = self.rng.randrange(start, end)
            found = log.read(log.topic(exchange), shard, first, self.rng.randint(1, 4), 1 << 20)
            assert found is not None
            for value in found.values:
                self.broker.append(exchange, shard, value)

    def _change(self, host: Host) -> None:
        """Let something happen to all: an outage, another clock, a partition more."""
        rng, profile, note = self.rng, self.profile, self.cluster.note
        roll = rng.random()
        if roll < 0.4 and profile.outages:
            note("outage")
            self.counts["outage"] += 1
            length_us = rng.choice((1, 5, 30)) * SECOND_US
            self.broker.down_until_us = self.clock.elapsed_us + length_us
        elif roll < 0.8 and profile.clocks:
            note("clock jumps", host)
            self.counts["clock jump"] += 1
            host.skew_us = rng.choice((0, -HOUR_US, HOUR_US, -(10**12), 10**12))
            host.boot_skew_us += rng.choice((0, 10, 3600)) * SECOND_US
            self.clock.jump(rng.choice((0, 0, HOUR_US, -10 * SECOND_US)))
        elif profile.grows:
            note("a partition more")
            self.counts["partition added"] += 1
            self.broker.grow(rng.choice(self.topics))

    def _read(self, host: Host) -> None:
        if not host.can_read():
            return
        self.cluster.note("read", host)
        rng, now_us = self.rng, self.clock.now_us
        t = rng.choice((now_us, now_us + HOUR_US, *(p.row["at"] for p in self.pushed)))
        horizons = [s.horizon_us for s in host.worker.shards.values() if s.horizon_us > NO_HORIZON]
        if horizons and rng.random() < 0.7:
            t = rng.choice(horizons)
        t += rng.choice((0, 0, 1, -1, SECOND_US, MINUTE_US))
        check_online(host, self.pushed, t, self.counts)

    # The end

    def _settle(self) -> None:
        """Switch the faults off: everything must be applied in bounded time, and read right."""
        self.cluster.note("settle")
        with self._calm():
            ends = {topic: self.broker.log.end_offsets(topic) for topic in self.topics}
            for _ in range(ROUNDS_MAX):
                self.clock.advance(300_000)
                self.cluster.hear()
                self._round()
                if self._is_settled(ends):
                    break
            else:
                raise AssertionError(f"not caught up after {ROUNDS_MAX} rounds without a fault")
            for host in self.cluster.alive():
                for _ in range(2):
                    self._read(host)
                check_online(host, self.pushed, self.clock.now_us, self.counts)
        if self.profile.lossless:
            holes = {host.name: dict(host.witness.holes) for host in self.cluster.hosts}
            assert not any(any(one.values()) for one in holes.values()), (
                f"a hole, and nothing was lost: {holes}"
            )

    @contextmanager
    def _calm(self) -> Iterator[None]:
        self.broker.calm = True
        for host in self.cluster.alive():
            host.stopped_until_us = host.cut_off_until_us = 0
        if not self.profile.is_grouped:
            # Nobody tells them; they end some day.
            for host in list(self.cluster.zombies):
                self.cluster.gone(host)
        yield
        self.broker.calm = False

    def _round(self) -> None:
        """Start who isn't there, bring everyone to the newest plan, and let each thread act."""
        cluster = self.cluster
        for slot in cluster.slots:
            if slot.host is None:
                cluster.start(slot)
            elif self._is_behind(slot.host):
                cluster.close(slot.host)
        for host in cluster.alive():
            for strand in host.busy:
                if strand.may_go_on() and strand.busy:
                    cluster.go_on(host, strand)
        for host in cluster.alive():
            for which in range(len(host.ingests)):
                if self._is_free(host, "ingest"):
                    cluster.ingest(host, which)
        for host in cluster.alive():
            if self._is_free(host, "probe"):
                cluster.probe(host)
            if self._is_free(host, "plans"):
                cluster.follow(host)
        for host in cluster.alive():
            for _ in range(SINK_STEPS_MAX):
                before = host.progress()
                if self._is_free(host, "shards"):
                    cluster.apply(host)
                if self._is_free(host, "reader"):
                    cluster.read_history(host)
                if host.progress() == before and not host.ahead.has_work():
                    break

    def _is_behind(self, host: Host) -> bool:
        """Whether a host must start again to have the newest plan."""
        has_plan = self.profile.is_live or host.plan is self.cluster.plan
        return host.is_open and not has_plan and not host.busy

    def _is_free(self, host: Host, thread: str) -> bool:
        return host in self.cluster.alive() and host.is_open and not host.threads[thread].busy

    def _is_settled(self, ends: dict[str, list[int]]) -> bool:
        """Whether all is applied and fresh, and every task has one owner."""
        cluster, hosts = self.cluster, self.cluster.alive()
        if cluster.zombies or any(slot.host is None for slot in cluster.slots):
            return False
        for host in hosts:
            if host.plan is not cluster.plan or not host.is_caught_up(ends) or not host.is_fresh():
                return False
        shards = sorted(number for host in hosts for number in host.worker.shards)
        sources = sorted(one for host in hosts for one in host.positions().items())
        wanted = [((t, p), end) for t in cluster.plan.streams for p, end in enumerate(ends[t])]
        return shards == list(range(self.profile.settings.shards)) and sources == sorted(wanted)

    def _check_offline(self) -> None:
        if self.rng.random() < 0.1:
            self.counts["offline"] += 1
            some = self.rng.choice([p.row["at"] for p in self.pushed] or [BASE_US])
            at = [self.clock.now_us, some]
            check_offline(self.cluster.plan, self.broker.log, self.starts, self.pushed, at)


def run_seed(seed: int) -> Counter[str]:
    """Run one seed; return what it went through. Raises SimulationError."""
    # In memory where the machine has such a folder: copies of state are synced, as they must be.
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="headwater-sim-", dir=memory if memory.is_dir() else None))
    quiet = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        return Simulation(seed, root).run()
    finally:
        logging.disable(quiet)
        shutil.rmtree(root, ignore_errors=True)
