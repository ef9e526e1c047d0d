"""Ingest: lanes without holes, commits only of what every shard knows, nothing bad or lost."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from harness import BASE_US, SECOND_US, SETTINGS, Harness, click, clicks_plan, records_of

from headwater.flow.exchange import RECORD_BYTES_MAX, Header, split, wires_of
from headwater.state.lane import lane_of
from headwater_connectors.dead_letters import original_headers, read_context
from headwater_connectors.log.log import DeliveryError, DeliveryFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

INGEST, SHARDS = 0, 1
HOUR_US = 3_600 * SECOND_US


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    made: list[Harness] = []

    def build(partitions: int = 1, plan: Any = None, **changes: Any) -> Harness:
        harness = Harness(
            plan or clicks_plan(),
            tmp_path,
            partitions=partitions,
            settings=replace(SETTINGS, **changes),
        )
        made.append(harness)
        return harness

    yield build
    for harness in made:
        harness.close()


def lanes_of(harness: Harness) -> dict[tuple[int, str], list[Header]]:
    """Return the headers on the exchange that cover something, by shard and lane, in order."""
    found: dict[tuple[int, str], list[Header]] = {}
    for shard, values in records_of(harness.log, harness.exchange).items():
        for value in values:
            header, _ = split(value)
            if header.from_offset == header.to_offset:  # an announcement
                continue
            found.setdefault((shard, header.lane), []).append(header)
    return found


def committed(harness: Harness) -> dict[int, int]:
    consumer = harness.log.consumer(f"{harness.settings.namespace}.ingest")
    try:
        return consumer.committed(harness.topic)
    finally:
        consumer.close()


def send(harness: Harness, values: list[bytes | None], **more: Any) -> None:
    producer = harness.log.producer()
    stamps = more.pop("timestamps_us", [BASE_US] * len(values))
    producer.send_many(harness.topic, 0, values, timestamps_us=stamps, **more)
    producer.close()


def total(harness: Harness, user: str = "a") -> tuple[int, float | None]:
    reader = harness.worker.reader
    info = reader.describe_features(["by_user.n_lifetime", "by_user.total_lifetime"])
    import polars as pl

    answer = reader.read(info, pl.DataFrame({"user": [user]}), BASE_US + HOUR_US)
    return answer.values.row(0)


def test_nothing_is_committed_before_every_shard_and_lane_was_told(make: Any) -> None:
    harness = make(partitions=2, shards=3)
    harness.push(click(n, user=f"u{n}") for n in range(4))
    harness.publish()
    assert committed(harness) == {}
    harness.step(INGEST)  # nothing more: an idle tick
    assert committed(harness) == {0: 2, 1: 2}
    topic_id = harness.log.topic(harness.topic).id
    lanes = lanes_of(harness)
    assert set(lanes) == {
        (shard, lane_of(topic_id, binding.id, partition))
        for shard in range(3)
        for binding in harness.plan.bindings
        for partition in range(2)
    }
    assert all(headers[-1].to_offset == 1 for headers in lanes.values())


def test_a_lane_has_no_hole_and_no_overlap(make: Any) -> None:
    harness = make(partitions=2, shards=3, poll_records_max=3)
    for _ in range(4):
        harness.push(click(n, user=f"u{n}", page=None) for n in range(5))
        harness.step(INGEST)
        harness.publish()
        harness.step(INGEST)
    for headers in lanes_of(harness).values():
        ends = [-1, *(header.to_offset for header in headers)]
        assert [header.from_offset for header in headers] == ends[:-1]
        assert all(header.from_offset < header.to_offset for header in headers)


def test_a_lane_without_rows_says_whether_the_source_is_at_its_end(make: Any) -> None:
    harness = make(shards=1)
    harness.push([click(0, user=None, page=None)])
    harness.publish()
    assert lanes_of(harness) == {}
    harness.step(INGEST)
    for headers in lanes_of(harness).values():
        assert [(h.rows, h.from_offset, h.to_offset, h.at_end) for h in headers] == [
            (0, -1, 0, True)
        ]


def test_a_starting_ingest_says_where_each_lane_goes_on(make: Any) -> None:
    harness = make(shards=2, partitions=2)
    harness.push(click(n) for n in range(6))
    harness.settle()
    before = [len(values) for values in records_of(harness.log, harness.exchange).values()]
    harness.restart_ingest()
    for shard, values in records_of(harness.log, harness.exchange).items():
        said = [split(value)[0] for value in values[before[shard] :]]
        assert {(h.lane, h.from_offset, h.to_offset, h.rows) for h in said} == {
            (lane_of(h.topic_id, binding.id, partition), 2, 2, 0)
            for h in said
            for binding in harness.plan.bindings
            for partition in (0, 1)
        }


def test_a_busy_source_commits_at_intervals_too(make: Any) -> None:
    harness = make(poll_records_max=1)
    harness.push(click(n) for n in range(3))
    harness.wait(SECOND_US)
    harness.step(INGEST)
    assert committed(harness) == {0: 1}
    assert not any(h.at_end for headers in lanes_of(harness).values() for h in headers)


def test_a_failed_delivery_ends_the_task_and_commits_nothing(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make()
    harness.push([click(0)])

    def fail() -> None:
        raise DeliveryError(DeliveryFailure(harness.exchange, 0, 1, "no space"))

    with monkeypatch.context() as patch:
        patch.setattr(harness.worker._producer, "flush", fail)
        with pytest.raises(DeliveryError, match="no space"):
            harness.step(INGEST)
    assert committed(harness) == {}
    harness.restart_ingest()
    harness.settle()
    assert total(harness) == (1, 1.0)


def test_a_restart_sends_again_from_the_commit_and_nothing_counts_twice(make: Any) -> None:
    harness = make(shards=1, poll_records_max=2)
    harness.push(click(n) for n in range(4))
    harness.publish()
    for _ in range(3):
        harness.step(SHARDS)
    assert total(harness) == (2, 2.0)
    harness.restart_ingest()  # two rows are on the exchange and not committed
    harness.settle()
    assert total(harness) == (4, 4.0)
    for headers in lanes_of(harness).values():
        assert sum(header.rows for header in headers) == 6


def test_many_rows_are_split_into_records_that_cover_them_once(make: Any) -> None:
    harness = make(shards=1, poll_records_max=40_000)
    send(harness, [json.dumps(click(0, user="a", page=n % 7)).encode() for n in range(20_000)])
    harness.step(INGEST)
    for headers in lanes_of(harness).values():
        rows = [header.rows for header in headers if header.rows]
        assert sum(rows) == 20_000
        assert max(rows) <= 8192
        assert [h.from_offset for h in headers] == [-1, *(h.to_offset for h in headers)][:-1]
    harness.settle()
    assert total(harness) == (20_000, 20_000.0)


def test_every_record_is_below_half_a_mebibyte(make: Any) -> None:
    harness = make(shards=2, poll_records_max=100)
    users = [chr(97 + n) * 90_000 for n in range(12)]
    send(harness, [json.dumps(click(0, user=users[n % 12])).encode() for n in range(40)])
    harness.settle()
    values = [v for part in records_of(harness.log, harness.exchange).values() for v in part]
    assert max(map(len, values)) < RECORD_BYTES_MAX
    assert max(map(len, values)) > RECORD_BYTES_MAX // 4  # and not one by one
    assert sum(total(harness, user)[0] for user in users) == 40


@pytest.mark.parametrize("characters", [150_000, 191_000, 250_000, 400_000, 505_000])
def test_a_row_too_large_for_one_record_is_a_dead_letter(make: Any, characters: int) -> None:
    harness = make(shards=1)
    long = "k" * characters
    send(harness, [json.dumps(click(0, user=user)).encode() for user in ("a", long, "a")])
    harness.settle()
    values = records_of(harness.log, harness.exchange)[0]
    assert max(map(len, values)) < RECORD_BYTES_MAX
    assert total(harness) == (2, 2.0)
    dead = records_of(harness.log, "clicks.dlq")[0]
    assert (total(harness, long)[0], len(dead)) == ((1, 0) if characters < 192_000 else (0, 1))


GOOD = json.dumps(click(0)).encode()
BAD = [
    (b"{", "not_json"),
    (b"\xff\xfe", "not_utf8"),
    (b"[1]", "not_an_object"),
    (b"", "empty"),
    (None, "tombstone"),
    (b'{"x": "text", "at": 1}', "wrong_type"),
    (b'{"user": "a"}', "no_event_time"),
    (b'{"user": "a", "at": null}', "no_event_time"),
    (json.dumps({"user": "a", "at": BASE_US + HOUR_US}).encode(), "future_event_time"),
    (json.dumps({"user": "a", "at": BASE_US + 300 * SECOND_US + 1}).encode(), "future_event_time"),
    (json.dumps({"user": "a", "at": 253_402_300_800_000_000}).encode(), "event_time_range"),
    (json.dumps({"user": "a", "at": -62_135_596_800_000_001}).encode(), "event_time_range"),
    (json.dumps({"user": "a", "at": -(2**63)}).encode(), "no_event_time"),
    (b'{"user": "' + b"a" * 600_000 + b'"}', "oversized"),
]


def test_bad_records_are_kept_whole_and_good_ones_go_through(make: Any) -> None:
    harness = make(poll_records_max=100)
    values = [GOOD, *(v for value, _ in BAD for v in (value, GOOD))]
    send(
        harness,
        values,
        keys=[b"key %d" % n for n in range(len(values))],
        headers=[(("trace", b"%d" % n), ("trace", b"twice")) for n in range(len(values))],
    )
    harness.settle()
    assert total(harness)[0] == len(BAD) + 1

    consumer = harness.log.consumer(None)
    consumer.assign("clicks.dlq", {0: 0})
    (letters,) = consumer.poll(1_000, 0.0)
    assert len(letters) == len(BAD)
    for n, (value, reason) in enumerate(BAD):
        offset = 2 * n + 1
        context = read_context(letters.headers[n])
        assert (context.topic, context.partition, context.offset) == ("clicks", 0, offset)
        assert (context.stage, context.reason) == ("decode", reason)
        assert context.message
        assert letters.values[n] == value
        assert letters.keys[n] == b"key %d" % offset
        assert original_headers(letters.headers[n]) == (
            ("trace", b"%d" % offset),
            ("trace", b"twice"),
        )
        assert letters.timestamps_us[n] == BASE_US
    consumer.close()

    registry = harness.worker.metrics.registry
    for reason in {reason for _, reason in BAD}:
        labels = {"topic": "clicks", "reason": reason}
        counted = registry.get_sample_value("headwater_dead_letters_total", labels)
        assert counted == [r for _, r in BAD].count(reason)
    labels = {"topic": "clicks", "outcome": "decoded"}
    assert registry.get_sample_value("headwater_rows_total", labels) == len(BAD) + 1


def test_an_event_exactly_at_the_skew_and_times_at_the_calendars_ends_are_good(make: Any) -> None:
    harness = make()
    ats = [BASE_US + 300 * SECOND_US, -62_135_596_800_000_000, 0, -1]
    send(harness, [json.dumps({"user": "a", "x": 1.0, "at": at}).encode() for at in ats])
    last = 253_402_300_799_999_999
    send(harness, [json.dumps({"user": "z", "at": last}).encode()], timestamps_us=[last])
    harness.settle()
    assert total(harness) == (4, 4.0)
    assert records_of(harness.log, "clicks.dlq")[0] == []


def test_a_null_key_leaves_only_its_own_entity_out(make: Any) -> None:
    harness = make(shards=1)
    harness.push([click(0, user=None, page=3), click(1, user="a", page=None)])
    harness.settle()
    rows = {lane: sum(h.rows for h in headers) for (_, lane), headers in lanes_of(harness).items()}
    assert sorted(rows.values()) == [1, 1]
    assert total(harness) == (1, 1.0)


def test_ingest_waits_while_too_many_rows_are_not_applied(make: Any) -> None:
    harness = make(poll_records_max=4, backlog_rows_max=5)
    harness.push(click(n) for n in range(20))
    for _ in range(5):
        harness.step(INGEST)
    # Each row goes to two entities: four records are eight rows, and more than five wait.
    assert sum(h.rows for hs in lanes_of(harness).values() for h in hs) == 8
    assert harness.worker.metrics.registry.get_sample_value("headwater_backlog_rows") == 8
    for _ in range(4):
        harness.step(SHARDS)
    harness.step(INGEST)
    assert sum(h.rows for hs in lanes_of(harness).values() for h in hs) > 8
    harness.settle()
    assert total(harness) == (20, 20.0)


def test_a_paused_source_never_looks_like_its_end(make: Any) -> None:
    harness = make(poll_records_max=4, backlog_rows_max=1)
    harness.push(click(n) for n in range(20))
    for _ in range(3):
        harness.wait(SECOND_US)
        harness.step(INGEST)
    assert not any(h.at_end for headers in lanes_of(harness).values() for h in headers)


def test_a_stream_that_starts_later_begins_its_lanes_there(make: Any) -> None:
    harness = make()
    harness.push(click(n) for n in range(3))
    other = make(plan=clicks_plan())  # a second log: resolved before anything was pushed
    assert other.starts["clicks"].positions == {0: 0}
    start = replace_positions(harness, {0: 2})
    harness.starts = start
    harness.crash()
    harness.step(INGEST)
    harness.step(INGEST)
    for headers in lanes_of(harness).values():
        assert (headers[0].from_offset, headers[-1].to_offset) == (1, 2)
    harness.settle()
    assert total(harness) == (1, 1.0)


def replace_positions(harness: Harness, positions: dict[int, int]) -> Any:
    from headwater.flow.starts import Start

    known = harness.starts["clicks"]
    return {"clicks": Start(known.topic_id, positions, known.complete_from_us)}


def test_wires_exist_for_every_binding() -> None:
    plan = clicks_plan()
    assert set(wires_of(plan)) == {binding.id for binding in plan.bindings}
