"""The contract of a log's consumers: positions, polls, retention and threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from log_harness import IMPLEMENTATIONS, PATIENCE_S, Clock, drain, fill, numbers, reader

from headwater.errors import ConfigError, StateError
from headwater_connectors.log import OffsetLostError, TopicGoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from headwater_connectors.log import Consumer, Log, Records


@pytest.fixture(params=IMPLEMENTATIONS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    log = IMPLEMENTATIONS[request.param].open(tmp_path, Clock())
    yield log
    log.close()


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
