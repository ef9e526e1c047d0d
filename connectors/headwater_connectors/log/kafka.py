"""The log on Apache Kafka: for many workers, and for topics that others write."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

from headwater_connectors.log.checks import (
    check_deletable,
    check_new_topic,
    check_partition,
    check_same,
)
from headwater_connectors.log.kafka_cluster import EARLIEST, LATEST, KafkaCluster, from_time
from headwater_connectors.log.kafka_config import check_config
from headwater_connectors.log.kafka_consumer import KafkaConsumer
from headwater_connectors.log.kafka_errors import KafkaFailureError
from headwater_connectors.log.kafka_producer import KafkaProducer
from headwater_connectors.log.local import wall_clock_us

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

    from headwater_connectors.log.log import Topic

__all__ = ["KafkaLog"]


class KafkaLog:
    """A Log in a Kafka cluster (Apache Kafka 3.6 or later).

    Kafka keeps time in ms and from 1 ms after 1970 on: producers' times are rounded down to
    that. `config` holds librdkafka's dotted keys, for every client that it fits.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        config: Mapping[str, str] | None = None,
        clock: Callable[[], int] = wall_clock_us,
        timeout_s: float = 10.0,
    ) -> None:
        """Prepare the log; the cluster is asked first when a method needs it.

        A request that has no answer within `timeout_s` raises KafkaUnreachableError.
        """
        config = dict(config or {})
        check_config(config)
        self.clock = clock
        self.cluster = KafkaCluster(bootstrap_servers, config, timeout_s=timeout_s)
        self._consumers: weakref.WeakSet[KafkaConsumer] = weakref.WeakSet()
        self._producers: weakref.WeakSet[KafkaProducer] = weakref.WeakSet()

    def __repr__(self) -> str:
        """Name the cluster; the settings may hold secrets."""
        return f"KafkaLog({self.cluster.servers!r})"

    @property
    def group_protocol(self) -> str:
        """How members share partitions: "classic", or "consumer" (KIP-848) if so configured."""
        return self.cluster.config.get("group.protocol", "classic")

    def waited_at(self, thread: int) -> float:
        """Return when a thread last did nothing but wait for a broker, by the monotonic clock."""
        return self.cluster.waited_at.get(thread, 0.0)

    def create_topic(self, name: str, *, partitions: int, append_time: bool) -> Topic:
        """Create a topic, or return the one there; see Log."""
        self.cluster.check_open()
        check_new_topic(name, partitions)
        if name not in self.cluster.find([name]):
            settings = {
                "cleanup.policy": "delete",
                # Kafka's retention goes by the records' own times: old events would vanish.
                "retention.ms": "-1",
                "retention.bytes": "-1",
                "message.timestamp.type": "LogAppendTime" if append_time else "CreateTime",
            }
            if not append_time:
                # Kept as they were sent, even those that are wrong.
                settings["message.timestamp.after.max.ms"] = str(2**63 - 1)
            self.cluster.create(name, int(partitions), settings)
        return check_same(self.topic(name), partitions, append_time=append_time)

    def topic(self, name: str) -> Topic:
        """Return a topic; NotFoundError, with the closest name, if there is none."""
        return self.cluster.topic(name)

    def topics(self) -> list[Topic]:
        """Return every topic but Kafka's own, by name."""
        self.cluster.check_open()
        found = self.cluster.find(self.cluster.names())
        return [found[name] for name in sorted(found)]

    def delete_topic(self, name: str) -> None:
        """Delete a topic, its records and the offsets committed for it."""
        self.cluster.delete(self.topic(name))

    def start_offsets(self, name: str) -> list[int]:
        """Return each partition's first readable offset."""
        return self._offsets(self.topic(name), EARLIEST)

    def end_offsets(self, name: str) -> list[int]:
        """Return each partition's next offset to be written, open transactions included."""
        return self._offsets(self.topic(name), LATEST)

    def offsets_at(self, name: str, timestamp_us: int) -> list[int]:
        """Return each partition's first offset that arrived at or after a time, else its end."""
        topic = self.topic(name)
        ends = self._offsets(topic, LATEST)
        # Rounded up to Kafka's ms; below 0 are its names for the start and the end.
        timestamp_ms = max(0, -(-int(timestamp_us) // 1_000))
        found = self._offsets(topic, from_time(timestamp_ms))
        return [end if at < 0 else at for at, end in zip(found, ends, strict=True)]

    def delete_records(self, name: str, before: Mapping[int, int]) -> None:
        """Make records below these offsets unreadable; Kafka frees whole segments of them."""
        topic = self.topic(name)
        for partition in before:
            check_partition(topic, partition)
        starts, ends = self.start_offsets(name), self.end_offsets(name)
        wanted: dict[int, int] = {}
        for partition, offset in before.items():
            check_deletable(topic, partition, offset, ends[partition])
            if offset > starts[partition]:
                wanted[int(partition)] = int(offset)
        if wanted:
            self.cluster.delete_records(name, wanted)

    def producer(self) -> KafkaProducer:
        """Return a new producer."""
        self.cluster.check_open()
        producer = KafkaProducer(self.cluster, self.clock)
        self._producers.add(producer)
        return producer

    def consumer(
        self, group: str | None, *, config: Mapping[str, str] | None = None
    ) -> KafkaConsumer:
        """Return a new consumer; without a group it can't commit.

        `config` is for this consumer alone, as `group.instance.id` must be.
        """
        self.cluster.check_open()
        own: dict[str, Any] = dict(config or {})
        check_config(own)
        consumer = KafkaConsumer(self.cluster, group, own)
        self._consumers.add(consumer)
        return consumer

    def close(self) -> None:
        """Release every client and wake blocked polls; close or flush producers first."""
        with contextlib.ExitStack() as stack:
            for producer in list(self._producers):
                stack.callback(producer.release)
            stack.callback(self.cluster.close)
            # First of all: members of a group commit when they leave it.
            for consumer in list(self._consumers):
                stack.callback(consumer.close)

    def _offsets(self, topic: Topic, spec: OffsetSpec) -> list[int]:
        try:
            found = self.cluster.offsets(topic.name, range(topic.partitions), spec)
        except KafkaFailureError:
            # It may have been deleted since we looked.
            self.topic(topic.name)
            raise
        return [found[partition] for partition in range(topic.partitions)]
