"""The contract of a log: topics, records and producers, against every implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from log_harness import IMPLEMENTATIONS, NOW_US, Clock, Implementation, drain, fill, numbers, reader

from headwater.errors import ConfigError, NotFoundError, StateError
from headwater_connectors.log import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headwater_connectors.log import Headers, Log


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


# Records. Their times are whole ms: some logs keep no more.


def test_records_come_back_in_order_with_all_their_parts(log: Log) -> None:
    topic = log.create_topic("t", partitions=2, append_time=False)
    headers: Headers = (("why", b"bad \x00 json"), ("why", b""), ("größe", b"\xff"))
    producer = log.producer()
    producer.send("t", 1, b"one", key=b"k1", headers=headers, timestamp_us=30_000)
    producer.send_many(
        "t",
        1,
        [b"two", None, b""],
        keys=[None, b"", b"k4"],
        timestamps_us=[20_000, 10_000, 40_000],
        headers=[(), headers[:1], ()],
    )
    producer.send("t", 1, None, timestamp_us=50_000)
    producer.send_many("t", 1, [b"six", b"seven"], timestamps_us=np.array([60_000, 70_000]))
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
        (0, 30_000, b"k1", b"one", headers),
        (1, 20_000, None, b"two", ()),
        (2, 10_000, b"", None, headers[:1]),
        (3, 40_000, b"k4", b"", ()),
        (4, 50_000, None, None, ()),
        (5, 60_000, None, b"six", ()),
        (6, 70_000, None, b"seven", ()),
    ]


def test_the_columns_belong_to_the_caller(log: Log) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    values, stamps = [b"0", b"1"], np.array([7_000, 8_000])
    producer = log.producer()
    producer.send_many("t", 0, values, timestamps_us=stamps)
    values[0], stamps[0] = b"changed", 0
    producer.flush()
    (first,) = drain(reader(log, "t", {0: 0}), 2)
    first.timestamps_us[:] = -1
    first.offsets[:] = -1
    (again,) = drain(reader(log, "t", {0: 0}), 2)
    assert numbers([again]) == [0, 1]
    assert again.timestamps_us.tolist() == [7_000, 8_000]
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
    producer.send_many("t", 0, [b"x"] * 4, timestamps_us=[10_000, 40_000, 20_000, 30_000])
    producer.flush()
    producer.send_many("t", 0, [b"x"] * 2, timestamps_us=[25_000, 50_000])
    producer.send_many("t", 1, [b"x"], timestamps_us=[30_000])
    producer.flush()
    assert log.offsets_at("t", 0) == [0, 0, 0]
    assert log.offsets_at("t", 10_000) == [0, 0, 0]
    assert log.offsets_at("t", 10_001) == [1, 0, 0]
    assert log.offsets_at("t", 40_001) == [5, 1, 0]
    assert log.offsets_at("t", 50_001) == [6, 1, 0]
    log.delete_records("t", {0: 2})
    assert log.offsets_at("t", 0) == [2, 0, 0]
    assert log.offsets_at("t", 30_000) == [3, 0, 0]
    assert log.offsets_at("t", 30_001) == [5, 1, 0]


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
