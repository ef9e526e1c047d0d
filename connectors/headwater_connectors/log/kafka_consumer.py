"""The consumer of a Kafka log: explicit positions, fair polling, membership of a group."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headwater.errors import ConfigError, StateError
from headwater_connectors.log.checks import check_commit, check_offset, check_records_max
from headwater_connectors.log.consumer import shares
from headwater_connectors.log.kafka_cluster import offsets_in, stored_offsets
from headwater_connectors.log.kafka_columnar import open_fetch, prepare
from headwater_connectors.log.kafka_config import CONSUMER, build
from headwater_connectors.log.kafka_errors import is_retriable
from headwater_connectors.log.kafka_fence import Fence
from headwater_connectors.log.kafka_fetched import Fetched
from headwater_connectors.log.kafka_position_check import PositionCheck, check_positions
from headwater_connectors.log.log import TopicGoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from confluent_kafka import Message

    from headwater.errors import HeadwaterError
    from headwater_connectors.log.kafka_cluster import KafkaCluster
    from headwater_connectors.log.kafka_columnar import ColumnarFetch
    from headwater_connectors.log.log import Records, Topic

__all__ = ["KafkaConsumer"]

_LOGGER = logging.getLogger("headwater.kafka")

_Key = tuple[str, int]  # topic name, partition

# How long a poll holds the lock, and so how late it sees that it was closed.
_SLICE_S = 0.1
# How long one request for committed offsets waits.
_ASK_S = 0.5
# Between two looks at the log's starts, ends and topic ids.
_CHECK_S = 1.0
# A partition that has records and delivers none for so long is waited for no more.
_SILENCE_S = 2.0
# What waits here, beside what librdkafka holds.
_FETCH_RECORDS = 2_000
_EVENTS_MAX = 100
_HELD_RECORDS_MAX = 20_000
_HELD_BYTES_MAX = 32 << 20
# The same while a partition is silent: its first record may come behind many of the others'.
_WAITING_RECORDS_MAX = 4 * _HELD_RECORDS_MAX

_NOT_A_FAILURE = frozenset(
    (
        # The check of the positions says what happened.
        KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001 - librdkafka's own codes are public there
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    )
)


class OnRevoked(Protocol):
    """Called with the partitions that go to another member, or went already (`lost`)."""

    def __call__(self, partitions: list[int], *, lost: bool) -> None:
        """Give up partitions; offsets can be committed unless they are lost."""
        ...


class KafkaConsumer:
    """A Consumer over librdkafka's; records that were fetched wait here for their turn.

    A position is checked against the log when it is first polled and then once a second; while
    no broker answers, what was fetched is handed out and nothing is judged.
    """

    def __init__(self, cluster: KafkaCluster, group: str | None, config: Mapping[str, str]) -> None:
        """Start without an assignment."""
        self._cluster = cluster
        self._group = group
        self._lock = threading.RLock()
        self._topics: dict[str, Topic] = {}
        # In the order in which partitions are served: one that was served goes to the end.
        self._positions: dict[_Key, int] = {}
        self._fetched = Fetched()
        # Partitions that have records of which none came yet.
        self._silent: set[_Key] = set()
        self._silent_until = 0.0
        self._check: PositionCheck | None = None
        self._check_at = 0.0
        self._must_check = False
        self._must_seek = False
        self._is_torn = False
        self._subscribed: str | None = None
        self._revoked: OnRevoked | None = None
        self._handed_over: set[int] = set()
        self._fence = Fence()
        self._closed = self._released = False
        settings = {**cluster.config, **config}
        if group is not None and settings.get("group.protocol", "classic") == "classic":
            settings.setdefault("partition.assignment.strategy", "cooperative-sticky")
        self._settings = settings
        self._open()

    def _open(self) -> None:
        prepare()
        self._client: Consumer = build(
            Consumer,
            self._cluster.servers,
            CONSUMER,
            self._settings,
            error_cb=self._cluster.faults.report,
            **{"group.id": self._group or "headwater-without-group"},
        )
        # None where records are fetched one by one.
        self._columnar = open_fetch(self._client)

    @property
    def is_columnar(self) -> bool:
        """Whether records are fetched as columns; the log says why they are not."""
        return self._columnar is not None

    def assign(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Read these partitions from these offsets; see Consumer."""
        with self._lock:
            self._check_open()
            self._check_not_subscribed()
            found = self._cluster.topic(topic) if offsets else None
            positions: dict[_Key, int] = {}
            if found is not None:
                for partition, offset in offsets.items():
                    check_offset(found, partition, offset)
                    positions[topic, int(partition)] = int(offset)
            kept = {key: at for key, at in self._positions.items() if key[0] != topic}
            self._positions = {**kept, **positions}
            if found is None:
                self._topics.pop(topic, None)
            else:
                self._topics[topic] = found
            self._seek()
            self._must_check = True

    def subscribe(
        self,
        topic: str,
        on_assigned: Callable[[list[int]], Mapping[int, int]],
        on_revoked: OnRevoked,
    ) -> None:
        """Share a topic's partitions with the other members of the group.

        `on_assigned` returns where to read each partition that came to us. Both are called
        within `poll`, which has returned no record of a revoked partition since before the call.
        """
        with self._lock:
            self._checked_group()
            self._check_not_subscribed()
            if self._positions:
                msg = "this consumer has partitions assigned; take a new one to subscribe"
                raise ConfigError(msg)
            self._topics[topic] = self._cluster.topic(topic)
            self._subscribed, self._revoked = topic, on_revoked

            def assigned(_: Consumer, given: list[TopicPartition]) -> None:
                self._on_assigned(topic, [each.partition for each in given], on_assigned)

            def revoked(_: Consumer, taken: list[TopicPartition]) -> None:
                self._on_revoked(topic, taken, on_revoked, lost=False)

            def lost(_: Consumer, taken: list[TopicPartition]) -> None:
                self._on_revoked(topic, taken, on_revoked, lost=True)

            def join() -> None:
                self._client.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=lost)

            self._join = join
            join()

    def poll(self, records_max: int, timeout_s: float) -> list[Records]:
        """Return what is there, waiting at most `timeout_s` for the first record."""
        check_records_max(records_max)
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                self._check_open()
                if self._fence.is_up:
                    self._rejoin()
                self._verify()
                self._fetch(max(0.0, min(_SLICE_S, deadline - time.monotonic())))
                if not self._is_waiting() and (taken := self._take(records_max)):
                    return taken
                if time.monotonic() >= deadline and not self._is_waiting():
                    return []

    def commit(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Store the group's next offsets, and beside them the id of the topic they are for."""
        with self._lock:
            group, found = self._checked_group(), self._current(topic)
            check_commit(found, offsets)
            if not offsets:
                return
            wanted = [
                TopicPartition(topic, int(partition), int(offset), found.id)
                for partition, offset in offsets.items()
            ]
            doing = f'commit offsets of group "{group}"'
            try:
                stored = self._client.commit(offsets=wanted, asynchronous=False)
            except KafkaException as error:
                raise self._not_committed(error.args[0], doing) from None
            for each in stored:
                if each.error is not None:
                    raise self._not_committed(each.error, doing)

    def _not_committed(self, error: KafkaError, doing: str) -> HeadwaterError:
        if self._fence.notes(error):
            # Whether that is for good the next poll finds out.
            error = KafkaError(KafkaError.UNKNOWN_MEMBER_ID)
        return self._cluster.failure(error, doing)

    def committed(self, topic: str) -> dict[int, int]:
        """Return the group's next offsets; those for an earlier topic of the name don't count."""
        with self._lock:
            group, found = self._checked_group(), self._current(topic)
            wanted = [TopicPartition(topic, partition) for partition in range(found.partitions)]

            stored = self._cluster._until(  # noqa: SLF001 - one client in two modules
                f'read the offsets of group "{group}"',
                lambda: stored_offsets(self._client, wanted, timeout_s=_ASK_S),
            )
        return offsets_in(found, stored)

    def close(self) -> None:
        """Release the consumer, leave the group, and wake a poll in another thread."""
        self._closed = True
        with self._lock:
            if self._released:
                return
            try:
                self._hand_over(lost=False)
            finally:
                self._positions = {}
                self._release()
                self._released = True

    def _release(self) -> None:
        self._fetched = Fetched()
        if self._columnar is not None:
            self._columnar.close()
        self._client.close()

    def _hand_over(self, *, lost: bool) -> None:
        """Revoke what we have while the client is whole.

        Left to its own closing, librdkafka revokes when its connections may be gone already, and
        a commit from the callback fails now and then.
        """
        owned = sorted(partition for _, partition in self._positions)
        if self._revoked is not None and owned:
            self._handed_over.update(owned)
            self._revoked(owned, lost=lost)

    # Fetching

    def _seek(self) -> None:
        """Make librdkafka fetch from our positions; what came before is dropped."""
        self._must_seek = self._is_torn = False
        self._fetched = Fetched()
        self._direct(anew=True)
        wanted = [TopicPartition(name, p, at) for (name, p), at in self._positions.items()]
        if self._subscribed is None:
            self._client.assign(wanted)
        else:
            for each in wanted:
                self._client.seek(each)
        self._check = None

    def _fetch(self, wait_s: float) -> None:
        """Take over what librdkafka has, within bounds; wait if there is nothing at all."""
        if not self._positions and self._subscribed is None:
            time.sleep(wait_s)
            return
        must_wait = not self._fetched.records or self._is_waiting()
        wait_s = (max(wait_s, 0.01) if self._silent else wait_s) if must_wait else 0.0
        if self._columnar is None:
            self._fetch_messages(wait_s, must_wait=must_wait)
        else:
            self._fetch_columns(self._columnar, wait_s)

    def _fetch_messages(self, wait_s: float, *, must_wait: bool) -> None:
        if must_wait:
            # A wait for many would last until all of them are there.
            self._keep_messages(self._client.consume(1, wait_s))
        while self._has_room():
            messages = self._client.consume(_FETCH_RECORDS, 0)
            self._keep_messages(messages)
            if len(messages) < _FETCH_RECORDS:
                break

    def _fetch_columns(self, columnar: ColumnarFetch, wait_s: float) -> None:
        # What concerns the group comes here. It wakes no wait for records: those are short.
        strays = self._client.consume(*((_EVENTS_MAX, 0) if self._positions else (1, wait_s)))
        # Records that come this way set out before their partition was directed.
        if self._keep_messages(strays) or self._is_torn:
            self._seek()
        while self._positions and self._has_room():
            try:
                harvest = columnar.fetch(self._positions, wait_s)
                for key, chunk in harvest.chunks:
                    self._fetched.add(key, chunk)
            except BaseException:
                # An interrupt, or no memory: what librdkafka gave up did not get here.
                self._is_torn = True
                raise
            self._heed(harvest.errors)
            wait_s = 0.0
            if harvest.is_all:
                break

    def _has_room(self) -> bool:
        held = self._fetched
        records_max = _WAITING_RECORDS_MAX if self._is_waiting() else _HELD_RECORDS_MAX
        return held.records < records_max and held.bytes < _HELD_BYTES_MAX

    def _direct(self, *, anew: bool = False) -> None:
        if self._columnar is not None:
            self._columnar.direct(self._positions, anew=anew)

    def _keep_messages(self, messages: Sequence[Message]) -> bool:
        """Sort records into their partitions, drop those of others; tell whether there were any."""
        before = self._fetched.records
        self._heed(self._fetched.add_messages(messages, self._positions))
        return self._fetched.records > before

    def _heed(self, errors: Sequence[tuple[KafkaError, _Key]]) -> None:
        """Tell errors that mean nothing, or a look at the log, from those to raise."""
        for error, key in errors:
            self._silent.discard(key)
            code = error.code()
            if code == KafkaError._PARTITION_EOF:  # noqa: SLF001 - public there
                continue
            if self._fence.notes(error):
                continue
            if code in _NOT_A_FAILURE:
                self._must_seek = True
                self._check_at = 0.0
            elif is_retriable(error):
                # librdkafka goes on by itself.
                self._cluster.faults.report(error)
            elif not error.retriable():
                raise self._cluster.failure(error, f"read {key[0]}[{key[1]}]")
        if self._silent:
            self._silent -= self._fetched.keys()

    def _is_waiting(self) -> bool:
        """Tell whether to wait for partitions of which nothing has come since the assignment.

        Served without them, the others would be ahead of their share.
        """
        held = self._fetched
        if held.records >= _WAITING_RECORDS_MAX or held.bytes >= _HELD_BYTES_MAX:
            self._silent.clear()
        return bool(self._silent) and time.monotonic() < self._silent_until

    def _take(self, records_max: int) -> list[Records]:
        """Hand out each partition's share and move the positions."""
        lags = {key: n for key in self._positions if (n := self._fetched.count(key))}
        taken: list[Records] = []
        for key, share in shares(lags, records_max).items() if lags else ():
            records = self._fetched.take(key, share, self._topics[key[0]])
            del self._positions[key]
            self._positions[key] = records.next_offset
            taken.append(records)
        return taken

    # Checking

    def _verify(self) -> None:
        """Check positions against the log: at once where we must, else when the answers are in."""
        if not self._positions:
            return
        now = time.monotonic()
        if self._must_check:
            lags = check_positions(self._cluster, self._topics, self._positions)
            self._must_check = False
            self._silent = {key for key, lag in lags.items() if lag} - self._fetched.keys()
            self._silent_until = now + _SILENCE_S
            self._check, self._check_at = None, now + _CHECK_S
        elif self._check is not None:
            if not self._check.is_done():
                return
            check, self._check, self._check_at = self._check, None, now + _CHECK_S
            try:
                if check.judge(self._positions) and self._must_seek:
                    self._seek()
            except BaseException:
                # To be raised again by each poll.
                self._must_check = True
                raise
        elif now >= self._check_at:
            self._check = PositionCheck(self._cluster, self._topics, self._positions)

    # Membership

    def _on_assigned(
        self,
        topic: str,
        partitions: list[int],
        on_assigned: Callable[[list[int]], Mapping[int, int]],
    ) -> None:
        # The topic may have gained partitions.
        found = self._topics[topic] = self._current(topic)
        offsets = on_assigned(partitions) if partitions else {}
        for partition in partitions:
            check_offset(found, partition, offsets[partition])
            self._positions[topic, partition] = int(offsets[partition])
        self._direct()
        self._client.incremental_assign(
            [TopicPartition(topic, partition, int(offsets[partition])) for partition in partitions]
        )
        self._must_check = bool(self._positions)

    def _on_revoked(
        self, topic: str, taken: list[TopicPartition], on_revoked: OnRevoked, *, lost: bool
    ) -> None:
        for each in taken:
            key = (topic, each.partition)
            self._positions.pop(key, None)
            self._fetched.drop(key)
            self._silent.discard(key)
        self._check = None
        self._direct()
        told = [each.partition for each in taken if each.partition not in self._handed_over]
        try:
            if told or not self._handed_over:
                on_revoked(told, lost=lost)
        finally:
            self._client.incremental_unassign(taken)

    def _rejoin(self) -> None:
        """Join the group anew after it has fenced us, having lost everything."""
        if not self._fence.take_down():
            fenced = KafkaError(KafkaError.FENCED_INSTANCE_ID)
            raise self._cluster.failure(fenced, f'be a member of group "{self._group}"')
        _LOGGER.warning('group "%s" has fenced us: we join it anew', self._group)
        self._hand_over(lost=True)
        self._release()
        self._positions, self._silent, self._handed_over = {}, set(), set()
        self._check = None
        self._must_seek = self._must_check = self._is_torn = False
        self._open()
        self._join()

    def _check_not_subscribed(self) -> None:
        if self._subscribed is not None:
            msg = (
                f'this consumer shares topic "{self._subscribed}" with its group,'
                " which assigns the partitions; take another consumer to assign them yourself"
            )
            raise ConfigError(msg)

    def _checked_group(self) -> str:
        self._check_open(closed=self._released)
        if self._group is None:
            msg = "this consumer has no group, so nothing can be committed; give consumer(group)"
            raise ConfigError(msg)
        return self._group

    def _current(self, name: str) -> Topic:
        """Return the topic as it is now; TopicGoneError if it isn't the one that was assigned."""
        assigned = self._topics.get(name)
        if assigned is None:
            return self._cluster.topic(name)
        now = self._cluster.find([name]).get(name)
        if now is None or now.id != assigned.id:
            raise TopicGoneError(name, assigned.id, None if now is None else now.id)
        return now

    def _check_open(self, *, closed: bool | None = None) -> None:
        self._cluster.check_open()
        if self._closed if closed is None else closed:
            msg = "consumer is closed; take a new one from the log"
            raise StateError(msg)
