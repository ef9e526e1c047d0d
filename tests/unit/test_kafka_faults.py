from __future__ import annotations

import logging

import pytest
from confluent_kafka import KafkaError

from headwater.errors import HeadwaterError, StateError
from headwater.flow.membership import member_name, worker_of
from headwater.flow.stream_reset import with_cure
from headwater_connectors.log.kafka_config import News
from headwater_connectors.log.kafka_errors import KafkaUnreachableError, failure
from headwater_connectors.log.kafka_fence import Fence
from headwater_connectors.log.log import (
    LogUnreachableError,
    NoTopicError,
    OffsetLostError,
    TopicGoneError,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_who_is_fenced_now_and_then_joins_anew_and_who_is_all_the_time_gives_up() -> None:
    clock = Clock()
    fence = Fence(clock)
    assert not fence.notes(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
    assert not fence.is_up
    for _ in range(5):
        clock.now_s += 61
        assert fence.notes(KafkaError(KafkaError.FENCED_INSTANCE_ID))
        assert fence.is_up
        assert fence.take_down()
        assert not fence.is_up
    clock.now_s += 1
    assert [fence.take_down() for _ in range(3)] == [True, True, False]


def test_the_fatal_error_of_a_fenced_consumer_is_known_by_its_words() -> None:
    fatal = "Fatal error: Broker: Static consumer fenced by other consumer"
    assert Fence().notes(KafkaError(KafkaError._FATAL, fatal))
    assert Fence().notes(KafkaError(KafkaError._FATAL, "Commit failed: Local: Fatal error"))
    assert not Fence().notes(KafkaError(KafkaError._FATAL, "Fatal error: something else"))


@pytest.mark.parametrize(
    "code", [KafkaError.NOT_COORDINATOR, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError._TIMED_OUT]
)
def test_what_passes_by_itself_is_waited_for_as_a_broker_that_is_gone(code) -> None:
    error = failure(KafkaError(code), "commit", "kafka:9092", None)
    assert isinstance(error, LogUnreachableError)
    assert isinstance(error, KafkaUnreachableError)


def test_the_same_words_are_said_once_in_a_while() -> None:
    clock = Clock()
    news = News(clock)

    def is_in(text: str) -> bool:
        return news.is_in(logging.LogRecord("kafka", logging.ERROR, "", 1, text, None, None))

    assert is_in("FAIL [consumer-1]: refused after 3 ms")
    assert not is_in("FAIL [consumer-2]: refused after 44 ms")
    assert is_in("FAIL [consumer-2]: timed out")
    assert not is_in("CONFWARN: no such setting")
    clock.now_s += 10
    assert is_in("FAIL [consumer-1]: refused after 3 ms")


def test_an_error_of_a_source_names_the_reset_that_heals_it() -> None:
    lost = with_cure(OffsetLostError("orders", 2, 10, 15, 20), {"orders"})
    assert isinstance(lost, StateError)
    assert "orders[2]: offsets 10 to 14 were deleted" in str(lost)
    gone = [with_cure(TopicGoneError("orders", "old", new), {"orders"}) for new in (None, "new")]
    gone.append(with_cure(NoTopicError("orders", ' Did you mean "order"?'), {"orders"}))
    assert "make it again" in str(gone[0])
    assert "id old is now new" in str(gone[1])
    assert str(gone[2]) == str(gone[0])
    for error in (lost, *gone):
        assert str(error).endswith("run headwater stream reset orders")


@pytest.mark.parametrize(
    "error",
    [
        OffsetLostError("orders", 2, 30, 15, 20),  # the log has lost its end: nothing to skip
        OffsetLostError("ns.exchange", 2, 10, 15, 20),
        TopicGoneError("ns.exchange", "old", None),
        NoTopicError("never-begun", ' Did you mean "orders"?'),
        HeadwaterError("other"),
    ],
)
def test_an_error_that_no_reset_heals_stays_as_it_is(error) -> None:
    assert with_cure(error, {"orders"}) is error


def test_a_worker_is_another_member_at_another_address_and_known_by_its_name() -> None:
    here, there = (member_name("host.7", f"{host}:6566", "t.x") for host in ("a", "b"))
    assert here != there
    assert worker_of(here, "t.x") == worker_of(there, "t.x") == "host.7"
    assert worker_of("", "t.x") == ""
