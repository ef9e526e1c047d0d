"""Membership: who has which partitions of a topic, this worker alone or its group together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

from headwater.flow.patience import patiently

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater_connectors.log.kafka import KafkaLog
    from headwater_connectors.log.log import Consumer, Log, Topic

__all__ = ["Alone", "Assignee", "Membership", "Shared", "member_name", "worker_of"]


def member_name(worker: str, target: str, topic: str) -> str:
    """Return the name of a worker in the group of a topic.

    Its address is part of it: Kafka keeps what it knows of a static member that comes back, so one
    that came back elsewhere would be looked for where it was.
    """
    return f"{worker}.{crc32(target.encode()):08x}.{topic}"


def worker_of(name: str, topic: str) -> str:
    """Return the worker of a name that `member_name` made."""
    return name.removesuffix(f".{topic}").rpartition(".")[0]


class Assignee(Protocol):
    """A task over partitions that come and go; called between two polls, in the poller's thread."""

    def assigned(self, partitions: list[int]) -> Mapping[int, int]:
        """Take partitions and return where to read each; called again after it raised."""
        ...

    def revoked(self, partitions: list[int], *, lost: bool) -> None:
        """Give partitions up; once they are `lost` another worker has them already."""
        ...


class Membership(Protocol):
    """Hands the partitions of topics to this worker's tasks."""

    def consumer(self, group: str, topic: Topic, *, fetch_min_bytes: int = 1) -> Consumer:
        """Return a consumer of the group for one topic.

        With `fetch_min_bytes` above 1 a broker may let records gather before it answers: for those
        whom nobody waits for.
        """
        ...

    def join(self, consumer: Consumer, topic: Topic, task: Assignee) -> None:
        """Let the task have its partitions, now or within later polls."""
        ...

    def abandon(self) -> None:
        """Call no task any more, whatever becomes of the consumers: their tasks have failed."""
        ...


class Alone:
    """This worker has every partition, for good."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def consumer(
        self,
        group: str,
        topic: Topic,  # noqa: ARG002 - as Membership has it
        *,
        fetch_min_bytes: int = 1,  # noqa: ARG002
    ) -> Consumer:
        """Return a consumer of the group."""
        return self._log.consumer(group)

    def join(self, consumer: Consumer, topic: Topic, task: Assignee) -> None:
        """Give the task everything at once."""
        consumer.assign(topic.name, task.assigned(list(range(topic.partitions))))

    def abandon(self) -> None:
        """Do nothing: nobody takes the partitions away."""


class Shared:
    """The members of a consumer group share the partitions; Kafka says who has which.

    Members are static: a worker that comes back within the session time-out has its old tasks.
    `target` is where others reach this worker: they see it as the client id of its consumers.
    """

    def __init__(
        self,
        log: KafkaLog,
        *,
        worker_id: str,
        target: str,
        session_timeout_ms: int,
    ) -> None:
        self._log = log
        self._worker_id = worker_id
        self._target = target
        self._session_timeout_ms = session_timeout_ms
        self._abandoned = False

    def consumer(self, group: str, topic: Topic, *, fetch_min_bytes: int = 1) -> Consumer:
        """Return a static member of the group; each topic has a member of its own."""
        config = {
            "client.id": self._target,
            "group.instance.id": member_name(self._worker_id, self._target, topic.name),
            # How soon partitions that a topic gains are noticed.
            "topic.metadata.refresh.interval.ms": "10000",
        }
        if fetch_min_bytes > 1:
            config["fetch.min.bytes"] = str(fetch_min_bytes)
        # With the protocol of KIP-848 the broker sets these.
        if self._log.group_protocol == "classic":
            config["session.timeout.ms"] = str(self._session_timeout_ms)
            config["heartbeat.interval.ms"] = str(max(100, self._session_timeout_ms // 5))
        return self._log.consumer(group, config=config)

    def join(self, consumer: Consumer, topic: Topic, task: Assignee) -> None:
        """Share the topic with the group, from the next poll on."""

        def assigned(partitions: list[int]) -> Mapping[int, int]:
            # The group has given them to us: all there is to do is to wait.
            return patiently(partial(task.assigned, partitions))

        def revoked(partitions: list[int], *, lost: bool) -> None:
            # A consumer that is closed hands over. What has failed must not: it would commit what
            # was never acknowledged, and write down rows that aren't trusted.
            if not self._abandoned:
                task.revoked(partitions, lost=lost)

        consumer.subscribe(topic.name, assigned, revoked)  # type: ignore[attr-defined]

    def abandon(self) -> None:
        """Hand nothing over any more."""
        self._abandoned = True
