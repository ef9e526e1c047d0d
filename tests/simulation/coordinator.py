"""The coordinator of the consumer groups: who is a member, and who has which partition.

Members are static and rebalances cooperative, as we configure Kafka: a partition goes to its new
owner once the old one has given it up or has been silent for the session time-out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from simulation.broker import Broker

__all__ = ["SESSION_US", "Coordinator", "Group"]

SESSION_US = 10_000_000


@dataclass(slots=True)
class _Member:
    epoch: int
    seen_us: int
    owned: set[int] = field(default_factory=set)


class Group:
    """The members that share one topic."""

    def __init__(self, partitions: Callable[[], int], rng: random.Random) -> None:
        self.members: dict[str, _Member] = {}
        self._partitions = partitions
        self._rng = rng
        self._epochs = count(1)
        self._target: dict[int, str] = {}

    def join(self, name: str, now_us: int) -> int:
        """Let a member in, or back in: it has what its last life had. Returns its epoch."""
        member = self.members.setdefault(name, _Member(0, now_us))
        member.epoch, member.seen_us = next(self._epochs), now_us
        return member.epoch

    def is_current(self, name: str, epoch: int) -> bool:
        """Whether a member is one still, and not replaced by another of its name."""
        return name in self.members and self.members[name].epoch == epoch

    def leave(self, name: str) -> None:
        """Take a member out; what it had is free."""
        del self.members[name]

    def owner(self, partition: int) -> str | None:
        """Return who has a partition."""
        return next((n for n, m in self.members.items() if partition in m.owned), None)

    def shuffle(self) -> None:
        """Hand some partitions to others, for no reason."""
        for partition in list(self._target):
            if self._rng.random() < 0.5:
                del self._target[partition]
        self._settle()

    def to_give_up(self, name: str) -> list[int]:
        """Return the partitions of a member that others are to have."""
        self._settle()
        return sorted(p for p in self.members[name].owned if self._target[p] != name)

    def give_up(self, name: str, epoch: int, partitions: list[int]) -> None:
        """Free partitions that a member has let go."""
        if self.is_current(name, epoch):
            self.members[name].owned -= set(partitions)

    def take(self, name: str) -> set[int]:
        """Give a member the free partitions that it is to have; return all it has."""
        self._settle()
        member = self.members[name]
        member.owned |= {p for p, n in self._target.items() if n == name and self.owner(p) is None}
        return set(member.owned)

    def _settle(self) -> None:
        """Let every partition have a member that is there; those that have one keep it."""
        names = sorted(self.members)
        target = {p: n for p, n in self._target.items() if n in self.members}
        for partition in range(self._partitions()):
            if partition not in target and names:
                loads = {name: list(target.values()).count(name) for name in names}
                idle = [name for name in names if not loads[name]]
                target[partition] = self._rng.choice(idle or names)
        self._target = target


class Coordinator:
    """All groups, by group and topic; each topic has a member of its own."""

    def __init__(self, broker: Broker, rng: random.Random) -> None:
        self.groups: dict[tuple[str, str], Group] = {}
        self._broker = broker
        self._rng = rng

    def group(self, group: str, topic: str) -> Group:
        """Return the members of a group that read a topic."""
        if (group, topic) not in self.groups:
            log = self._broker.log
            found = Group(lambda: log.topic(topic).partitions, self._rng)
            self.groups[group, topic] = found
        return self.groups[group, topic]

    @property
    def now_us(self) -> int:
        return self._broker.clock.elapsed_us

    def expire(self) -> None:
        """Take out the members that were silent for too long; not while all are."""
        for group in self.groups.values():
            for name, member in list(group.members.items()):
                if self._broker.is_down():
                    member.seen_us = self.now_us
                elif self.now_us - member.seen_us > SESSION_US:
                    self._broker.counts["session timed out"] += 1
                    group.leave(name)
