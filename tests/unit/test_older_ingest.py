"""Records of an ingest that knows another definition of its stream: read from history instead."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import polars as pl
import pytest
from harness import BASE_US, SECOND_US, SETTINGS, Harness, click, records_of

import headwater as hw
from headwater.flow.decode import Decoder
from headwater.flow.exchange import split, wires_of
from headwater.flow.publisher import Publisher
from headwater.flow.running import CurrentPlan
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headwater.plan.plan import Plan

SCHEMA = {"user": pl.String, "page": pl.Int64, "x": pl.Float64, "at": pl.Int64}
AT_US = BASE_US + 3_000 * SECOND_US


def plan_of(*, wide: bool, **changes: Any) -> Plan:
    """Return a plan of a stream that has a column z, or not yet; with it a view that reads it."""
    schema = {**SCHEMA, "z": pl.Float64} if wide else SCHEMA
    settings = {"event_time": hw.epoch("at", "us"), "schema": schema, **changes}
    clicks = hw.stream("clicks", **settings)
    grouped = clicks.group_by(hw.entity("user", key="user")).window("lifetime")
    views = [hw.view("counts", features=grouped.agg(n=hw.count(), x=hw.sum("x")))]
    if wide:
        views.append(hw.view("sums", features=grouped.agg(z=hw.sum("z"))))
    return compile_plan([hw.service("model", views)])


OLD, NEW = plan_of(wide=False), plan_of(wide=True)


class Changed:
    """A namespace whose stream gains a column while exchange records are still to be applied."""

    def __init__(self, folder: Path) -> None:
        settings = replace(SETTINGS, poll_records_max=100)
        self.harness = Harness(OLD, folder, partitions=2, settings=settings)
        self.count = 0

    def push(self, count: int) -> None:
        rows = [{**click(n), "z": 2.0**n} for n in range(self.count, self.count + count)]
        self.harness.push(rows)
        self.count += count

    def ingest(self) -> None:
        """Send what there is to the exchange, where it stays for now."""
        for _ in range(20):
            self.harness.step(0)

    def change(self, plan: Plan = NEW) -> None:
        """Go on with another plan from the last checkpoint, as a worker that was started again."""
        self.harness.worker.checkpoints.wait()
        self.harness.worker.abandon()
        self.harness.plan = plan
        (self.harness.stream,) = plan.streams.values()
        self.harness.open()

    def values(self) -> tuple[Any, ...]:
        reader = self.harness.worker.reader
        info = reader.describe("model")
        return reader.read(info, pl.DataFrame({"user": ["a"]}), AT_US).values.row(0)

    def holes(self) -> float:
        registry = self.harness.worker.metrics.registry
        found = [
            registry.get_sample_value("headwater_exchange_holes_total", {"shard": str(shard)})
            for shard in range(SETTINGS.shards)
        ]
        return sum(one or 0 for one in found)


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Changed]:
    made = Changed(tmp_path)
    yield made
    made.harness.close()


def expected(count: int) -> tuple[Any, ...]:
    return count, float(count), 2.0**count - 1


def test_records_from_before_a_column_came_are_read_from_history(changed: Changed) -> None:
    for count in (4, 3, 3):
        changed.push(count)
        changed.ingest()
    changed.change()
    changed.harness.settle()
    assert changed.values() == expected(10)
    # One shard has the user's rows, in two lanes; each was read once, whatever the records.
    assert changed.holes() == 2
    changed.push(5)
    changed.harness.settle()
    assert changed.values() == expected(15)
    assert changed.holes() == 2


def test_a_record_says_of_which_definition_its_rows_are(changed: Changed) -> None:
    changed.push(4)
    changed.ingest()
    changed.change()
    changed.push(4)
    changed.ingest()
    (old,), (new,) = (wires_of(plan).values() for plan in (OLD, NEW))
    headers = [
        split(value)[0]
        for values in records_of(changed.harness.log, changed.harness.exchange).values()
        for value in values
    ]
    assert {one.schema for one in headers if one.rows} == {old.schema_id, new.schema_id}
    assert old.schema_id != new.schema_id


class OlderIngest:
    """An ingest of the old plan that goes on, from the start and in stretches of its own."""

    def __init__(self, harness: Harness) -> None:
        self._log = harness.log
        (stream,) = OLD.streams.values()
        self._decoder = Decoder(stream, harness.settings.namespace)
        self._producer = harness.log.producer()
        self._publisher = Publisher(
            CurrentPlan(OLD),
            harness.log.topic("clicks"),
            exchange=harness.exchange,
            shards=harness.settings.shards,
            producer=self._producer,
            published=lambda rows: None,
        )
        self._next = [0, 0]
        for partition in (0, 1):
            self._publisher.begin(partition, 0)

    def send(self, partition: int, count: int) -> None:
        """Send the next few records of a partition, where there are some."""
        consumer = self._log.consumer(None)
        first = self._next[partition]
        consumer.assign("clicks", {partition: first})
        runs = consumer.poll(count, 0.0)
        consumer.close()
        for run in runs:
            self._publisher.send([self._decoder.decode(run)])
            self._next[partition] = run.next_offset
        self._producer.flush()


@pytest.mark.parametrize("seed", range(8))
def test_an_older_ingest_beside_a_newer_one_is_put_up_with(changed: Changed, seed: int) -> None:
    """While workers are replaced one after the other both kinds of record come, overlapping."""
    chance = random.Random(seed)
    older = OlderIngest(changed.harness)
    changed.change()
    for _ in range(10):
        changed.push(3)
        for _ in range(4):
            what = chance.choice(["older", "newer", "shards"])
            if what == "older":
                older.send(chance.randrange(2), chance.randint(1, 5))
            else:
                changed.harness.step(["newer", "shards"].index(what))
    changed.harness.settle()
    assert changed.values() == expected(30)
    assert not any(shard.filling for shard in changed.harness.worker.shards.values())


def test_a_column_that_goes_is_another_definition_too(changed: Changed) -> None:
    changed.change()
    changed.push(10)
    changed.ingest()
    changed.change(OLD)
    changed.harness.settle()
    assert changed.values() == expected(10)[:2]
    assert changed.holes() == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"event_time": hw.epoch("at", "ms")},
        {"skew": "1m"},
        {"schema": {**SCHEMA, "page": pl.Int32}},
        {"schema": dict(reversed(SCHEMA.items()))},
        {"format": "avro"},
    ],
)
def test_whatever_decides_about_rows_tells_definitions_apart(changes: dict[str, Any]) -> None:
    (one,), (other,) = (wires_of(plan_of(wide=False, **each)).values() for each in ({}, changes))
    assert one.schema_id != other.schema_id


def test_where_a_stream_starts_does_not(changed: Changed) -> None:
    (one,), (other,) = (
        wires_of(plan_of(wide=False, **each)).values() for each in ({}, {"start": "latest"})
    )
    assert one.schema_id == other.schema_id


def test_what_history_brings_ahead_is_no_state_of_an_exchange_offset(changed: Changed) -> None:
    """It has the rows of records still to come: until the last is passed no answer counts."""
    for _ in range(3):
        changed.push(4)
        changed.ingest()
    changed.change()
    harness = changed.harness
    seen: list[tuple[int, bool]] = []
    task = harness.sink.stages[0]
    real = task._apply

    def one_by_one(pieces: list[Any]) -> None:
        for piece in pieces:
            real([piece])
            seen.append((piece.shard.number, piece.shard.filling))

    with patch.object(task, "_apply", one_by_one):
        harness.step(1)
    assert changed.holes() == 2
    (busy,) = {number for number, filling in seen if filling}
    states = [filling for number, filling in seen if number == busy]
    # From the first row of history to the last record whose rows it brought, without a break.
    first, last = states.index(True), len(states) - states[::-1].index(True)
    assert all(states[first:last])
    assert last - first > 4
    assert not any(shard.filling for shard in harness.worker.shards.values())


def test_an_event_that_the_new_column_refuses_is_a_dead_letter_from_history_too(
    changed: Changed,
) -> None:
    changed.push(2)
    producer = changed.harness.log.producer()
    odd = {**click(2), "z": "not a number"}
    producer.send("clicks", 0, json.dumps(odd).encode(), timestamp_us=BASE_US + SECOND_US * 9)
    producer.close()
    changed.ingest()
    changed.change()
    changed.harness.settle()
    assert changed.values() == expected(2)
