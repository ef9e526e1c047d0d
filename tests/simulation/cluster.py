"""The cluster: workers that come and go, and what happens to them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulation.bucket import Bucket
from simulation.consumer import FencedError
from simulation.coordinator import Coordinator
from simulation.disk import Disk
from simulation.fuse import Crash
from simulation.host import Host
from simulation.workload import SECOND_US

from headwater.flow.running import Running
from headwater_connectors.archive.errors import ArchiveError
from headwater_connectors.log.log import DeliveryError, LogUnreachableError, OffsetLostError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from simulation.broker import Broker
    from simulation.profile import Profile
    from simulation.strand import Strand

    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan

__all__ = ["Cluster", "Slot"]

ZOMBIES_MAX = 2
# After how many calls a process ends, or a thread stands still.
POINTS = (0, 1, 2, 3, 4, 6, 9, 13, 20, 40)
# What ends a worker's tasks, as it should: its process starts again.
ENDS = (DeliveryError, OffsetLostError, ArchiveError, FencedError)


@dataclass(slots=True)
class Slot:
    """A place for a worker: its name, its disk, and the process that runs there, if one does."""

    name: str
    disk: Disk
    host: Host | None = None


class Cluster:
    """The processes of all workers, their disks, groups and checkpoint store.

    `zombies` have been replaced by others of their name, and `hosts` are all that ever were.
    """

    def __init__(
        self,
        profile: Profile,
        broker: Broker,
        rng: random.Random,
        *,
        starts: Mapping[str, Start],
        new_root: Callable[[], Path],
        read: Callable[[Host], None],
    ) -> None:
        self.profile = profile
        self.broker = broker
        self.counts = broker.counts
        self.trace: list[str] = []
        self.running = Running.of(profile.plans[0], 1)
        self.coordinator = Coordinator(broker, broker.rng)
        self.bucket = Bucket()
        self.slots = [Slot(f"w{n}", Disk(new_root)) for n in range(profile.workers)]
        self.zombies: list[Host] = []
        self.hosts: list[Host] = []
        self._rng = rng
        self._starts = starts
        self._read = read
        self._seen: set[str] = set()  # views that were applied before

    def alive(self) -> list[Host]:
        """Return every process there is, those that stand still included."""
        return [*self.zombies, *(slot.host for slot in self.slots if slot.host is not None)]

    def note(self, what: str, host: Host | None = None) -> None:
        """Put a step on the trace."""
        who = "" if host is None else f"{host.name}{'z' if host in self.zombies else ''} "
        self.trace.append(who + what)

    def hear(self) -> None:
        """Let the groups hear of those that live, and take out the others."""
        for host in self.alive():
            host.log.is_cut_off = self.broker.clock.elapsed_us < host.cut_off_until_us
            host.beat()
        self.coordinator.expire()

    def step(self, host: Host) -> None:
        """Let one thread of a host do something, or go on with what it was doing."""
        rng = self._rng
        (strand,) = rng.choices(list(host.threads.values()), (4, 5, 2, 3, 2, 1))
        if strand.busy:
            if strand.may_go_on():
                self.go_on(host, strand)
        elif not host.is_open:
            pass
        elif strand.name == "probe":
            self.probe(host)
        elif strand.name == "writer":
            if host.later.has_work():
                self.on(host, strand, "write", host.later.run)
        elif strand.name == "reader":
            self.read_history(host)
        elif strand.name == "plans":
            self.follow(host)
        elif strand.name == "ingest":
            if host.ingests:
                self.ingest(host, rng.randrange(len(host.ingests)))
        elif rng.random() < 0.1:
            self.on(host, strand, "checkpoint", host.checkpoint)
        else:
            self.apply(host)

    def ingest(self, host: Host, which: int) -> None:
        """Let a host take in one of its sources."""
        pipeline = host.ingests[which]
        self.on(host, host.threads["ingest"], f"ingest {which}", lambda: host.step(pipeline))

    def apply(self, host: Host) -> None:
        """Let a host apply what is on the exchange."""
        self.on(host, host.threads["shards"], "shards", lambda: host.step(host.sink))

    def read_history(self, host: Host) -> None:
        """Let a host read a piece of the past that it wants."""
        if host.ahead.has_work():
            self.on(host, host.threads["reader"], "read history", host.ahead.run)

    def probe(self, host: Host) -> None:
        """Let a host ask how far the log is."""
        if host.guard is not None:
            self.on(host, host.threads["probe"], "probe", host.probe)

    def follow(self, host: Host) -> None:
        """Let a host look for a newer plan; its ingests come and go in their own thread."""
        if self.profile.is_live and not host.threads["ingest"].busy:
            self.on(host, host.threads["plans"], "plans", lambda: host.follow(self.running))

    def change_plan(self) -> None:
        """Apply another plan, by which the workers go before long."""
        if len(self.profile.plans) == 1:
            return
        before = self.plan.views.keys()
        plan = self._rng.choice([one for one in self.profile.plans if one is not self.plan])
        self.running = Running.of(plan, self.running.number + 1)
        self.note(f"plan of {', '.join(plan.views)}")
        self.counts["plan applied"] += 1
        self.counts["view removed"] += len(before - plan.views.keys())
        self._seen |= before
        self.counts["view came back"] += len((plan.views.keys() & self._seen) - before)

    @property
    def plan(self) -> Plan:
        """The plan that counts."""
        return self.running.plan

    def go_on(self, host: Host, strand: Strand) -> None:
        """Let a thread go on in the middle of its step."""
        self.on(host, strand, f"{strand.name} goes on", None)

    def on(
        self, host: Host, strand: Strand, what: str, action: Callable[[], object] | None
    ) -> None:
        """Let a thread act. It may crash in the middle; some errors end it, as they should."""
        self.note(what, host)
        if self.broker.strikes("crash"):
            host.fuse.crash_in = self._rng.choice(POINTS)
        if self.broker.strikes("halt"):
            host.fuse.halt_in = self._rng.choice(POINTS)
        try:
            if action is None:
                strand.resume()
            elif self.broker.calm:
                action()
            else:
                strand.run(action)
        except Crash as crash:
            self.note(f"crash at {crash}", host)
            self.died(host)
            return
        except ENDS as error:
            self.note(type(error).__name__, host)
            self._failed(host, error)
            return
        except LogUnreachableError as error:
            if host.is_open:
                raise
            self.note("can't start", host)
            self._failed(host, error)
            return
        if strand.busy and self._rng.random() < 0.5:
            self._read(host)  # in the middle of something
        if strand.busy and not strand.waits and self.profile.zombies and self._rng.random() < 0.4:
            self._stop(host)
        host.fuse.crash_in = host.fuse.halt_in = None
        if host.is_open and not host.threads["shards"].busy and what != "close":
            host.witness.check()

    def start(self, slot: Slot) -> None:
        """Start a worker, perhaps with a plan that has grown, perhaps on a new disk."""
        plans = self.profile.plans
        (at,) = (i for i, one in enumerate(plans) if one is self.plan)
        if not self.profile.is_live and at + 1 < len(plans) and self._rng.random() < 0.4:
            self.running = Running.of(plans[at + 1], self.running.number + 1)
            self.counts["plan grown"] += 1
        new_disk = self.profile.is_stored or not self.profile.lossless
        if new_disk and not self.broker.calm and self._rng.random() < 0.2:
            self.counts["new disk"] += bool(slot.disk.folders)
            slot.disk = slot.disk.empty()
        host = Host(
            slot.name, self.running, self.coordinator, slot.disk, self.bucket,
            profile=self.profile, starts=self._starts, everyone=self.alive,
        )  # fmt: skip
        slot.host = host
        self.hosts.append(host)
        self.on(host, host.threads["shards"], "start", host.open)

    def disturb(self, slot: Slot) -> None:
        """Let a worker end, or be lost to its group, or to us."""
        host, rng = slot.host, self._rng
        if host is None:
            return
        roll = rng.random()
        if roll < 0.15:
            self.note("kill", host)
            self.died(host)
        elif roll < 0.28 and host.is_open and not host.busy and not host.is_stopped:
            self.close(host)
        elif roll < 0.6 and self.profile.is_grouped:
            self._rebalance()
        elif not self.profile.zombies:
            return
        elif roll < 0.72 and self.profile.is_grouped:
            self.note("is cut off", host)
            self.counts["cut off"] += 1
            self._cut_off(host, rng.choice((5, 15, 40)))
        elif roll < 0.85:
            self._stop(host)
        elif len(self.zombies) < ZOMBIES_MAX and host.is_open:
            self._replace(slot, host)

    def close(self, host: Host) -> None:
        """Stop a worker in order; a stop that takes too long is cut short."""
        self.counts["closed"] += 1
        self.on(host, host.threads["shards"], "close", host.close)
        if host.busy:
            self.died(host)
        else:
            self.gone(host)

    def died(self, host: Host) -> None:
        """End a process at once; what its disk had not flushed may be lost."""
        self.counts["died"] += 1
        is_zombie = host in self.zombies
        self.gone(host)
        self.counts["batches lost"] += host.disk.crash(self._rng)
        rolls_back = self.profile.rollback and host.disk.folders and not is_zombie
        if rolls_back and self._rng.random() < 0.4:
            self.counts["rollback"] += 1
            host.disk.lose(self._rng)

    def gone(self, host: Host) -> None:
        """Take note that a process is there no more."""
        host.kill()
        if host in self.zombies:
            self.zombies.remove(host)
        for slot in self.slots:
            if slot.host is host:
                slot.host = None

    def _failed(self, host: Host, error: Exception) -> None:
        """Stop a host after an error: in order if its threads are done, else at once."""
        self.counts[type(error).__name__] += 1
        host.fuse.crash_in = host.fuse.halt_in = None
        if host.is_open and not host.busy:
            with suppress(Crash, *ENDS):
                host.abandon()
        self.gone(host)

    def _replace(self, slot: Slot, host: Host) -> None:
        """Start another process of the same name, on a copy of the disk; the first one lives on."""
        self.note("is replaced", host)
        self.counts["replaced"] += 1
        self.zombies.append(host)
        slot.host, slot.disk = None, host.disk.copy()
        slot.disk.crash(self._rng)
        if self._rng.random() < 0.5:
            self._cut_off(host, self._rng.choice((5, 40)))
        self.start(slot)

    def _cut_off(self, host: Host, seconds: int) -> None:
        host.cut_off_until_us = self.broker.clock.elapsed_us + seconds * SECOND_US

    def _stop(self, host: Host) -> None:
        """Let a whole process stand still, perhaps for longer than its session."""
        self.note("stops", host)
        self.counts["stopped"] += 1
        length_us = self._rng.choice((2, 15, 40)) * SECOND_US
        host.stopped_until_us = self.broker.clock.elapsed_us + length_us

    def _rebalance(self) -> None:
        self.note("rebalance")
        self.counts["rebalance"] += 1
        groups = {key: one for key, one in self.coordinator.groups.items() if one.members}
        if groups:
            groups[self._rng.choice(sorted(groups))].shuffle()
