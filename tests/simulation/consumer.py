"""A consumer that is given partitions late, in any order, and a few records at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.errors import HeadwaterError
from headwater_connectors.log.log import LogUnreachableError, NotAMemberError, OffsetLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulation.coordinator import Group
    from simulation.host_log import HostLog

    from headwater_connectors.log.log import Records

__all__ = ["FencedError", "HostConsumer"]

# Of one poll while there are faults: many small ones, so that much happens between them.
RECORDS_MAX = 12


class FencedError(HeadwaterError):
    """Another process has joined under this member's name."""


class HostConsumer:
    """A Consumer of one process: with `assign` alone, with `subscribe` a static member."""

    def __init__(self, host: HostLog, group: str | None, config: Mapping[str, str] | None) -> None:
        self._host = host
        self._broker = host.broker
        self._log = host.broker.log
        self._fuse = host.fuse
        self._group_name = group
        self._config = config or {}
        self._positions: dict[tuple[str, int], int] = {}
        self._topic: str | None = None
        self._on_assigned: Callable[[list[int]], Mapping[int, int]] | None = None
        self._on_revoked: Callable[..., None] | None = None
        self._epoch: int | None = None
        self._closed = False

    def assign(self, topic: str, offsets: Mapping[int, int]) -> None:
        self._host.reach("assign")
        kept = {key: at for key, at in self._positions.items() if key[0] != topic}
        self._positions = kept | {(topic, p): offset for p, offset in offsets.items()}

    def subscribe(
        self,
        topic: str,
        on_assigned: Callable[[list[int]], Mapping[int, int]],
        on_revoked: Callable[..., None],
    ) -> None:
        def revoked(partitions: list[int], *, lost: bool) -> None:
            on_revoked(partitions, lost=lost)
            if topic == self._broker.exchange:
                self._host.witness.closed(partitions)

        self._topic, self._on_assigned, self._on_revoked = topic, on_assigned, revoked

    def poll(self, records_max: int, timeout_s: float) -> list[Records]:
        self._host.reach("poll")
        if self._topic is not None and not self._host.is_cut_off:
            self._heed(self._topic)
        ready = self._ready()
        rng = self._broker.rng
        if not self._broker.calm:
            rng.shuffle(ready)
            records_max = rng.randint(1, min(records_max, RECORDS_MAX))
        if self._group_name is not None:
            ready = [key for key in ready if not self._broker.strikes("delay")]
        taken = []
        for topic, partition in ready[:records_max]:
            share = max(1, records_max // len(ready))
            position = self._positions[topic, partition]
            found = self._log.read(self._log.topic(topic), partition, position, share, 1 << 20)
            assert found is not None
            # At the end of the line: no partition waits for another for ever.
            del self._positions[topic, partition]
            self._positions[topic, partition] = found.next_offset
            taken.append(found)
            if topic == self._broker.exchange:
                self._host.witness.seen(found)
        return taken

    def commit(self, topic: str, offsets: Mapping[int, int]) -> None:
        self._host.reach("commit")
        assert self._group_name is not None
        if self._topic is not None:
            # What it hears of the group and what the group hears of it are two things.
            if self._host.is_cut_off and self._broker.rng.random() < 0.5:
                msg = "the group's coordinator doesn't answer"
                raise LogUnreachableError(msg)
            owned = self._member_has()
            if not offsets.keys() <= owned:
                self._broker.counts["commit of a zombie"] += 1
                msg = f"{topic}: {sorted(offsets.keys() - owned)} have another owner"
                raise NotAMemberError(msg)
        if topic != self._broker.exchange:
            self._host.witness.committing(topic, offsets)
        self._log.commit(self._group_name, self._log.topic(topic), offsets)
        self._fuse.point("committed")

    def committed(self, topic: str) -> dict[int, int]:
        self._host.reach("ask committed")
        assert self._group_name is not None
        return self._log.committed(self._group_name, self._log.topic(topic))

    def close(self) -> None:
        """Hand over what we have. A static member stays one until its session times out."""
        if self._closed:
            return
        self._closed = True
        owned, self._positions = self._owned(), {}
        if self._topic is not None and owned:
            assert self._on_revoked is not None
            self._on_revoked(owned, lost=False)
            if self._broker.rng.random() < 0.5 and self._is_current():
                self._group().leave(self._host.name)  # somebody has removed it

    def beat(self) -> None:
        """Tell the group that we live."""
        if self._epoch is not None and self._is_current():
            self._group().members[self._host.name].seen_us = self._host.coordinator.now_us

    def _heed(self, topic: str) -> None:
        """Do what the group says: give up, then take on."""
        assert self._on_assigned is not None
        assert self._on_revoked is not None
        group, name = self._group(), self._host.name
        if self._epoch is None:
            self._epoch = group.join(name, self._host.coordinator.now_us)
        elif not self._is_current():
            fenced, self._epoch = name in group.members, None
            lost, self._positions = self._owned(), {}
            if lost:
                self._broker.counts["lost"] += 1
                self._on_revoked(lost, lost=True)
            if fenced:
                msg = f'"{name}" has another process now'
                raise FencedError(msg)
            return
        epoch = self._epoch
        if gone := group.to_give_up(name):
            # What a last life had may go before this one has got it.
            here = sorted(set(gone) & set(self._owned()))
            for partition in here:
                del self._positions[topic, partition]
            if here:
                self._broker.counts["revoked"] += 1
                self._on_revoked(here, lost=False)
            group.give_up(name, epoch, gone)
            return
        if new := sorted(group.take(name) - set(self._owned())):
            offsets = self._on_assigned(new)
            self._positions |= {(topic, p): offsets[p] for p in new}
            if topic == self._broker.exchange:
                self._host.witness.opened(new)

    def _owned(self) -> list[int]:
        return sorted(partition for _, partition in self._positions)

    def _group(self) -> Group:
        assert self._group_name is not None
        assert self._topic is not None
        return self._host.coordinator.group(self._group_name, self._topic)

    def _is_current(self) -> bool:
        return self._epoch is not None and self._group().is_current(self._host.name, self._epoch)

    def _member_has(self) -> set[int]:
        return set(self._group().members[self._host.name].owned) if self._is_current() else set()

    def _ready(self) -> list[tuple[str, int]]:
        """Check every position; return the partitions with something to read."""
        ready = []
        for (topic, partition), position in self._positions.items():
            start = self._log.start_offsets(topic)[partition]
            end = self._log.end_offsets(topic)[partition]
            if not start <= position <= end:
                raise OffsetLostError(topic, partition, position, start, end)
            if position < end:
                ready.append((topic, partition))
        return ready
