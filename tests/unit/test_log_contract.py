"""The contract of a log, run against every implementation.

A new implementation joins by one entry in `IMPLEMENTATIONS`: a function that opens an empty log.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from headwater.errors import ConfigError, NotFoundError, StateError
from headwater_connectors.log import (
    DeliveryError,
    EmbeddedLog,
    MemoryLog,
    OffsetLostError,
    TopicGoneError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from headwater_connectors.log import Consumer, Headers, Log, Records

NOW_US = 1_700_000_000_000_000
# Long enough for any machine: a test that waits this long has failed.
PATIENCE_S = 60.0


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_us = NOW_US

    def __call__(self) -> int:
        return self.now_us


@dataclass(frozen=True)
class Implementation:
    """How to open an empty log, and whether it can be given a clock."""

    open: Callable[[Path, Clock], Log]
    takes_clock: bool


IMPLEMENTATIONS = {
    "memory": Implementation(lambda _, clock: MemoryLog(clock=clock), takes_clock=True),
    "embedded": Implementation(
        lambda folder, clock: EmbeddedLog(folder / "log", clock=clock), takes_clock=True
    ),
    # No cache: every record is read back from the database.
    "embedded, uncached": Implementation(
        lambda folder, clock: EmbeddedLog(folder / "log", clock=clock, cache_bytes_max=0),
        takes_clock=True,
    ),
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    return IMPLEMENTATIONS[request.param]


@pytest.fixture
def log(implementation: Implementation, tmp_path: Path, clock: Clock) -> Iterator[Log]:
    log = implementation.open(tmp_path, clock)
    yield log
    log.close()


@pytest.fixture
def injected(implementation: Implementation, clock: Clock) -> Clock:
    if not implementation.takes_clock:
        pytest.skip("this log keeps its own time")
    return clock


def fill(log: Log, topic: str, partition: int, count: int, *, first: int = 0) -> None:
    """Append the numbers first, first + 1, … in one flush."""
    producer = log.producer()
    producer.send_many(topic, partition, [b"%d" % n for n in range(first, first + count)])
    producer.close()


def drain(consumer: Consumer, count: int, *, records_max: int = 1_000) -> list[Records]:
    """Poll until `count` records came; fail when they don't."""
    polled: list[Records] = []
    while (have := sum(map(len, polled))) < count:
        records = consumer.poll(records_max, PATIENCE_S)
        assert records, f"{have} of {count} records came"
        polled += records
    assert have == count
    return polled


def numbers(polled: list[Records], partition: int = 0) -> list[int]:
    """Return the values of a partition as numbers, in the order polled."""
    chosen = [records.values for records in polled if records.partition == partition]
    return [int(value) for values in chosen for value in values if value is not None]


def reader(log: Log, topic: str, offsets: dict[int, int], group: str | None = None) -> Consumer:
    consumer = log.consumer(group)
    consumer.assign(topic, offsets)
    return consumer


# Topics


def test_a_topic_is_made_once_and_found_by_name(log: Log) -> None:
    made = log.create_topic("payments", partitions=3, append_time=True)
    assert (made.name, made.partitions, made.append_time) == ("payments", 3, True)
    assert log.create_topic("payments", partitions=3, append_time=True) == made
    other = log.create_topic("flights", partitions=1, append_time=False)
    assert log.topic("payments") == made
    assert log.topics() == [other, made]
    assert made.id != other.id


@pytest.mark.parametrize(("partitions", "append_time"), [(4, True), (3, False)])
def test_a_topic_with_other_settings_is_refused(
    log: Log, partitions: int, append_time: bool
) -> None:
    made = log.create_topic("payments", partitions=3, append_time=True)
    with pytest.raises(ConfigError, match=r"exists with partitions=3, append_time=True"):
        log.create_topic("payments", partitions=partitions, append_time=append_time)
    assert log.topics() == [made]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "x" * 250, "größe"])
def test_a_name_that_kafka_would_refuse_is_refused(log: Log, name: str) -> None:
    with pytest.raises(ConfigError, match="topic"):
        log.create_topic(name, partitions=1, append_time=False)


def test_a_topic_needs_a_partition(log: Log) -> None:
    with pytest.raises(ConfigError, match="0 partitions"):
        log.create_topic("t", partitions=0, append_time=False)


def test_an_unknown_topic_is_named_with_the_closest_one(log: Log) -> None:
    log.create_topic("payments", partitions=1, append_time=False)
    for ask in (log.topic, log.start_offsets, log.end_offsets, log.delete_topic):
        with pytest.raises(NotFoundError, match=r'"paymnts".*Did you mean "payments"\?'):
            ask("paymnts")
    with pytest.raises(NotFoundError, match="paymnts"):
        log.producer().send("paymnts", 0, b"x")
    with pytest.raises(NotFoundError, match="paymnts"):
        log.consumer(None).assign("paymnts", {0: 0})


@pytest.mark.parametrize("partition", [-1, 2])
def test_an_unknown_partition_is_named(log: Log, partition: int) -> None:
    log.create_topic("t", partitions=2, append_time=False)
    expected = rf'"t" has no partition {partition}; it has 0 to 1'
    with pytest.raises(NotFoundError, match=expected):
        log.producer().send("t", partition, b"x")
    with pytest.raises(NotFoundError, match=expected):
        log.producer().send_many("t", partition, [b"x"])
    with pytest.raises(NotFoundError, match=expected):
        log.consumer(None).assign("t", {partition: 0})
    with pytest.raises(NotFoundError, match=expected):
        log.consumer("g").commit("t", {0: 1, partition: 0})
    with pytest.raises(NotFoundError, match=expected):
        log.delete_records("t", {partition: 0})
    assert log.consumer("g").committed("t") == {}


def test_a_topic_made_again_is_another_topic(log: Log) -> None:
    old = log.create_topic("t", partitions=2, append_time=False)
    fill(log, "t", 0, 5)
    log.consumer("g").commit("t", {0: 3})
    log.delete_topic("t")
    assert log.topics() == []
    new = log.create_topic("t", partitions=1, append_time=True)
    assert new.id != old.id
    assert log.end_offsets("t") == [0]
    assert log.consumer("g").committed("t") == {}


# Records


def test_records_come_back_in_order_with_all_their_parts(log: Log) -> None:
    topic = log.create_topic("t", partitions=2, append_time=False)
    headers: Headers = (("why", b"bad \x00 json"), ("why", b""), ("größe", b"\xff"))
    producer = log.producer()
    producer.send("t", 1, b"one", key=b"k1", headers=headers, timestamp_us=30)
    producer.send_many(
        "t",
        1,
        [b"two", None, b""],
        keys=[None, b"", b"k4"],
        timestamps_us=[20, 10, 40],
        headers=[(), headers[:1], ()],
    )
    producer.send("t", 1, None, timestamp_us=50)
    producer.send_many("t", 1, [b"six", b"seven"], timestamps_us=np.array([60, 70]))
    producer.flush()
    assert log.start_offsets("t") == [0, 0]
    assert log.end_offsets("t") == [0, 7]
    polled = drain(reader(log, "t", {0: 0, 1: 0}), 7)
    assert {(r.topic, r.topic_id, r.partition) for r in polled} == {("t", topic.id, 1)}
    assert polled[-1].next_offset == 7
    rows = []
    for r in polled:
        stamps = r.timestamps_us.tolist()
        rows += zip(r.offsets.tolist(), stamps, r.keys, r.values, r.headers, strict=True)
    assert rows == [
        (0, 30, b"k1", b"one", headers),
        (1, 20, None, b"two", ()),
        (2, 10, b"", None, headers[:1]),
        (3, 40, b"k4", b"", ()),
        (4, 50, None, None, ()),
        (5, 60, None, b"six", ()),
        (6, 70, None, b"seven", ()),
    ]


def test_the_columns_belong_to_the_caller(log: Log) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    values, stamps = [b"0", b"1"], np.array([7, 8])
    producer = log.producer()
    producer.send_many("t", 0, values, timestamps_us=stamps)
    values[0], stamps[0] = b"changed", 0
    producer.flush()
    (first,) = drain(reader(log, "t", {0: 0}), 2)
    first.timestamps_us[:] = -1
    first.offsets[:] = -1
    (again,) = drain(reader(log, "t", {0: 0}), 2)
    assert numbers([again]) == [0, 1]
    assert again.timestamps_us.tolist() == [7, 8]
    assert again.offsets.tolist() == [0, 1]


def test_an_event_time_topic_keeps_the_producers_time(log: Log, injected: Clock) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    producer = log.producer()
    producer.send("t", 0, b"0", timestamp_us=-5)
    producer.send("t", 0, b"1")
    injected.now_us += 1
    producer.send_many("t", 0, [b"2", b"3"])
    injected.now_us += 1
    producer.flush()
    stamps = np.concatenate([r.timestamps_us for r in drain(reader(log, "t", {0: 0}), 4)])
    assert stamps.tolist() == [-5, NOW_US, NOW_US + 1, NOW_US + 1]


def test_an_append_time_topic_stamps_at_append(log: Log, injected: Clock) -> None:
    log.create_topic("t", partitions=1, append_time=True)
    producer = log.producer()
    producer.send("t", 0, b"0", timestamp_us=5)
    producer.send_many("t", 0, [b"1"], timestamps_us=[6])
    injected.now_us += 10
    producer.flush()
    stamps = np.concatenate([r.timestamps_us for r in drain(reader(log, "t", {0: 0}), 2)])
    assert stamps.tolist() == [NOW_US + 10, NOW_US + 10]


def test_offsets_at_a_time_are_the_first_that_arrived_then_or_later(log: Log) -> None:
    log.create_topic("t", partitions=3, append_time=False)
    producer = log.producer()
    producer.send_many("t", 0, [b"x"] * 4, timestamps_us=[10, 40, 20, 30])
    producer.flush()
    producer.send_many("t", 0, [b"x"] * 2, timestamps_us=[25, 50])
    producer.send_many("t", 1, [b"x"], timestamps_us=[30])
    producer.flush()
    assert log.offsets_at("t", 0) == [0, 0, 0]
    assert log.offsets_at("t", 10) == [0, 0, 0]
    assert log.offsets_at("t", 11) == [1, 0, 0]
    assert log.offsets_at("t", 41) == [5, 1, 0]
    assert log.offsets_at("t", 51) == [6, 1, 0]
    log.delete_records("t", {0: 2})
    assert log.offsets_at("t", 0) == [2, 0, 0]
    assert log.offsets_at("t", 30) == [3, 0, 0]
    assert log.offsets_at("t", 31) == [5, 1, 0]


# Producers


def test_flush_acknowledges_everything_sent(log: Log) -> None:
    log.create_topic("t", partitions=2, append_time=False)
    producer = log.producer()
    producer.flush()
    for n in range(10):
        producer.send("t", n % 2, b"%d" % n)
    producer.flush()
    assert log.end_offsets("t") == [5, 5]
    producer.send_many("t", 0, [])
    producer.flush()
    assert log.end_offsets("t") == [5, 5]


def test_closing_a_producer_flushes_it(log: Log) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    producer = log.producer()
    producer.send("t", 0, b"x")
    producer.close()
    producer.close()
    assert log.end_offsets("t") == [1]
    with pytest.raises(StateError, match="producer is closed"):
        producer.send("t", 0, b"x")


@pytest.mark.parametrize("made_again", [False, True])
def test_records_for_a_topic_that_went_are_named_and_the_rest_is_delivered(
    log: Log, made_again: bool
) -> None:
    log.create_topic("gone", partitions=2, append_time=False)
    log.create_topic("kept", partitions=1, append_time=False)
    producer = log.producer()
    producer.send_many("gone", 1, [b"x"] * 3)
    producer.send("gone", 1, b"x")
    producer.send("kept", 0, b"0")
    log.delete_topic("gone")
    if made_again:
        log.create_topic("gone", partitions=2, append_time=False)
    with pytest.raises(DeliveryError, match=r"4 to gone\[1\].*deleted") as caught:
        producer.flush()
    assert [(f.topic, f.partition, f.records) for f in caught.value.failures] == [("gone", 1, 4)]
    producer.flush()
    assert log.end_offsets("kept") == [1]
    log.create_topic("gone", partitions=2, append_time=False)
    producer.send("gone", 0, b"x")
    producer.flush()
    assert log.end_offsets("gone") == [1, 0]


def test_a_record_that_is_neither_bytes_nor_none_is_refused(log: Log) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    producer = log.producer()
    with pytest.raises(TypeError, match="str"):
        producer.send("t", 0, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="str"):
        producer.send_many("t", 0, [b"x", "y"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="int"):
        producer.send_many("t", 0, [b"x"], keys=[1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="2 values but 1 keys"):
        producer.send_many("t", 0, [b"x", b"y"], keys=[b"k"])
    producer.flush()
    assert log.end_offsets("t") == [0]


# Consumers


def test_assigning_seeks_and_replaces_only_that_topic(log: Log) -> None:
    for name in ("t", "u"):
        log.create_topic(name, partitions=2, append_time=False)
        fill(log, name, 0, 10)
        fill(log, name, 1, 10)
    consumer = reader(log, "t", {0: 4, 1: 10})
    assert numbers(drain(consumer, 6)) == [4, 5, 6, 7, 8, 9]
    consumer.assign("t", {1: 7})
    consumer.assign("u", {0: 9})
    polled = drain(consumer, 4)
    assert {(r.topic, r.partition): len(r) for r in polled} == {("t", 1): 3, ("u", 0): 1}
    consumer.assign("t", {})
    fill(log, "t", 1, 1)
    assert consumer.poll(10, 0) == []
    with pytest.raises(ConfigError, match="negative"):
        consumer.assign("t", {0: -1})


def test_consumers_of_one_group_keep_their_own_positions(log: Log) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    fill(log, "t", 0, 10)
    one, two = reader(log, "t", {0: 0}, "g"), reader(log, "t", {0: 5}, "g")
    assert numbers(drain(one, 10)) == list(range(10))
    assert numbers(drain(two, 5)) == [5, 6, 7, 8, 9]


def test_committed_offsets_belong_to_a_group_and_a_topic(log: Log) -> None:
    for name in ("t", "u"):
        log.create_topic(name, partitions=3, append_time=False)
    consumer = log.consumer("g")
    assert consumer.committed("t") == {}
    consumer.commit("t", {0: 3, 2: 0})
    consumer.commit("t", {np.int64(0): np.int64(9)})  # type: ignore[dict-item]
    consumer.commit("u", {1: 1})
    other = log.consumer("g")
    assert other.committed("t") == {0: 9, 2: 0}
    assert other.committed("u") == {1: 1}
    assert log.consumer("h").committed("t") == {}
    with pytest.raises(ConfigError, match="negative"):
        consumer.commit("t", {0: 10, 1: -1})
    assert consumer.committed("t") == {0: 9, 2: 0}


def test_a_consumer_without_a_group_commits_nothing(log: Log) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    consumer = log.consumer(None)
    with pytest.raises(ConfigError, match="no group"):
        consumer.commit("t", {0: 1})
    with pytest.raises(ConfigError, match="no group"):
        consumer.committed("t")


def test_a_poll_is_bounded_and_goes_on_where_it_stopped(log: Log) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    for first, count in ((0, 1), (1, 1), (2, 17), (19, 300), (319, 1)):
        fill(log, "t", 0, count, first=first)
    consumer = reader(log, "t", {0: 0})
    seen: list[int] = []
    while len(seen) < 320:
        polled = consumer.poll(7, PATIENCE_S)
        assert 1 <= sum(map(len, polled)) <= 7
        assert [r.offsets[0] for r in polled] == [len(seen)]
        seen += numbers(polled)
    assert seen == list(range(320))
    assert consumer.poll(7, 0) == []
    with pytest.raises(ValueError, match="records_max is 0"):
        consumer.poll(0, 0)


def test_a_partition_with_much_to_read_holds_up_no_other(log: Log) -> None:
    log.create_topic("t", partitions=3, append_time=False)
    fill(log, "t", 0, 5_000)
    fill(log, "t", 1, 30)
    fill(log, "t", 2, 2)
    consumer = reader(log, "t", {0: 0, 1: 0, 2: 0})
    read = {0: 0, 1: 0, 2: 0}
    while min(read[1] - 30, read[2] - 2) < 0:
        polled = consumer.poll(60, PATIENCE_S)
        assert len({r.partition for r in polled}) == len(polled)
        for records in polled:
            read[records.partition] += len(records)
    assert read[0] <= 120
    assert sum(map(len, drain(consumer, 5_000 - read[0]))) == 5_000 - read[0]


def test_more_partitions_than_records_are_served_in_turn(log: Log) -> None:
    log.create_topic("t", partitions=5, append_time=False)
    for partition in range(5):
        fill(log, "t", partition, 40)
    consumer = reader(log, "t", dict.fromkeys(range(5), 0))
    read = dict.fromkeys(range(5), 0)
    for _ in range(20):
        for records in consumer.poll(2, PATIENCE_S):
            read[records.partition] += len(records)
    assert read == dict.fromkeys(range(5), 8)


def test_nothing_to_read_times_out(log: Log) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    assert log.consumer(None).poll(10, 0.01) == []
    assert reader(log, "t", {0: 0}).poll(10, 0.01) == []


# Retention and topics that go


def test_deleted_records_are_lost_to_a_reader_below_the_start(log: Log) -> None:
    log.create_topic("t", partitions=2, append_time=False)
    for first in range(0, 1_000, 100):
        fill(log, "t", 0, 100, first=first)
    fill(log, "t", 1, 3)
    consumer = reader(log, "t", {0: 349, 1: 0})
    log.delete_records("t", {0: 350})
    assert log.start_offsets("t") == [350, 0]
    for _ in range(2):
        with pytest.raises(OffsetLostError, match=r"t\[0\]: offset 349.*start 350") as caught:
            consumer.poll(10, 0)
        assert (caught.value.offset, caught.value.start, caught.value.end) == (349, 350, 1_000)
    consumer.assign("t", {0: 350, 1: 0})
    polled = drain(consumer, 653)
    assert numbers(polled) == list(range(350, 1_000))
    assert numbers(polled, 1) == [0, 1, 2]
    log.delete_records("t", {0: 10, 1: 0})
    assert log.start_offsets("t") == [350, 0]


@pytest.mark.parametrize("start", [299, 300, 301, 599])
def test_deleting_keeps_every_record_from_the_new_start_on(log: Log, start: int) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    fill(log, "t", 0, 300)
    fill(log, "t", 0, 300, first=300)
    log.delete_records("t", {0: start})
    polled = drain(reader(log, "t", {0: start}), 600 - start)
    assert numbers(polled) == list(range(start, 600))


def test_a_partition_emptied_by_deletion_goes_on_at_its_end(log: Log) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    fill(log, "t", 0, 10)
    log.delete_records("t", {0: 10})
    assert (log.start_offsets("t"), log.end_offsets("t")) == ([10], [10])
    consumer = reader(log, "t", {0: 10})
    assert consumer.poll(10, 0) == []
    fill(log, "t", 0, 2, first=10)
    assert numbers(drain(consumer, 2)) == [10, 11]
    with pytest.raises(ConfigError, match=r"before 13.*ends at 12"):
        log.delete_records("t", {0: 13})


def test_a_position_above_the_end_is_lost(log: Log) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    fill(log, "t", 0, 3)
    with pytest.raises(OffsetLostError, match=r"offset 4 is above the log's end 3"):
        reader(log, "t", {0: 4}).poll(10, 0)


@pytest.mark.parametrize("made_again", [False, True])
def test_a_reader_of_a_topic_that_went_is_told(log: Log, made_again: bool) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    fill(log, "t", 0, 3)
    consumer = reader(log, "t", {0: 0}, "g")
    log.delete_topic("t")
    if made_again:
        log.create_topic("t", partitions=1, append_time=False)
        fill(log, "t", 0, 3, first=100)
    for _ in range(2):
        with pytest.raises(TopicGoneError, match=r'"t".*deleted'):
            consumer.poll(10, 0)
    with pytest.raises(TopicGoneError):
        consumer.commit("t", {0: 3})
    if made_again:
        assert log.consumer("g").committed("t") == {}
        consumer.assign("t", {0: 0})
        assert numbers(drain(consumer, 3)) == [100, 101, 102]
    else:
        consumer.assign("t", {})
        assert consumer.poll(10, 0) == []


# Threads


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Start work in a thread; its result or exception lands in the list."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (lambda log, _: fill(log, "t", 0, 1), list),
        (lambda log, _: log.delete_topic("t"), TopicGoneError),
        (lambda _, consumer: consumer.close(), StateError),
        (lambda log, _: log.close(), StateError),
    ],
    ids=["append", "delete", "close consumer", "close log"],
)
def test_a_waiting_poll_wakes_up(
    log: Log, event: Callable[[Log, Consumer], None], expected: type
) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    consumer = reader(log, "t", {0: 0})
    # Only a wake-up ends the poll within the test's patience.
    thread, results = in_thread(lambda: consumer.poll(10, 100 * PATIENCE_S))
    thread.join(0.05)
    event(log, consumer)
    thread.join(PATIENCE_S)
    assert [type(result) for result in results] == [expected]


def test_producers_and_consumers_in_threads_see_one_log(log: Log) -> None:
    log.create_topic("t", partitions=2, append_time=False)
    producers, rounds, size = 3, 40, 25
    total = producers * rounds * size

    def produce(name: int) -> None:
        producer = log.producer()
        for n in range(rounds):
            values = [b"%d" % (name * 1_000_000 + n * size + i) for i in range(size)]
            producer.send_many("t", n % 2, values)
            producer.flush()

    def consume() -> list[Records]:
        return drain(reader(log, "t", {0: 0, 1: 0}), total, records_max=97)

    threads = [in_thread(consume) for _ in range(2)]
    threads += [in_thread(lambda name=name: produce(name)) for name in range(producers)]
    for thread, _ in threads:
        thread.join(PATIENCE_S)
    first, second = (results[0] for _, results in threads[:2])
    for partition in range(2):
        seen = numbers(first, partition)
        assert seen == numbers(second, partition)
        offsets = np.concatenate([r.offsets for r in first if r.partition == partition])
        assert offsets.tolist() == list(range(log.end_offsets("t")[partition]))
        for name in range(producers):
            own = [n % 1_000_000 for n in seen if n // 1_000_000 == name]
            rounds_here = range(partition, rounds, 2)
            assert own == [n * size + i for n in rounds_here for i in range(size)]


def test_a_closed_log_says_so(log: Log) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    producer, consumer = log.producer(), reader(log, "t", {0: 0}, "g")
    log.close()
    log.close()
    for ask in (
        log.topics,
        log.producer,
        lambda: log.end_offsets("t"),
        lambda: log.create_topic("u", partitions=1, append_time=False),
        lambda: producer.send("t", 0, b"x"),
        lambda: consumer.poll(1, 0),
        lambda: consumer.commit("t", {0: 0}),
    ):
        with pytest.raises(StateError, match="log is closed"):
            ask()
