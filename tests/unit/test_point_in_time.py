from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater.offline import buckets, point_in_time, sources
from headwater.offline.point_in_time import Events, Reads, features_at
from headwater.offline.sources import ParquetEvents
from headwater.offline.training_set import training_set
from headwater.plan.plan import compile_plan
from headwater.state.events import event_words

HOUR_US = 3_600_000_000
ENTITIES = 40


def plan():
    stream = hw.stream(
        "events",
        schema={"key": pl.Int64, "ts": pl.Int64, "x": pl.Float64},
        event_time=hw.epoch("ts", "us"),
    )
    features = (
        stream.group_by(hw.entity("key", key="key", dtype=pl.Int64))
        .window("1h", "24h")
        .agg(n=hw.count(), total=hw.sum("x"), newest=hw.last("x"))
    )
    view = hw.view("view", version=1, owner="a@example.com", features=features)
    return compile_plan([hw.service("service", [view], owner="a@example.com")])


PLAN = plan()
LAYOUT = PLAN.views["view@1"].layout


def drawn(events: int, reads: int, *, in_order: bool = True) -> tuple[Events, Reads]:
    rng = np.random.default_rng(7)
    times = rng.integers(0, 100 * HOUR_US, events)
    if in_order:
        times.sort()
    frame = pl.DataFrame({"x": rng.normal(0.0, 1e6, events)})
    words, _ = event_words(LAYOUT, frame, times, np.arange(events))
    slots = rng.integers(0, ENTITIES - 1, events).astype(np.int32)  # the last one has no event
    asked = rng.integers(0, 101 * HOUR_US, reads)
    who = rng.integers(0, ENTITIES, reads).astype(np.int32)
    return Events(slots, words, times), Reads(who, asked, asked, ages=True)


def same(a: object, b: object) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("bits", "valid", "found"))


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize("work", [1, 200, 1 << 40])
def test_blocks_and_threads_do_not_change_a_bit(monkeypatch, cores: int, work: int) -> None:
    events, reads = drawn(3_000, 500)
    wanted = features_at(LAYOUT, ENTITIES, events, reads)
    monkeypatch.setattr(point_in_time, "_WORK_PER_BLOCK", work)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert same(features_at(LAYOUT, ENTITIES, events, reads), wanted)


def test_history_out_of_order_reads_as_history_in_order(monkeypatch) -> None:
    monkeypatch.setattr(point_in_time, "_WORK_PER_BLOCK", 500)
    events, reads = drawn(3_000, 500, in_order=False)
    order = np.argsort(events.visible, kind="stable")
    in_order = Events(events.slots[order], events.words[order], events.visible[order])
    wanted = features_at(LAYOUT, ENTITIES, in_order, reads)
    assert same(features_at(LAYOUT, ENTITIES, events, reads), wanted)


def test_an_entity_without_events_is_not_found_and_reads_as_empty() -> None:
    events, reads = drawn(3_000, 500)
    values = features_at(LAYOUT, ENTITIES, events, reads)
    last = reads.slots == ENTITIES - 1
    assert last.any()
    assert not values.found[last].any()
    assert values.found[~last].all()
    counts = [i for i, dtype in enumerate(LAYOUT.output_dtypes) if dtype.is_integer()]
    assert (values.bits[last][:, counts] == 0).all()


def features_of_frames() -> pl.DataFrame:
    events, reads = drawn(3_000, 500)
    frame = pl.DataFrame(
        {"key": events.slots.astype(np.int64), "ts": events.visible, "x": events.visible % 97}
    ).cast({"x": pl.Float64})
    spine = pl.DataFrame({"key": reads.slots.astype(np.int64), "at": reads.times})
    spine = spine.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))
    source = ParquetEvents(PLAN, {"events": frame})
    return training_set(PLAN, "service", spine, time="at", source=source).collect()


def test_batches_and_buckets_do_not_change_a_value(monkeypatch) -> None:
    wanted = features_of_frames()
    monkeypatch.setattr(sources, "_BATCH_ROWS", 100)
    assert features_of_frames().equals(wanted)
    monkeypatch.setattr(buckets, "_events_per_bucket", lambda *_: 500)
    assert features_of_frames().equals(wanted)


def test_more_events_than_the_source_said_find_room(monkeypatch) -> None:
    wanted = features_of_frames()
    monkeypatch.setattr(ParquetEvents, "rows", lambda _self, _stream: 10)
    assert features_of_frames().equals(wanted)
