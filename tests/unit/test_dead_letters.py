from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from headwater.errors import ConfigError, HeadwaterError, NotFoundError
from headwater_connectors.dead_letters import (
    MESSAGE_BYTES_MAX,
    DeadLetterContext,
    DeadLetters,
    dead_letter_topic,
    original_headers,
    read_context,
)
from headwater_connectors.formats.decoded import Reject
from headwater_connectors.log.log import Records, Topic
from headwater_connectors.log.memory import MemoryLog


@dataclass
class Sent:
    records: list[dict[str, object]] = field(default_factory=list)
    flushes: int = 0

    def flush(self):
        self.flushes += 1

    def send(self, topic, partition, value, *, key, headers, timestamp_us):
        self.records.append(
            {
                "topic": topic,
                "partition": partition,
                "value": value,
                "key": key,
                "headers": headers,
                "timestamp_us": timestamp_us,
            }
        )


def run_of(values, *, keys=None, headers=None, partition=5):
    count = len(values)
    return Records(
        topic="flights",
        topic_id="t1",
        partition=partition,
        offsets=np.arange(100, 100 + count),
        timestamps_us=np.arange(count) * 1_000 + 1_700_000_000_000_000,
        keys=keys or [None] * count,
        values=values,
        headers=headers or [()] * count,
    )


def topic_of(partitions=1):
    return Topic("flights.dlq", "d1", partitions, append_time=False)


def put_one(records, row=0, *, partitions=1, message="bad"):
    producer = Sent()
    letters = DeadLetters(producer, topic_of(partitions), "dev")
    letters.put(records, Reject(row, "not_json", message), stage="decode")
    return producer.records[0], letters


def test_key_value_and_timestamp_stay_as_they_were():
    records = run_of([b"good", b"\xff\x00 bad"], keys=[None, b"\x80k"])
    sent, _ = put_one(records, 1)
    assert sent["topic"] == "flights.dlq"
    assert sent["value"] == b"\xff\x00 bad"
    assert sent["key"] == b"\x80k"
    assert sent["timestamp_us"] == 1_700_000_000_001_000
    assert type(sent["timestamp_us"]) is int


def test_a_tombstone_stays_a_tombstone():
    sent, _ = put_one(run_of([None]))
    assert sent["value"] is None
    assert sent["key"] is None


def test_original_headers_come_first_and_unchanged():
    own = (("trace", b"\x00\xff"), ("trace", b"again"), ("", b""))
    sent, _ = put_one(run_of([b"x"], headers=[own]))
    assert sent["headers"][:3] == own
    assert [name for name, _ in sent["headers"][3:]] == [
        "__headwater.errors.topic",
        "__headwater.errors.partition",
        "__headwater.errors.offset",
        "__headwater.errors.stage",
        "__headwater.errors.reason",
        "__headwater.errors.message",
        "__headwater.errors.topic_id",
        "__headwater.errors.namespace",
    ]
    assert original_headers(sent["headers"]) == own


def test_context_reads_back():
    sent, _ = put_one(run_of([b"x", b"y"]), 1, message="ümläut → bad")
    assert read_context(sent["headers"]) == DeadLetterContext(
        "flights", 5, 101, "decode", "not_json", "ümläut → bad", "t1", "dev"
    )


def test_the_last_context_counts_when_a_record_is_put_twice():
    first, _ = put_one(run_of([b"x"]), message="first")
    second, _ = put_one(run_of([b"x"], headers=[first["headers"]]), message="second")
    assert read_context(second["headers"]).message == "second"
    assert original_headers(second["headers"]) == first["headers"]


@pytest.mark.parametrize(("partition", "expected"), [(0, 0), (2, 2), (3, 0), (11, 2)])
def test_partition_is_the_source_partition_modulo_the_topics(partition, expected):
    sent, _ = put_one(run_of([b"x"], partition=partition), partitions=3)
    assert sent["partition"] == expected


def test_a_long_message_is_cut_to_one_kibibyte_at_a_character():
    sent, _ = put_one(run_of([b"x"]), message="a" + "é" * 2_000)
    written = dict(sent["headers"])["__headwater.errors.message"]
    # 1024 bytes would end inside an é.
    assert len(written) == MESSAGE_BYTES_MAX - 1
    assert written.decode() == "a" + "é" * 511


def test_a_message_of_exactly_one_kibibyte_is_whole():
    sent, _ = put_one(run_of([b"x"]), message="a" * MESSAGE_BYTES_MAX)
    assert read_context(sent["headers"]).message == "a" * MESSAGE_BYTES_MAX


def test_a_message_that_is_no_unicode_is_written_escaped():
    sent, _ = put_one(run_of([b"x"]), message="half \ud800")
    assert read_context(sent["headers"]).message == "half \\ud800"


def test_counts_are_by_reason():
    letters = DeadLetters(Sent(), topic_of(), "dev")
    records = run_of([b"a", b"b", b"c"])
    for row, reason in enumerate(["empty", "not_json", "empty"]):
        letters.put(records, Reject(row, reason, ""), stage="decode")
    assert letters.counts == {"empty": 2, "not_json": 1}


def test_nothing_is_counted_when_the_producer_refuses():
    class Refusing:
        def send(self, *args, **kwargs):
            raise HeadwaterError("too large")

    letters = DeadLetters(Refusing(), topic_of(), "dev")
    with pytest.raises(HeadwaterError, match="too large"):
        letters.put(run_of([b"x"]), Reject(0, "empty", ""), stage="decode")
    assert not letters.counts


def test_a_topic_without_partitions_is_refused():
    with pytest.raises(ConfigError, match=r'"flights\.dlq" has no partition'):
        DeadLetters(Sent(), topic_of(0), "dev")


def test_flush_reaches_the_producer():
    producer = Sent()
    DeadLetters(producer, topic_of(), "dev").flush()
    assert producer.flushes == 1


def test_dead_letters_of_a_log_read_back_as_they_were():
    log = MemoryLog()
    source = log.create_topic("flights", partitions=2, append_time=False)
    producer = log.producer()
    producer.send(source.name, 1, b"\xff", key=b"k", headers=(("a", b"\x01"),), timestamp_us=7)
    target = log.create_topic(dead_letter_topic(source.name), partitions=2, append_time=False)
    letters = DeadLetters(producer, target, "dev")
    producer.flush()
    letters.put(read(log, source), Reject(0, "not_utf8", "byte 0"), stage="decode")
    letters.flush()
    letter = read(log, target)
    assert (letter.partition, letter.values[0], letter.keys[0]) == (1, b"\xff", b"k")
    assert letter.timestamps_us.tolist() == [7]
    assert original_headers(letter.headers[0]) == (("a", b"\x01"),)
    assert read_context(letter.headers[0]) == DeadLetterContext(
        "flights", 1, 0, "decode", "not_utf8", "byte 0", source.id, "dev"
    )


def read(log, topic):
    consumer = log.consumer(None)
    consumer.assign(topic.name, dict.fromkeys(range(topic.partitions), 0))
    (records,) = consumer.poll(10, 1.0)
    return records


def test_a_record_that_is_no_dead_letter_is_refused():
    with pytest.raises(NotFoundError, match="no dead letter"):
        read_context((("trace", b"1"),))
    with pytest.raises(NotFoundError, match="no dead letter"):
        original_headers((("trace", b"1"),))


@pytest.mark.parametrize("bad", [("partition", b"x"), ("offset", b""), ("message", b"\xff")])
def test_altered_headers_are_named(bad):
    sent, _ = put_one(run_of([b"x"]))
    altered = (*sent["headers"], ("__headwater.errors." + bad[0], bad[1]))
    with pytest.raises(HeadwaterError, match="altered") as caught:
        read_context(altered)
    assert not isinstance(caught.value, NotFoundError)


def test_the_usual_name_ends_in_dlq():
    assert dead_letter_topic("ns.flights") == "ns.flights.dlq"
