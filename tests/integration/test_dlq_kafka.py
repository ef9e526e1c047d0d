"""Dead letters on a real Kafka: listed, sent again once, and seen by their own namespace only."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from harness import SECOND_US, click, clicks_plan

from headwater.cli import main
from headwater.flow.dead_letter_frame import dead_letters
from headwater.flow.decode import Decoder
from headwater.flow.replay import Replays
from headwater_connectors.dead_letters import DeadLetters
from headwater_connectors.formats.decoded import Reject
from headwater_connectors.log.kafka import KafkaLog
from headwater_connectors.log.kafka_columnar import SWITCH

if TYPE_CHECKING:
    from kafka_broker import Broker

    from headwater_connectors.log.log import Records

pytestmark = pytest.mark.kafka

LETTERS = 1_200  # more than a run sends at a time


def read(log: KafkaLog, first: int, count: int) -> list[Records]:
    """Return the records of the topic from an offset on."""
    consumer = log.consumer(None)
    consumer.assign("clicks", {0: first})
    found: list[Records] = []
    deadline = time.monotonic() + 60
    while sum(map(len, found)) < count:
        assert time.monotonic() < deadline
        found += consumer.poll(10_000, 1.0)
    consumer.close()
    return found


@pytest.mark.parametrize("fetch", ["columnar", "plain"])
def test_letters_are_sent_again_once_and_other_namespaces_skip_them(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any, fetch: str
) -> None:
    monkeypatch.setenv(SWITCH, fetch)
    monkeypatch.chdir(tmp_path)
    where = ("--bootstrap-servers", broker.bootstrap_servers, "--namespace", "ns")

    def command(*arguments: str) -> dict[str, Any]:
        assert main(["dlq", *arguments, *where, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    with closing(KafkaLog(broker.bootstrap_servers)) as log:
        for name in [topic.name for topic in log.topics()]:
            log.delete_topic(name)
        log.create_topic("clicks", partitions=1, append_time=False)
        target = log.create_topic("clicks.dlq", partitions=1, append_time=False)
        producer = log.producer()
        now_us = time.time_ns() // 1_000
        value = json.dumps({**click(0), "at": now_us - SECOND_US}).encode()
        producer.send_many("clicks", 0, [value] * LETTERS)
        producer.flush()
        for namespace in ("ns", "other"):
            letters = DeadLetters(producer, target, namespace)
            for records in read(log, 0, LETTERS):
                for row in range(len(records) if namespace == "ns" else 1):
                    letters.put(records, Reject(row, "not_json", "why"), stage="decode")
            letters.flush()
        assert command("list", "--limit", "1")["letters"] == LETTERS
        dry = command("replay", "--dry-run", "--stream", "clicks")
        assert dry["streams"]["clicks"] == {"would_send": LETTERS, "sent_before": 0}
        # A run that dies when it has sent a batch, before it could say so.
        say = Replays._say
        with monkeypatch.context() as patch:

            def stop(self: Replays, record: Any) -> None:
                if type(record).__name__ == "_Sent":
                    raise KeyboardInterrupt
                say(self, record)

            patch.setattr(Replays, "_say", stop)
            with pytest.raises(KeyboardInterrupt):
                Replays(log, "ns", lambda: now_us - 3_600 * SECOND_US).replay(
                    "clicks", dead_letters(log, "clicks")
                )
        found = command("replay", "--stream", "clicks")["streams"]["clicks"]
        assert (found["sent"], found["recovered"]) == (LETTERS - 500, 500)
        again = command("replay", "--stream", "clicks")["streams"]["clicks"]
        assert (again["sent"], again["sent_before"]) == (0, LETTERS)
        assert log.end_offsets("clicks") == [2 * LETTERS]
        (stream,) = clicks_plan().streams.values()
        for namespace, count in (("ns", LETTERS), ("other", 0)):
            decoder = Decoder(stream, namespace)
            runs = decoder.decode_all(read(log, LETTERS, LETTERS))
            assert sum(run.frame.height for run in runs) == count
            assert not any(run.rejects for run in runs)
