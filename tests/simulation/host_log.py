"""The log as one process has it: every call may be its last, or find no broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.consumer import HostConsumer
from simulation.producer import HostProducer

from headwater_connectors.log.log import LogUnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulation.broker import Broker
    from simulation.coordinator import Coordinator
    from simulation.fuse import Fuse
    from simulation.witness import Witness

    from headwater_connectors.log.log import Topic

__all__ = ["HostLog"]


class HostLog:
    """A Log for one process; `witness` is told of what it reads, commits and deletes."""

    group_protocol = "classic"

    def __init__(
        self,
        broker: Broker,
        coordinator: Coordinator,
        fuse: Fuse,
        witness: Witness,
        name: str,
    ) -> None:
        self.broker = broker
        self.coordinator = coordinator
        self.fuse = fuse
        self.witness = witness
        self.name = name
        # The group hears nothing of this process, and it nothing of the group.
        self.is_cut_off = False
        self.consumers: list[HostConsumer] = []
        self._log = broker.log

    def reach(self, call: str) -> None:
        """Pass a point; LogUnreachableError while no broker answers."""
        self.fuse.point(call)
        if self.broker.is_down():
            self.broker.counts["unreachable"] += 1
            msg = f"{call}: no broker answers"
            raise LogUnreachableError(msg)

    def create_topic(self, name: str, *, partitions: int, append_time: bool) -> Topic:
        self.reach("create topic")
        return self._log.create_topic(name, partitions=partitions, append_time=append_time)

    def topic(self, name: str) -> Topic:
        self.reach("topic")
        return self._log.topic(name)

    def topics(self) -> list[Topic]:
        self.reach("topics")
        return self._log.topics()

    def start_offsets(self, name: str) -> list[int]:
        self.reach("start offsets")
        return self._log.start_offsets(name)

    def end_offsets(self, name: str) -> list[int]:
        self.reach("end offsets")
        ends = self._log.end_offsets(name)
        self.fuse.point("end offsets known")  # an answer may be old when it is looked at
        return ends

    def delete_records(self, name: str, before: Mapping[int, int]) -> None:
        self.reach("delete records")
        self.witness.deleting(before)
        self._log.delete_records(name, before)
        self.fuse.point("records deleted")

    def producer(self) -> HostProducer:
        return HostProducer(self)

    def consumer(
        self, group: str | None, *, config: Mapping[str, str] | None = None
    ) -> HostConsumer:
        consumer = HostConsumer(self, group, config)
        if group is not None:
            self.consumers.append(consumer)
        return consumer

    def close(self) -> None:
        """Close the consumers: members of a group hand over what they have."""
        for consumer in self.consumers:
            consumer.close()
