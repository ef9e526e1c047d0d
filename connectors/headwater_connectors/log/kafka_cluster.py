"""What a Kafka cluster is asked outside of producing and consuming, with errors in our words."""

from __future__ import annotations

import threading
import time
from concurrent.futures import TimeoutError as NotYetError
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined] # not in its __all__
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)

from headwater.errors import ConfigError, StateError
from headwater_connectors.log.checks import no_topic
from headwater_connectors.log.kafka_config import ADMIN, CONSUMER, build
from headwater_connectors.log.kafka_errors import Faults, failure, is_retriable
from headwater_connectors.log.log import Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from headwater.errors import HeadwaterError

__all__ = ["EARLIEST", "LATEST", "KafkaCluster", "from_time", "id_text", "is_offset"]

_T = TypeVar("_T")

EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]

_RETRY_S = 0.02
# How long a request that can't be broken off waits.
_ASK_S = 1.0
_UNKNOWN = frozenset(
    (
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - librdkafka's own codes are public there
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    )
)


class KafkaCluster:
    """An AdminClient that waits, retries what passes by itself, and gives up in time."""

    def __init__(self, servers: str, config: Mapping[str, str], *, timeout_s: float) -> None:
        """Prepare the client; nothing is asked of the cluster yet."""
        self.servers = servers
        self.config = config
        self.faults = Faults()
        # By thread: when it last did nothing but wait for a broker, which is no standing still.
        self.waited_at: dict[int, float] = {}
        self._timeout_s = timeout_s
        self._closed = False
        self._admin: AdminClient = build(
            AdminClient, servers, ADMIN, config, error_cb=self.faults.report
        )
        # By topic id: the setting never changes under one id.
        self._append_time: dict[str, bool] = {}

    def close(self) -> None:
        """Make every wait end with a StateError."""
        self._closed = True

    def check_open(self) -> None:
        """Raise StateError if the log was closed."""
        if self._closed:
            msg = "the log is closed; open it again"
            raise StateError(msg)

    def note_wait(self) -> None:
        """Note that this thread waits for a broker, and that it is the broker who is slow."""
        self.waited_at[threading.get_ident()] = time.monotonic()

    def failure(self, error: KafkaError | KafkaException | None, doing: str) -> HeadwaterError:
        """Return the error to raise for one of Kafka's."""
        self.note_wait()
        return failure(error, doing, self.servers, self.faults.last)

    # Topics

    def names(self) -> list[str]:
        """Return the names of the topics that aren't Kafka's own, sorted."""

        def ask() -> list[str]:
            found = self._admin.list_topics(timeout=0.5).topics
            return sorted(name for name in found if not name.startswith("__"))

        return self._until("list the topics", ask)

    def find(self, names: Sequence[str]) -> dict[str, Topic]:
        """Return those of these topics that exist."""
        described = {}
        for name, future in self.describing(names).items():
            found = self._described(name, future)
            if found is not None:
                described[name] = found
        self._learn_time_types({t.name: id_text(t.topic_id) for t in described.values()})
        return {
            name: Topic(name, id_, len(found.partitions), self._append_time[id_])
            for name, found in described.items()
            for id_ in (id_text(found.topic_id),)
        }

    def describing(self, names: Sequence[str]) -> dict[str, Future[Any]]:
        """Ask for the descriptions of topics."""
        self.check_open()
        if not names:
            return {}
        futures: dict[str, Future[Any]] = self._admin.describe_topics(
            TopicCollection(list(names)), request_timeout=self._timeout_s
        )
        return futures

    def is_unknown(self, error: KafkaException) -> bool:
        """Tell whether Kafka says that there is no such topic."""
        return error.args[0].code() in _UNKNOWN

    def topic(self, name: str) -> Topic:
        """Return a topic; NotFoundError, with the closest name, if there is none."""
        found = self.find([name]).get(name)
        if found is None:
            raise no_topic(name, self.names())
        return found

    def brokers(self) -> int:
        """Count the brokers that are up."""
        ask = lambda: len(self._admin.list_topics(timeout=0.5).brokers)  # noqa: E731
        return self._until("count the brokers", ask)

    def create(self, name: str, partitions: int, settings: Mapping[str, str]) -> None:
        """Create a topic, if it isn't there, and wait until its partitions have leaders."""
        replicas = min(3, self.brokers())
        settings = {"min.insync.replicas": str(max(1, replicas - 1)), **settings}
        new = NewTopic(name, partitions, replicas, config=dict(settings))

        def ask() -> None:
            try:
                self._result(self._admin.create_topics([new])[name], f'create topic "{name}"')
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

        self._until(f'create topic "{name}"', ask)
        self._wait_until(
            f'create topic "{name}"',
            lambda: (
                (found := self._described(name)) is not None
                and all(p.leader is not None and p.leader.id >= 0 for p in found.partitions)
            ),
        )
        # A leader answers only when it knows that it is one.
        self.offsets(name, range(partitions), LATEST)

    def delete(self, topic: Topic) -> None:
        """Delete a topic and wait until the name is free."""
        doing = f'delete topic "{topic.name}"'
        self._until(
            doing, lambda: self._result(self._admin.delete_topics([topic.name])[topic.name], doing)
        )

        def is_gone() -> bool:
            found = self._described(topic.name)
            return found is None or id_text(found.topic_id) != topic.id

        self._wait_until(doing, is_gone)

    # Offsets

    def offsets(self, name: str, partitions: Iterable[int], spec: OffsetSpec) -> dict[int, int]:
        """Return each partition's offset by a specification; -1 where no record fits it."""
        wanted = [(name, partition) for partition in partitions]
        doing = f'read the offsets of topic "{name}"'

        def ask() -> dict[int, int]:
            found = {
                partition: self._result(future, doing).offset
                for (_, partition), future in self.listing(wanted, spec).items()
            }
            if not all(map(is_offset, found.values())):
                raise KafkaException(KafkaError(KafkaError.OFFSET_NOT_AVAILABLE))
            return found

        return self._until(doing, ask)

    def listing(
        self, partitions: Iterable[tuple[str, int]], spec: OffsetSpec
    ) -> dict[tuple[str, int], Future[Any]]:
        """Ask for the offsets of partitions by a specification."""
        self.check_open()
        wanted = {TopicPartition(name, partition): spec for name, partition in partitions}
        if not wanted:
            return {}
        # Not up to the first open transaction only: the end is what will be written next.
        futures = self._admin.list_offsets(
            wanted,
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=self._timeout_s,
        )
        return {(asked.topic, asked.partition): future for asked, future in futures.items()}

    def delete_records(self, name: str, before: Mapping[int, int]) -> None:
        """Make records below these offsets unreadable."""
        doing = f'delete records of topic "{name}"'

        def ask() -> None:
            wanted = [TopicPartition(name, p, offset) for p, offset in before.items()]
            futures = self._admin.delete_records(wanted, request_timeout=self._timeout_s)
            for future in futures.values():
                self._result(future, doing)

        self._until(doing, ask)

    def committed(self, group: str, topic: Topic) -> dict[int, int]:
        """Return a group's next offsets; those for an earlier topic of the name don't count."""
        found = self._committed(group, [(topic.name, p) for p in range(topic.partitions)])
        return offsets_in(topic, found)

    def committed_topics(self, group: str) -> tuple[str, ...]:
        """Return the topics that are there and that a group has committed offsets of, by name."""

        def ask() -> list[tuple[str, int]]:
            found = self._admin.list_topics(timeout=_ASK_S).topics
            return [
                (name, partition)
                for name, topic in found.items()
                if not name.startswith("__")
                for partition in topic.partitions
            ]

        found = self._committed(group, self._until("list the topics", ask))
        return tuple(sorted({each.topic for each in found}))

    def _committed(self, group: str, keys: Sequence[tuple[str, int]]) -> list[TopicPartition]:
        """Return those of these partitions that a group has committed offsets of.

        A consumer asks that joins nothing.
        """
        self.check_open()
        if not keys:
            return []
        wanted = [TopicPartition(name, partition) for name, partition in keys]
        own = {"group.id": group}
        client: Consumer = build(
            Consumer, self.servers, CONSUMER, self.config, error_cb=self.faults.report, **own
        )

        def ask() -> list[TopicPartition]:
            try:
                return stored_offsets(client, wanted, timeout_s=_ASK_S)
            except KafkaException:
                # What a coordinator refuses to name itself for only a poll is told.
                heard = client.poll(0)
                error = None if heard is None else heard.error()
                if error is not None:
                    raise KafkaException(error) from None
                raise

        with closing(client):
            return self._until(f'read the offsets of group "{group}"', ask)

    def describe_group(self, group: str) -> Any:  # noqa: ANN401 - the client has no types
        """Return the description of a group, None if there is no such group."""
        doing = f'look up group "{group}"'

        def ask() -> Any:  # noqa: ANN401
            futures = self._admin.describe_consumer_groups([group], request_timeout=self._timeout_s)
            try:
                return self._result(futures[group], doing)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                    return None
                raise

        return self._until(doing, ask)

    def list_group(self, group: str) -> Any:  # noqa: ANN401 - the client has no types
        """Return a group as its classic protocol has it, None if there is none.

        It never ends the process, as describe_group may when a broker goes while it is asked: an
        error of librdkafka's (its issue 4605) in all that its AdminClient asks of coordinators.
        """
        found = self._until(
            f'look up group "{group}"', lambda: self._admin.list_groups(group, timeout=_ASK_S)
        )
        return next((each for each in found if each.id == group), None)

    # Waiting

    def _described(self, name: str, future: Future[Any] | None = None) -> Any:  # noqa: ANN401
        """Return the description of a topic, None if there is no such topic."""
        doing = f'look up topic "{name}"'
        first = [future or self.describing([name])[name]]

        def ask() -> Any:  # noqa: ANN401 - the client has no types
            try:
                return self._result(first.pop() if first else self.describing([name])[name], doing)
            except KafkaException as error:
                if self.is_unknown(error):
                    return None
                raise

        found = self._until(doing, ask)
        if found is not None and found.topic_id is None:
            msg = (
                f"can't {doing}: Kafka at {self.servers} gives topics no ids;"
                " use Apache Kafka 3.6 or later"
            )
            raise ConfigError(msg)
        return found

    def _learn_time_types(self, ids: Mapping[str, str]) -> None:
        """Ask for the timestamp type of the topics that we see for the first time."""
        new = {name: id_ for name, id_ in ids.items() if id_ not in self._append_time}
        if not new:
            return

        def ask() -> None:
            resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in new]
            answers = self._admin.describe_configs(resources, request_timeout=self._timeout_s)
            for resource, future in answers.items():
                try:
                    kind = self._result(future, "read topic settings")["message.timestamp.type"]
                    append_time = kind.value == "LogAppendTime"
                except KafkaException as error:
                    # Who may only read a topic still reads it; each record says its own type.
                    if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                        raise
                    append_time = False
                self._append_time[new[resource.name]] = append_time

        self._until("read the settings of topics", ask)

    def _result(self, future: Future[_T], doing: str) -> _T:
        """Wait for an answer; a refused connection ends the wait at once."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                result = future.result(timeout=0.1)
            except NotYetError:
                self.check_open()
                self._hear_faults()
                if self.faults.refused is not None or time.monotonic() > deadline:
                    raise self.failure(self.faults.refused, doing) from None
            else:
                self._hear_faults()
                self.faults.clear()
                return result

    def _hear_faults(self) -> None:
        """Let the client report its connections' faults: it does so in no thread of its own."""
        self._admin.poll(0)

    def _until(self, doing: str, ask: Callable[[], _T]) -> _T:
        """Ask again while the answer is one that passes; then raise it in our words."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            self.check_open()
            try:
                return ask()
            except KafkaException as error:
                self._hear_faults()
                refused = self.faults.refused
                passes = is_retriable(error.args[0]) and refused is None
                if not passes or time.monotonic() > deadline:
                    raise self.failure(refused or error, doing) from None
            time.sleep(_RETRY_S)

    def _wait_until(self, doing: str, is_so: Callable[[], bool]) -> None:
        """Ask until it is so: the brokers hear of a change one after the other."""
        deadline = time.monotonic() + self._timeout_s
        while not is_so():
            if time.monotonic() > deadline:
                raise self.failure(None, doing)
            time.sleep(_RETRY_S)


def stored_offsets(
    client: Consumer, wanted: list[TopicPartition], *, timeout_s: float
) -> list[TopicPartition]:
    """Return those of these partitions that a client's group has committed offsets of.

    Not the AdminClient: librdkafka's ends the process when the group's coordinator has just moved
    (its issue 5040), as it has when the group is new.
    """
    stored = client.committed(wanted, timeout=timeout_s)
    for each in stored:
        if each.error is not None:
            raise KafkaException(each.error)
    return [each for each in stored if each.offset >= 0]


def offsets_in(topic: Topic, stored: Iterable[TopicPartition]) -> dict[int, int]:
    """Return what was committed for this topic, and for no earlier one of its name."""
    # Other tools, such as those that reset a group, leave no id.
    ours = {None, "", topic.id}
    return {each.partition: each.offset for each in stored if each.metadata in ours}


def is_offset(found: int) -> bool:
    """Tell an answer from what librdkafka leaves there when a broker goes while it is asked."""
    return found != OFFSET_INVALID


def id_text(topic_id: object) -> str:
    """Return a topic id as Kafka's own tools write it; librdkafka has "+" and "/" in it."""
    return str(topic_id).replace("+", "-").replace("/", "_")


def from_time(timestamp_ms: int) -> OffsetSpec:
    """Return the specification of the first record from a time on."""
    spec: OffsetSpec = OffsetSpec.for_timestamp(timestamp_ms)
    return spec
