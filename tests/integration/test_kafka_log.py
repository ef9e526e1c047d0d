"""The log on a real Apache Kafka: the contract of every log, and what only Kafka does."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING

import kafka_broker
import numpy as np
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions
from log_harness import NOW_US, PATIENCE_S, Clock, drain, fill, numbers, reader

from headwater.errors import ConfigError, StateError
from headwater_connectors.log import DeliveryError, OffsetLostError
from headwater_connectors.log.kafka import KafkaLog
from headwater_connectors.log.kafka_columnar import SWITCH

pytest.register_assert_rewrite("tests.unit.test_log_contract", "tests.unit.test_log_consumers")

from tests.unit import test_log_consumers, test_log_contract  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kafka_broker import Broker

    from headwater_connectors.log.kafka_consumer import KafkaConsumer

pytestmark = pytest.mark.kafka

for _module in (test_log_contract, test_log_consumers):
    for _name, _test in vars(_module).items():
        # Kafka keeps its own time; its tests are below.
        if _name.startswith("test_") and "injected" not in inspect.signature(_test).parameters:
            globals()[_name] = _test


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    broker = kafka_broker.start()
    found = [topic.name for topic in KafkaLog(broker.bootstrap_servers).topics()]
    assert not found, f"these tests delete topics, and the cluster has some: {found}"
    yield broker
    broker.stop()


# Records are fetched in two ways, by what the process finds.
@pytest.fixture(params=["columnar", "plain"])
def log(request, broker: Broker, monkeypatch) -> Iterator[KafkaLog]:
    monkeypatch.setenv(SWITCH, request.param)
    log = KafkaLog(broker.bootstrap_servers, clock=Clock())
    assert log.consumer(None).is_columnar == (request.param == "columnar")
    yield log
    log.close()
    log = KafkaLog(broker.bootstrap_servers)
    for topic in log.topics():
        log.delete_topic(topic.name)
    log.close()


@pytest.fixture
def admin(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap_servers})


# Time


def test_kafka_keeps_whole_ms_from_1970_on(log: KafkaLog) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    producer = log.producer()
    producer.send_many("t", 0, [b"x"] * 5, timestamps_us=[-5, 0, 1_999, 2_000, 9 * NOW_US])
    producer.send("t", 0, b"now")
    producer.flush()
    stamps = np.concatenate([r.timestamps_us for r in drain(reader(log, "t", {0: 0}), 6)])
    assert stamps.tolist() == [1_000, 1_000, 1_000, 2_000, 9 * NOW_US, NOW_US]


def test_an_append_time_topic_gets_the_brokers_time(log: KafkaLog) -> None:
    log.create_topic("t", partitions=1, append_time=True)
    producer = log.producer()
    producer.send("t", 0, b"x", timestamp_us=5)
    producer.flush()
    (records,) = drain(reader(log, "t", {0: 0}), 1)
    # The broker's clock is this year's; the log's own stands still in 2023.
    assert records.timestamps_us[0] > NOW_US


def test_our_topics_keep_records_for_ever(log: KafkaLog, admin: AdminClient) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    resource = ConfigResource(ConfigResource.Type.TOPIC, "t")
    settings = admin.describe_configs([resource])[resource].result()
    assert settings["retention.ms"].value == "-1"
    assert settings["retention.bytes"].value == "-1"
    assert settings["cleanup.policy"].value == "delete"


# Groups


def test_lag_tools_see_what_is_committed_and_may_reset_it(
    log: KafkaLog, admin: AdminClient
) -> None:
    log.create_topic("t", partitions=2, append_time=False)
    log.consumer("g").commit("t", {1: 7})
    (seen,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("g")]).values()
    assert [(p.topic, p.partition, p.offset) for p in seen.result().topic_partitions] == [
        ("t", 1, 7)
    ]
    reset = ConsumerGroupTopicPartitions("g", [TopicPartition("t", 1, 3)])
    (done,) = admin.alter_consumer_group_offsets([reset]).values()
    done.result()
    assert log.consumer("g").committed("t") == {1: 3}


def test_committed_offsets_are_not_asked_of_the_admin_client(log: KafkaLog, monkeypatch) -> None:
    # librdkafka's own falls over a coordinator that moves, and takes the process with it.
    def crash(*arguments: object) -> None:
        raise AssertionError

    log.create_topic("t", partitions=2, append_time=False)
    consumer = log.consumer("g")
    consumer.commit("t", {1: 7})
    monkeypatch.setattr(AdminClient, "list_consumer_group_offsets", crash)
    assert consumer.committed("t") == log.consumer("g").committed("t") == {1: 7}
    consumer.close()
    with pytest.raises(StateError):
        consumer.committed("t")


class Member:
    """A member of a group that counts what it gets, and what it gets although it was revoked."""

    def __init__(self, log: KafkaLog, next_offsets: dict[int, int]) -> None:
        self.owned: set[int] = set()
        self.next_offsets = next_offsets
        self.consumer: KafkaConsumer = log.consumer(
            "g", config={"topic.metadata.refresh.interval.ms": "200"}
        )
        self.consumer.subscribe("t", self.assigned, self.revoked)

    def assigned(self, partitions: list[int]) -> dict[int, int]:
        self.owned |= set(partitions)
        return {partition: self.next_offsets.get(partition, 0) for partition in partitions}

    def revoked(self, partitions: list[int], *, lost: bool) -> None:
        assert not lost
        self.consumer.commit("t", {p: self.next_offsets.get(p, 0) for p in partitions})
        self.owned -= set(partitions)

    def poll(self) -> None:
        for records in self.consumer.poll(50, 0.05):
            assert records.partition in self.owned
            assert records.offsets[0] == self.next_offsets.get(records.partition, 0)
            self.next_offsets[records.partition] = records.next_offset


def poll_until(members: list[Member], is_so: object) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        for member in members:
            member.poll()


def test_members_share_partitions_and_hand_them_over(log: KafkaLog, admin: AdminClient) -> None:
    log.create_topic("t", partitions=4, append_time=False)
    for partition in range(4):
        fill(log, "t", partition, 2_000)
    offsets: dict[int, int] = {}
    one = Member(log, offsets)
    poll_until([one], lambda: len(one.owned) == 4 and sum(offsets.values()) > 100)
    two = Member(log, offsets)
    poll_until([one, two], lambda: (len(one.owned), len(two.owned)) == (2, 2))
    assert not one.owned & two.owned
    committed = log.consumer("g").committed("t")
    assert set(committed) == two.owned
    admin.create_partitions([NewPartitions("t", 5)])["t"].result()
    poll_until([one, two], lambda: len(one.owned) + len(two.owned) == 5)
    fill(log, "t", 4, 10)
    one.consumer.close()
    poll_until([two], lambda: len(two.owned) == 5)
    poll_until([two], lambda: sum(offsets.values()) == 8_010)
    two.consumer.close()


def test_a_subscribed_consumer_takes_no_assignment(log: KafkaLog) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    member = Member(log, {})
    with pytest.raises(ConfigError, match="shares topic"):
        member.consumer.assign("t", {0: 0})
    assigned = reader(log, "t", {0: 0}, "g")
    with pytest.raises(ConfigError, match="has partitions assigned"):
        assigned.subscribe("t", member.assigned, member.revoked)


# Faults


def test_a_record_too_large_is_named_and_the_rest_is_delivered(log: KafkaLog) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    producer = log.producer()
    # More than waits here: it is handed over, and the failure raised, at once.
    with pytest.raises(DeliveryError, match=r"1 to t\[0\].*too large"):
        producer.send_many("t", 0, [b"0", bytes(2_000_000), b"1"])
    producer.flush()
    assert numbers(drain(reader(log, "t", {0: 0}), 2)) == [0, 1]


def test_records_on_their_way_to_a_topic_that_is_deleted_are_named(broker: Broker) -> None:
    # They stay with librdkafka until the flush.
    log = KafkaLog(broker.bootstrap_servers, config={"linger.ms": "60000"})
    log.create_topic("t", partitions=1, append_time=False)
    producer = log.producer()
    producer.send_many("t", 0, [b"x"] * 10_000)
    producer.send("t", 0, b"x")
    log.delete_topic("t")
    with pytest.raises(DeliveryError, match=r"to t\[0\]"):
        producer.flush()
    log.close()


def test_offsets_lost_while_reading_are_noticed(log: KafkaLog) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    fill(log, "t", 0, 100)
    consumer = reader(log, "t", {0: 0})
    assert sum(map(len, consumer.poll(10, PATIENCE_S))) == 10
    log.delete_records("t", {0: 90})
    with pytest.raises(OffsetLostError, match="start 90"):  # noqa: PT012
        for _ in range(80):
            time.sleep(0.1)
            consumer.poll(1, 0)


def test_a_broker_that_comes_back_loses_and_repeats_nothing(log: KafkaLog, broker: Broker) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    producer, consumer = log.producer(), reader(log, "t", {0: 0})
    producer.send("t", 0, b"0")
    producer.flush()
    assert numbers(drain(consumer, 1)) == [0]
    broker.halt()
    producer.send("t", 0, b"1")
    assert consumer.poll(10, 2.0) == []
    broker.resume()
    producer.send("t", 0, b"2")
    producer.flush()
    assert numbers(drain(consumer, 2)) == [1, 2]


@pytest.mark.parametrize("key", ["enable.auto.commit", "group.id", "acks", "message.timeout.ms"])
def test_settings_that_are_ours_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f'"{key}" is not yours to set'):
        KafkaLog("nowhere:1", config={key: "x"})


def test_secrets_appear_nowhere() -> None:
    config = {"sasl.password": "hunter2", "sasl.username": "me"}
    assert "hunter2" not in repr(KafkaLog("nowhere:1", config=config))
    with pytest.raises(ConfigError) as caught:
        KafkaLog("nowhere:1", config={**config, "hunter2": "1"})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


def test_no_answer_is_an_error_in_time() -> None:
    log = KafkaLog("127.0.0.1:1", timeout_s=0.5)
    with pytest.raises(ConfigError, match=r"no answer from Kafka at 127\.0\.0\.1:1") as caught:
        log.topic("t")
    assert "\n" not in str(caught.value)


def secured(broker: Broker, password: str) -> KafkaLog:
    if broker.secured_servers is None:
        pytest.skip("this cluster has no listener with passwords")
    config = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": kafka_broker.BROKER_USER[0],
        "sasl.password": password,
    }
    return KafkaLog(broker.secured_servers, config=config)


def test_wrong_credentials_are_named(broker: Broker) -> None:
    with pytest.raises(ConfigError, match=r"refused the connection.*check sasl") as caught:
        secured(broker, "wr0ng").topic("t")
    assert "wr0ng" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_rights_are_named(broker: Broker, log: KafkaLog) -> None:
    log.create_topic("t", partitions=1, append_time=False)
    with pytest.raises(ConfigError, match=r'can\'t look up topic "t".*right on the topic'):
        secured(broker, kafka_broker.BROKER_USER[1]).topic("t")
