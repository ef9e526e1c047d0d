"""The columnar fetch on a real Apache Kafka: the same records, and what only it can get wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import KafkaError, Producer
from log_harness import PATIENCE_S, drain, fill, numbers, reader

from headwater_connectors.log import kafka_consumer
from headwater_connectors.log.kafka import KafkaLog
from headwater_connectors.log.kafka_columnar import SWITCH
from headwater_connectors.log.packed_column import BytesColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kafka_broker import Broker

    from headwater_connectors.log.kafka_consumer import KafkaConsumer

pytestmark = pytest.mark.kafka


@pytest.fixture
def log(broker: Broker) -> Iterator[KafkaLog]:
    log = KafkaLog(broker.bootstrap_servers)
    yield log
    log.close()
    log = KafkaLog(broker.bootstrap_servers)
    for topic in log.topics():
        log.delete_topic(topic.name)
    log.close()


def rows(consumer: KafkaConsumer, count: int, records_max: int) -> set[tuple[object, ...]]:
    found: set[tuple[object, ...]] = set()
    for r in drain(consumer, count, records_max=records_max):
        stamps = r.timestamps_us.tolist()
        parts = zip(r.offsets.tolist(), stamps, r.keys, r.values, r.headers, strict=True)
        found |= {(r.topic, r.partition, *part) for part in parts}
    assert len(found) == count
    return found


# The same records


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_both_ways_fetch_the_same_records(
    log: KafkaLog, broker: Broker, monkeypatch, codec
) -> None:
    chosen = random.Random(codec)
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "compression.type": codec,
            "linger.ms": 5,
            "message.max.bytes": 600_000,
        }
    )
    topics = ["t", "t.2"]
    for topic in topics:
        log.create_topic(topic, partitions=3, append_time=False)
    payloads = [None, b"", b"\n", b"k\x00", b"x" * 300, b"\r\n" * 99, bytes(400_000)]
    headers = [None, [], [("a", b"1"), ("a", None), ("\u00fc", b"\n" * 40)], [("", b"")]]
    each = 900
    for n in range(each):
        producer.produce(
            topics[n % 2],
            partition=n % 3,
            value=chosen.choice(payloads[: 7 if n % 50 == 0 else 6]),
            key=chosen.choice(payloads[:5]),
            # Some batches have none at all.
            headers=chosen.choice(headers) if n > each // 3 else None,
            timestamp=1_700_000_000_000 + n,
        )
    producer.flush()
    found = []
    for way in ("columnar", "plain"):
        monkeypatch.setenv(SWITCH, way)
        consumer = log.consumer(None)
        assert consumer.is_columnar == (way == "columnar")
        for topic in topics:
            consumer.assign(topic, dict.fromkeys(range(3), 0))
        found.append(rows(consumer, each, records_max=70))
        consumer.close()
    assert found[0] == found[1]


def test_values_stay_in_their_buffer(log: KafkaLog) -> None:
    log.create_topic("t", partitions=2, append_time=False)
    fill(log, "t", 0, 5_000)
    fill(log, "t", 1, 5_000)
    polled = drain(reader(log, "t", {0: 0, 1: 0}), 10_000)
    assert {type(records.values) for records in polled} == {BytesColumn}
    assert numbers(polled, 0) == numbers(polled, 1) == list(range(5_000))


def test_transactions_leave_gaps_and_no_rows(log: KafkaLog, broker: Broker) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": "x"})
    producer.init_transactions()
    for n in range(20):
        producer.begin_transaction()
        producer.produce("t", value=b"%d" % n, partition=0)
        producer.flush()
        if n % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    consumer = reader(log, "t", {0: 0})
    polled = drain(consumer, 10)
    assert numbers(polled) == list(range(0, 20, 2))
    # A record and the marker behind it, each time.
    assert [o for r in polled for o in r.offsets.tolist()] == list(range(0, 40, 4))
    assert consumer.poll(10, 0.3) == []


# Positions


def test_each_assignment_is_read_from_where_it_says(log: KafkaLog) -> None:
    log.create_topic("t", partitions=4, append_time=False)
    for partition in range(4):
        fill(log, "t", partition, 3_000)
    chosen = random.Random(5)
    consumer = log.consumer(None)
    for _ in range(60):
        offsets = {
            p: chosen.randrange(3_000) for p in chosen.sample(range(4), chosen.randint(1, 4))
        }
        consumer.assign("t", offsets)
        for _ in range(chosen.randrange(4)):
            for records in consumer.poll(chosen.choice([1, 50, 5_000]), PATIENCE_S):
                first = offsets[records.partition]
                expected = range(first, first + len(records))
                assert records.offsets.tolist() == list(expected)
                assert list(records.values) == [b"%d" % offset for offset in expected]
                offsets[records.partition] = records.next_offset
            if all(offset == 3_000 for offset in offsets.values()):
                break


def test_a_record_that_went_around_the_columns_is_read_once(log: KafkaLog) -> None:
    log.create_topic("t", partitions=2, append_time=False)
    for partition in range(2):
        fill(log, "t", partition, 100)
    consumer = log.consumer(None)
    direct, calls = consumer._columnar.direct, []

    def too_late(keys: object, *, anew: bool = False) -> None:
        # As if librdkafka had taken the partition for another one in between.
        calls.append(keys)
        if len(calls) > 1:
            direct(keys, anew=anew)

    consumer._columnar.direct = too_late
    consumer.assign("t", {0: 10, 1: 20})
    polled = drain(consumer, 170)
    assert len(calls) == 2
    assert numbers(polled, 0) == list(range(10, 100))
    assert numbers(polled, 1) == list(range(20, 100))


@pytest.mark.parametrize("waiting_max", [100, 100_000])
def test_a_partition_that_fills_the_room_is_served_though_another_is_silent(
    log: KafkaLog, monkeypatch, waiting_max: int
) -> None:
    monkeypatch.setattr(kafka_consumer, "_HELD_RECORDS_MAX", 10)
    monkeypatch.setattr(kafka_consumer, "_WAITING_RECORDS_MAX", waiting_max)
    # What would wait until then waits too long for any test.
    monkeypatch.setattr(kafka_consumer, "_SILENCE_S", 1e6)
    log.create_topic("t", partitions=2, append_time=False)
    fill(log, "t", 0, 20_000)
    fill(log, "t", 1, 1)
    consumer = reader(log, "t", {0: 0, 1: 0})
    first = consumer.poll(10, PATIENCE_S)
    assert first
    if waiting_max > 20_000:
        assert {records.partition for records in first} == {0, 1}
    left = 20_001 - sum(map(len, first))
    assert numbers(first + drain(consumer, left), 0) == list(range(20_000))


# Membership


class Member(threading.Thread):
    """A member of a group, in a thread, that keeps what it read and checks whose it was."""

    def __init__(
        self, log: KafkaLog, store: dict[int, int], seen: Counter[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.store, self.seen = store, seen
        self.owned: dict[int, int] = {}
        self.revoked_records = self.rebalances = 0
        self.failure: BaseException | None = None
        self.stopping = threading.Event()
        config = {"heartbeat.interval.ms": "200", "session.timeout.ms": "6000"}
        self.consumer: KafkaConsumer = log.consumer("g", config=config)
        self.consumer.subscribe("t", self.assigned, self.revoked)

    def assigned(self, partitions: list[int]) -> dict[int, int]:
        self.rebalances += 1
        found = {partition: self.store.get(partition, 0) for partition in partitions}
        assert not found.keys() & self.owned.keys()
        self.owned |= found
        return found

    def revoked(self, partitions: list[int], *, lost: bool) -> None:
        assert not lost
        for partition in partitions:
            self.store[partition] = self.owned.pop(partition)

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                for records in self.consumer.poll(300, 0.05):
                    assert self.owned[records.partition] == records.offsets[0]
                    self.owned[records.partition] = records.next_offset
                    self.seen.update((records.partition, int(v)) for v in records.values)
            self.consumer.close()
        except BaseException as failure:  # noqa: BLE001 - for the test's own thread to see
            self.failure = failure


def _is_shared_out(members: list[Member]) -> bool:
    owned = [set(member.owned) for member in members]
    return all(owned) and sorted(partition for each in owned for partition in each) == [*range(6)]


@pytest.mark.slow
def test_members_that_come_and_go_under_load_read_every_record_once(log: KafkaLog) -> None:
    log.create_topic("t", partitions=6, append_time=False)
    seen: Counter[tuple[int, int]] = Counter()
    store: dict[int, int] = {}
    sent, ending = [0] * 6, threading.Event()

    def send() -> None:
        producer = log.producer()
        while not ending.is_set():
            for partition in range(6):
                values = [b"%d" % n for n in range(sent[partition], sent[partition] + 200)]
                producer.send_many("t", partition, values)
                sent[partition] += 200
            producer.flush()
            time.sleep(0.01)
        producer.close()

    sender = threading.Thread(target=send)
    sender.start()
    members, gone = [], []
    try:
        # Who comes (+) and who goes; librdkafka's group is slow when both happen at once.
        for step in "++-++--+-+":
            if step == "+":
                members.append(Member(log, store, seen))
                members[-1].start()
            else:
                gone.append(members.pop(0))
                gone[-1].stopping.set()
            deadline = time.monotonic() + PATIENCE_S
            while not _is_shared_out(members):
                assert time.monotonic() < deadline
                assert [m.failure for m in members + gone if m.failure] == []
                time.sleep(0.05)
    finally:
        ending.set()
        sender.join()
    expected = {(partition, n) for partition in range(6) for n in range(sent[partition])}
    deadline = time.monotonic() + PATIENCE_S
    while len(seen) < len(expected) and time.monotonic() < deadline:
        time.sleep(0.1)
    for member in members:
        member.stopping.set()
    for member in members + gone:
        member.join(PATIENCE_S)
        assert not member.is_alive()
    assert [m.failure for m in members + gone if m.failure] == []
    assert seen.keys() == expected
    assert set(seen.values()) == {1}
    assert sum(member.rebalances for member in members + gone) >= 10


def test_no_record_of_a_revoked_partition_comes_out(log: KafkaLog) -> None:
    log.create_topic("t", partitions=2, append_time=False)
    for partition in range(2):
        fill(log, "t", partition, 20_000)
    store: dict[int, int] = {}
    one = Member(log, store, Counter())
    deadline = time.monotonic() + PATIENCE_S
    while len(one.owned) < 2 or not one.consumer._fetched.records:
        assert time.monotonic() < deadline
        for records in one.consumer.poll(10, 0.05):
            one.owned[records.partition] = records.next_offset
    # Both here and in librdkafka records wait for their turn when the partition goes.
    two = Member(log, store, Counter())
    two.start()
    taken: set[int] = set()
    while not taken:
        assert time.monotonic() < deadline
        for records in one.consumer.poll(10, 0.05):
            one.owned[records.partition] = records.next_offset
        taken = {0, 1} - one.owned.keys()
    for _ in range(50):
        assert not taken & {records.partition for records in one.consumer.poll(100, 0.02)}
    two.stopping.set()
    two.join(PATIENCE_S)
    one.consumer.close()
    assert two.failure is None


# Ends


def test_consumers_close_with_records_in_flight(log: KafkaLog) -> None:
    log.create_topic("t", partitions=4, append_time=False)
    for partition in range(4):
        fill(log, "t", partition, 5_000)
    chosen = random.Random(3)
    for group in [None, "g"] * 10:
        consumer = reader(log, "t", dict.fromkeys(range(4), 0), group)
        consumer.poll(chosen.choice([1, 500]), chosen.choice([0.0, 0.02, PATIENCE_S]))
        if chosen.random() < 0.5:
            other = threading.Thread(target=_poll_until_closed, args=(consumer,))
            other.start()
            time.sleep(chosen.uniform(0, 0.05))
            consumer.close()
            other.join(PATIENCE_S)
            assert not other.is_alive()
        consumer.close()


def _poll_until_closed(consumer: KafkaConsumer) -> None:
    from headwater.errors import StateError

    with pytest.raises(StateError):  # noqa: PT012
        while True:
            consumer.poll(300, 0.5)


@pytest.mark.parametrize("left", ["idle", "polling", "collected"])
def test_a_process_ends_though_nobody_closed_its_consumer(
    log: KafkaLog, broker: Broker, left: str
) -> None:
    log.create_topic("t", partitions=2, append_time=False)
    for partition in range(2):
        fill(log, "t", partition, 50_000)
    script = f"""
import gc, sys, threading
from headwater_connectors.log.kafka import KafkaLog
log = KafkaLog({broker.bootstrap_servers!r})
consumer = log.consumer(None)
consumer.assign("t", {{0: 0, 1: 0}})
assert consumer.poll(10, {PATIENCE_S})
def poll():
    while True:
        consumer.poll(10, 1.0)
if {left!r} == "polling":
    threading.Thread(target=poll, daemon=True).start()
if {left!r} == "collected":
    del poll, consumer
    gc.collect()
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_messages_are_given_back_when_copying_fails(log: KafkaLog, monkeypatch) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    fill(log, "t", 0, 1_000)
    consumer = reader(log, "t", {0: 0})
    fetch = consumer._columnar
    kept = []

    def no_memory(*arguments: object) -> None:
        kept.append(int(fetch._count[0]))
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(fetch._kernels, "copy_payloads", no_memory)
        with pytest.raises(MemoryError):
            consumer.poll(10, PATIENCE_S)
    assert kept[0] > 0
    assert fetch._count[0] == 0
    # And fetched again: the caller misses nothing.
    assert numbers(drain(consumer, 1_000)) == list(range(1_000))
    consumer.close()


def test_a_topic_that_goes_is_an_event_and_calls_nothing(log: KafkaLog, broker: Broker) -> None:
    # This one is reported to the client's error callback, which must not run in a call of ours.
    config = {
        "topic.metadata.refresh.interval.ms": "100",
        "topic.metadata.propagation.max.ms": "100",
    }
    log.create_topic("t", partitions=2, append_time=False)
    consumer = log.consumer(None, config=config)
    consumer.assign("t", {0: 0, 1: 0})
    fetch, positions = consumer._columnar, {("t", 0): 0, ("t", 1): 0}
    fetch.fetch(positions, 0.2)
    log.delete_topic("t")
    gone: set[tuple[str, int]] = set()
    deadline = time.monotonic() + PATIENCE_S
    while len(gone) < 2:
        assert time.monotonic() < deadline
        for error, key in fetch.fetch(positions, 0.1).errors:
            if error.code() in {
                KafkaError._UNKNOWN_PARTITION,
                KafkaError._UNKNOWN_TOPIC,
                KafkaError.UNKNOWN_TOPIC_OR_PART,
                KafkaError.UNKNOWN_TOPIC_ID,
            }:
                gone.add(key)
    assert gone == {("t", 0), ("t", 1)}
    consumer.close()
