"""Dead letters sent again: each once, whatever stops a run, and for their own namespace only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from harness import BASE_US, SECOND_US, click, clicks, clicks_plan, moment

import headwater as hw
from headwater.cli import main
from headwater.errors import HeadwaterError, StateError
from headwater.flow.dead_letter_frame import DeadLetter, dead_letters
from headwater.flow.decode import Decoder
from headwater.flow.replay import LEASE_US, Replayed, Replays
from headwater_connectors.dead_letters import DeadLetterContext, DeadLetters
from headwater_connectors.formats.decoded import Reject
from headwater_connectors.log.memory import MemoryLog
from headwater_connectors.replay_header import Origin, elsewhere, origin_of, with_origin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headwater.local_store import LocalStore

EARLY = 1_000  # seconds: beyond the skew when it arrives at 0, not when it arrives at 2,000


class Clock:
    def __init__(self, now_us: int = BASE_US) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[LocalStore]:
    """A store with three events that came before their time, and one that can never be."""
    with hw.local([clicks()], clock=clock, partitions=2) as made:
        made.push("clicks", [click(EARLY + n) for n in range(3)])
        made.push_bytes("clicks", [b"{"])
        made.settle()
        clock.now_us = BASE_US + 2_000 * SECOND_US
        yield made


def counted(store: LocalStore) -> int:
    store.settle()
    at = moment(BASE_US + 1_900 * SECOND_US)
    return store.online("clicks_of", user=["a"], page=[1], at=at)["n_lifetime"][0]


def test_a_letter_counts_once_however_often_it_is_replayed(store: LocalStore) -> None:
    assert counted(store) == 0
    assert store.replay_dead_letters("clicks", reason="future_event_time") == Replayed(3, 0, 0, 0)
    assert counted(store) == 3
    for _ in range(2):
        again = store.replay_dead_letters("clicks", reason="future_event_time")
        assert again == Replayed(0, 3, 0, 0)
    assert counted(store) == 3
    spine = {"user": ["a"], "page": [1], "t": [moment(BASE_US + 1_900 * SECOND_US)]}
    made = store.training_set("clicks_of", spine, time="t", as_of="event").collect()
    assert made["n_lifetime"][0] == 3
    # It arrived when it was replayed: as of arrival it wasn't there before.
    made = store.training_set("clicks_of", spine, time="t", as_of="arrival").collect()
    assert made["n_lifetime"][0] == 0


def test_what_still_is_no_event_becomes_a_letter_again_and_can_be_replayed_again(
    store: LocalStore,
) -> None:
    for letters in (1, 2, 3):
        found = store.dead_letters("clicks").filter(reason="not_json")
        assert found.height == letters
        assert store.replay_dead_letters("clicks", reason="not_json").sent == 1
        store.settle()
    assert counted(store) == 0


class StoppedError(Exception):
    """The process was stopped."""


@pytest.mark.parametrize("said", ["_Claimed", "_Sent", "_Finished"])
@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_stops_before_or_after_it_says_something_counts_nothing_twice(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, said: str, before: bool
) -> None:
    say = Replays._say

    def stop(self: Replays, record: Any) -> None:
        stops = type(record).__name__ == said
        if not (stops and before):
            say(self, record)
        if stops:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(Replays, "_say", stop)
        with pytest.raises(StoppedError):
            store.replay_dead_letters("clicks", reason="future_event_time")
    done = store.replay_dead_letters("clicks", reason="future_event_time")
    assert counted(store) == 3
    was_sent = said == "_Finished" or said == "_Sent"
    assert done == Replayed(
        sent=0 if was_sent else 3,
        before=3 if was_sent else 0,
        recovered=3 if said == "_Sent" and before else 0,
        gone=0,
    )


def test_a_run_that_stops_amid_a_batch_goes_on_with_the_rest(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = store.log.producer

    class Stopping:
        def __init__(self) -> None:
            self._producer = producer()
            self._sent = 0

        def send(self, topic: str, *args: Any, **more: Any) -> None:
            if topic == "clicks" and self._sent == 2:
                self._producer.flush()
                raise StoppedError
            self._sent += topic == "clicks"
            self._producer.send(topic, *args, **more)

        def flush(self) -> None:
            self._producer.flush()

        def close(self) -> None:
            self._producer.close()

    with monkeypatch.context() as patch:
        patch.setattr(store.log, "producer", Stopping, raising=True)
        with pytest.raises(StoppedError):
            store.replay_dead_letters("clicks", reason="future_event_time")
    done = store.replay_dead_letters("clicks", reason="future_event_time")
    assert (done.sent, done.recovered) == (1, 2)
    assert counted(store) == 3


@pytest.fixture
def log(clock: Clock) -> MemoryLog:
    log = MemoryLog(clock=clock)
    log.create_topic("clicks", partitions=1, append_time=False)
    log.create_topic("clicks.dlq", partitions=1, append_time=False)
    return log


def put(log: MemoryLog, offset: int, namespace: str = "ns", topic_id: str | None = None) -> None:
    """Say that a namespace could make nothing of a record."""
    letters = DeadLetters(log.producer(), log.topic("clicks.dlq"), namespace)
    value = json.dumps(click(1)).encode()
    records = read_made(topic_id or log.topic("clicks").id, offset, value)
    letters.put(records, Reject(0, "no_event_time", "why"), stage="decode")
    letters.flush()


def read_made(topic_id: str, offset: int, value: bytes) -> Any:
    from headwater_connectors.log.log import Records

    stamps = np.array([BASE_US], np.int64)
    return Records(
        "clicks", topic_id, 0, np.array([offset]), stamps, [b"k"], [value], [(("own", b"1"),)]
    )


def replay(log: MemoryLog, clock: Clock, namespace: str = "ns", **more: Any) -> Replayed:
    replays = Replays(log, namespace, clock)
    return replays.replay("clicks", dead_letters(log, "clicks"), **more)


def source(log: MemoryLog) -> Any:
    consumer = log.consumer(None)
    consumer.assign("clicks", {0: 0})
    (records,) = consumer.poll(100, 1.0)
    return records


def test_a_letter_that_is_there_twice_is_one(log: MemoryLog, clock: Clock) -> None:
    put(log, 7)
    put(log, 7)
    put(log, 8)
    assert replay(log, clock) == Replayed(2, 1, 0, 0)
    records = source(log)
    assert list(records.keys) == [b"k", b"k"]
    topic_id = log.topic("clicks").id
    for headers, offset in zip(records.headers, (7, 8), strict=True):
        assert headers[0] == ("own", b"1")
        assert origin_of(headers) == ("ns", Origin(topic_id, 0, offset))


def test_letters_of_another_namespace_stay_and_it_skips_ours(log: MemoryLog, clock: Clock) -> None:
    put(log, 7)
    put(log, 8, namespace="other")
    assert replay(log, clock).sent == 1
    (stream,) = clicks_plan().streams.values()
    records = source(log)
    assert Decoder(stream, "ns").decode(records).frame["__offset"].to_list() == [0]
    theirs = Decoder(stream, "other").decode(records)
    assert theirs.frame.height == 0
    assert theirs.rejects == []
    assert replay(log, clock, "other").sent == 1
    assert Decoder(stream, "other").decode(source(log)).frame["__offset"].to_list() == [1]


def test_letters_of_a_topic_that_was_made_again_are_left(log: MemoryLog, clock: Clock) -> None:
    put(log, 7, topic_id="before")
    assert replay(log, clock) == Replayed(0, 0, 0, 1)


def test_two_runs_at_once_are_one(log: MemoryLog, clock: Clock) -> None:
    put(log, 7)
    first = Replays(log, "ns", clock)

    def while_another_begins() -> Iterator[DeadLetter]:
        with pytest.raises(StateError, match=r"by another run.* run it again in 60 s"):
            replay(log, clock)
        yield from dead_letters(log, "clicks")

    assert first.replay("clicks", while_another_begins()).sent == 1
    assert replay(log, clock) == Replayed(0, 1, 0, 0)


def test_a_run_that_stood_still_for_too_long_sends_no_more(log: MemoryLog, clock: Clock) -> None:
    put(log, 7)

    def slowly() -> Iterator[DeadLetter]:
        clock.now_us += LEASE_US
        assert replay(log, clock).sent == 1
        yield from dead_letters(log, "clicks")
        context = DeadLetterContext(
            "clicks", 0, 9, "decode", "x", "x", log.topic("clicks").id, "ns"
        )
        yield DeadLetter(context, None, b"{}", (), 0)

    with pytest.raises(StateError, match="stood still"):
        Replays(log, "ns", clock).replay("clicks", slowly())
    assert len(source(log)) == 1


def test_the_header_of_somebody_else_is_let_be() -> None:
    own = (("__headwater.replay", b"what"), ("a", b"b"))
    assert origin_of(own) is None
    assert elsewhere([own, ()], "ns") == []
    mine = with_origin(own, "ns", Origin("t", 1, 2))
    assert mine == (("a", b"b"), ("__headwater.replay", b"ns t 1 2"))
    assert elsewhere([(), mine], "other") == [1]
    assert elsewhere([(), mine], "ns") == []


def test_a_record_that_is_none_of_ours_in_the_replays_is_named(
    log: MemoryLog, clock: Clock
) -> None:
    log.create_topic("ns.replays", partitions=1, append_time=True)
    producer = log.producer()
    producer.send("ns.replays", 0, b"?")
    producer.flush()
    with pytest.raises(HeadwaterError, match=r"ns.replays\[0\]: the record at offset 0 is none"):
        Replays(log, "ns", clock)


def run(capsys: Any, *arguments: str) -> dict[str, Any]:
    assert main(["dlq", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_lists_and_replays_the_letters_of_a_folder(
    tmp_path: Path, capsys: Any, clock: Clock
) -> None:
    place = ("--folder", str(tmp_path / "store"))
    with hw.local([clicks()], clock=clock, path=tmp_path / "store") as store:
        store.push("clicks", [click(EARLY + n) for n in range(3)])
        store.push_bytes("clicks", [b"{" * 5_000])
        store.settle()
        assert main(["dlq", "list", *place]) == 78
        assert "in use" in capsys.readouterr().err
    found = run(capsys, "list", *place)
    assert found["letters"] == 4
    assert {(one["reason"], one["letters"]) for one in found["reasons"]} == {
        ("future_event_time", 3), ("not_json", 1),
    }  # fmt: skip
    (bad,) = run(capsys, "list", *place, "--reason", "not_json")["rows"]
    assert (bad["stream"], bad["partition"], bad["offset"], bad["replayed"]) == (
        "clicks", 0, 3, False,
    )  # fmt: skip
    assert len(bad["payload"]) == 1_000
    assert bad["arrival"].startswith("2023-11-14T22:13:20")
    limited = run(capsys, "list", *place, "--limit", "2")
    assert (limited["letters"], len(limited["rows"])) == (4, 2)
    assert run(capsys, "list", *place, "--since", "2023-11-15")["letters"] == 0
    assert run(capsys, "list", *place, "--since", "2023-11-14")["letters"] == 4
    only = (*place, "--stream", "clicks", "--reason", "future_event_time")
    dry = run(capsys, "replay", *only, "--dry-run")
    assert dry["streams"] == {"clicks": {"would_send": 3, "sent_before": 0}}
    assert run(capsys, "replay", *only)["streams"]["clicks"]["sent"] == 3
    again = run(capsys, "replay", *only)["streams"]["clicks"]
    assert (again["sent"], again["sent_before"]) == (0, 3)
    replayed = [row["replayed"] for row in run(capsys, "list", *place)["rows"]]
    assert replayed == [True, True, True, False]
    with hw.local([clicks()], clock=clock, path=tmp_path / "store") as store:
        assert counted(store) == 3
    assert main(["dlq", "list", *place]) == 0
    shown = capsys.readouterr().out
    assert '4 dead letters in namespace "local": 3 future_event_time in clicks' in shown
    assert main(["dlq", "list", *place, "--stream", "clack"]) == 1
    assert 'Did you mean "clicks"?' in capsys.readouterr().err
    assert main(["dlq", "list", "--folder", str(tmp_path / "nowhere")]) == 78
    assert "no store in folder" in capsys.readouterr().err
