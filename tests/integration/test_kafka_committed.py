"""What a group has committed, asked from outside: safely, and without joining it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import kafka_broker
import pytest
from confluent_kafka.admin import AdminClient
from log_harness import PATIENCE_S

from headwater.errors import ConfigError
from headwater_connectors.log.kafka import KafkaLog
from headwater_connectors.log.kafka_errors import KafkaUnreachableError
from headwater_connectors.log.kafka_groups import committed, members, topics_of
from headwater_connectors.log.log import Topic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kafka_broker import Broker

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    broker = kafka_broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def log(broker: Broker) -> Iterator[KafkaLog]:
    with closing(KafkaLog(broker.bootstrap_servers)) as log:
        yield log
        for topic in log.topics():
            if topic.name.startswith("committed."):
                log.delete_topic(topic.name)


@pytest.fixture(autouse=True)
def _no_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse the request that ends the process where a coordinator moves."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked through librdkafka's AdminClient")

    monkeypatch.setattr(AdminClient, "list_consumer_group_offsets", refuse)


def test_offsets_and_topics_of_a_group_are_asked_of_no_admin_client(log: KafkaLog) -> None:
    for name in ("committed.a", "committed.b", "committed.c"):
        log.create_topic(name, partitions=3, append_time=False)
    with closing(log.consumer("counts")) as consumer:
        consumer.commit("committed.a", {0: 4, 2: 0})
        consumer.commit("committed.c", {1: 9})
    assert committed(log, "counts", "committed.a") == {0: 4, 2: 0}
    assert committed(log, "counts", "committed.b") == {}
    assert topics_of(log, "counts") == ("committed.a", "committed.c")
    assert topics_of(log, "no-such-group") == ()


def test_who_asks_is_no_member_and_moves_no_task(log: KafkaLog) -> None:
    log.create_topic("committed.a", partitions=2, append_time=False)
    moved: list[list[int]] = []

    def given(partitions: list[int]) -> dict[int, int]:
        moved.append(partitions)
        return dict.fromkeys(partitions, 0)

    def taken(partitions: list[int], *, lost: bool) -> None:
        moved.append(partitions)
        assert not lost

    with closing(log.consumer("watched")) as consumer:
        consumer.subscribe("committed.a", given, taken)
        for _ in range(int(PATIENCE_S / 0.1)):
            consumer.poll(10, 0.1)
            if moved:
                break
        consumer.commit("committed.a", {0: 1, 1: 2})
        before = members(log, "watched")
        for _ in range(3):
            assert committed(log, "watched", "committed.a") == {0: 1, 1: 2}
            assert topics_of(log, "watched") == ("committed.a",)
            consumer.poll(10, 0.1)
        assert members(log, "watched") == before
        assert len(moved) == 1


def test_who_has_no_right_on_a_group_is_told(broker: Broker) -> None:
    if broker.secured_servers is None:
        pytest.skip("this broker has no listener with credentials")
    name, password = kafka_broker.BROKER_USER
    config = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": name,
        "sasl.password": password,
    }
    topic = Topic("committed.a", "id", 1, append_time=False)
    with (
        closing(KafkaLog(broker.secured_servers, config=config)) as log,
        pytest.raises(ConfigError, match="grant this user the right on the group"),
    ):
        log.cluster.committed("g", topic)


def test_a_broker_that_is_not_there_is_named() -> None:
    topic = Topic("committed.a", "id", 1, append_time=False)
    with (
        closing(KafkaLog("127.0.0.1:1", timeout_s=0.3)) as log,
        pytest.raises(KafkaUnreachableError, match=r'offsets of group "g".*127\.0\.0\.1:1'),
    ):
        log.cluster.committed("g", topic)
