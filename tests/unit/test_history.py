"""History: what a shard has missed is read again from the source, and the values are the same."""

from __future__ import annotations

import json
import random
import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import polars as pl

import headwater as hw
from headwater.flow.decode import Decoder
from headwater.flow.history import History
from headwater.flow.running import CurrentPlan
from headwater.flow.settings import WorkerSettings
from headwater.flow.starts import Start
from headwater.offline.sources import ArchiveEvents
from headwater.plan.plan import compile_plan
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.log.memory import MemoryLog

if TYPE_CHECKING:
    from pathlib import Path

    from headwater.plan.plan import Plan

BEGIN = datetime(2024, 3, 1, tzinfo=UTC)

payments = hw.stream(
    "payments",
    schema={"user": pl.String, "shop": pl.Int64, "amount": pl.Float64, "at": pl.Int64},
    event_time=hw.epoch("at", "us"),
)
by_user = hw.view(
    "by_user",
    features=payments.group_by(hw.entity("user", key="user"))
    .window("1h", "lifetime")
    .agg(n=hw.count(), total=hw.sum("amount")),
)
largest = hw.view(
    "largest",
    features=payments.filter(pl.col("amount") > 10)
    .group_by(hw.entity("user", key="user"))
    .window("1d")
    .agg(top=hw.max("amount")),
)
by_shop = hw.view(
    "by_shop",
    features=payments.group_by(hw.entity("shop", key="shop")).window("1d").agg(seen=hw.count()),
)
ONE = [hw.service("model", [by_user])]
ALL = [hw.service("model", [by_user, largest, by_shop])]
KEYS = {"user": [f"u{i}" for i in range(8)], "shop": list(range(8))}
AT = BEGIN + timedelta(hours=3)


def events(seed: int, count: int = 300) -> pl.DataFrame:
    chance = random.Random(seed)
    start = int(BEGIN.timestamp() * 1_000_000)
    return pl.DataFrame(
        {
            "user": [f"u{chance.randrange(8)}" for _ in range(count)],
            "shop": [chance.randrange(8) for _ in range(count)],
            "amount": [chance.uniform(-50, 50) for _ in range(count)],
            "at": [start + chance.randrange(3 * 3_600_000_000) for _ in range(count)],
        }
    )


def expected() -> pl.DataFrame:
    with hw.local(ALL) as store:
        for seed in (1, 2):
            store.push("payments", events(seed))
        store.settle()
        return store.online("model", at=AT, **KEYS)


def test_a_view_added_to_a_folder_is_built_from_the_start(tmp_path: Path) -> None:
    with hw.local(ONE, path=tmp_path / "store", partitions=2) as store:
        store.push("payments", events(1))
        store.settle()
    with hw.local(ALL, path=tmp_path / "store", partitions=2) as store:
        store.settle()
        store.push("payments", events(2))
        store.settle()
        assert store.online("model", at=AT, **KEYS).equals(expected())
    with hw.local(ALL, path=tmp_path / "store", partitions=2) as store:
        assert store.online("model", at=AT, **KEYS).equals(expected())


def test_a_view_left_out_and_taken_in_again_is_complete(tmp_path: Path) -> None:
    with hw.local(ALL, path=tmp_path / "store") as store:
        store.push("payments", events(1))
        store.settle()
    with hw.local(ONE, path=tmp_path / "store") as store:
        store.push("payments", events(2))
        store.settle()
    with hw.local(ALL, path=tmp_path / "store") as store:
        store.settle()
        assert store.online("model", at=AT, **KEYS).equals(expected())


def test_a_shard_whose_state_is_gone_is_rebuilt(tmp_path: Path) -> None:
    with hw.local(ALL, path=tmp_path / "store") as store:
        store.push("payments", events(1))
        store.settle()
        store.push("payments", events(2))
        store.settle()
    # The exchange has forgotten what the checkpoints held: only the source topic is left.
    shutil.rmtree(tmp_path / "store" / "state" / "shard-001")
    with hw.local(ALL, path=tmp_path / "store") as store:
        store.settle()
        assert store.online("model", at=AT, **KEYS).equals(expected())
        holes = store.worker.metrics.registry.get_sample_value
        assert holes("headwater_exchange_holes_total", {"shard": "1"}) == 2.0
        assert holes("headwater_exchange_holes_total", {"shard": "0"}) is None


def test_what_the_topic_has_forgotten_comes_from_the_archive(tmp_path: Path) -> None:
    with hw.local(ONE, path=tmp_path / "store", partitions=2) as store:
        store.push("payments", events(1))
        store.settle()
    with hw.local(ONE, path=tmp_path / "store", partitions=2) as store:
        store.push("payments", events(2))
        store.settle()
        # The last events are in the topic alone: the archive hasn't got to them yet.
        log = store.worker.log
        ends = log.end_offsets("payments")
        archived = [store.worker.archive.position("payments", log.topic("payments").id, p) or 0
                    for p in range(2)]  # fmt: skip
        assert all(0 < at + 1 < end for at, end in zip(archived, ends, strict=True))
        log.delete_records("payments", {p: at + 1 for p, at in enumerate(archived)})
    with hw.local(ALL, path=tmp_path / "store", partitions=2) as store:
        store.settle()
        assert store.online("model", at=AT, **KEYS).equals(expected())


SHOPS = hw.stream(
    "shops", schema={"shop": pl.Int64, "at": pl.Int64}, event_time=hw.epoch("at", "us")
)
WITH_CITY = hw.stream(
    "shops",
    schema={"shop": pl.Int64, "at": pl.Int64, "city": pl.String},
    event_time=hw.epoch("at", "us"),
)


def plan_of(stream: hw.Stream) -> Plan:
    by_shop = stream.group_by(hw.entity("shop", key="shop")).window("1d").agg(seen=hw.count())
    return compile_plan([hw.view("by_shop", features=by_shop)])


def test_a_column_that_came_later_is_read_from_raw_records(tmp_path: Path) -> None:
    at = int(BEGIN.timestamp() * 1_000_000)
    log = MemoryLog(clock=lambda: at)
    topic = log.create_topic("shops", partitions=1, append_time=False)
    producer = log.producer()
    for number in range(10):
        value = {"shop": number, "at": at, "city": f"c{number}"}
        producer.send("shops", 0, json.dumps(value).encode(), timestamp_us=at)
    producer.flush()
    archive = Archive(FolderBlobs(tmp_path), stamp="s")
    consumer = log.consumer(None)
    # A worker that doesn't know the column yet writes once more after one that does.
    for stream, first, last in (
        (SHOPS, 0, 2), (WITH_CITY, 2, 3), (SHOPS, 3, 4), (WITH_CITY, 4, 8),
    ):  # fmt: skip
        consumer.assign("shops", {0: first})
        (records,) = consumer.poll(100, 0.0)
        rows = Decoder(stream, "test").decode(records).frame
        raw = pl.Series("__raw", list(records.values), pl.Binary)
        archive.append(
            "shops", topic.id, 0, rows.with_columns(raw)[: last - first],
            from_offset=first - 1, to_offset=last - 1, frontier_us=at,
        )  # fmt: skip
    plan = plan_of(WITH_CITY)
    starts = {"shops": Start(topic.id, {}, 0)}
    settings = WorkerSettings(namespace="test", shards=1)
    history = History(CurrentPlan(plan), log, settings, starts, None, archive)
    (binding,) = plan.bindings
    # The first 4 from raw records, the next from typed columns, the last from the topic.
    log.delete_records("shops", {0: 8})
    pieces = list(history.read(binding.id, 0, (0, 9), rows_max=3))
    rows = pl.concat([pl.DataFrame(pl.from_arrow(piece.of_shard(0))) for piece in pieces])
    assert rows["city"].to_list() == [f"c{n}" for n in range(1, 10)]
    assert rows["__offset"].to_list() == [*range(1, 10)]
    source = ArchiveEvents(archive, archive.snapshot({"shops": topic.id}))
    archived = pl.concat([frame for _, frame in source.scan(WITH_CITY, ["city"])])
    assert archived["city"].to_list() == [f"c{n}" for n in range(8)]
    assert [(p.after, p.upto) for p in pieces] == list(pairwise([0, *(p.upto for p in pieces)]))
    assert max(piece.keyed.rows.num_rows for piece in pieces) <= 3


def test_events_that_no_window_needs_are_not_read_again(tmp_path: Path) -> None:
    at = int(BEGIN.timestamp() * 1_000_000)
    log = MemoryLog(clock=lambda: at)
    topic = log.create_topic("shops", partitions=1, append_time=False)
    producer = log.producer()
    for number in range(12):
        value = json.dumps({"shop": number, "at": at + number}).encode()
        producer.send("shops", 0, value, timestamp_us=at)
    producer.flush()
    archive = Archive(FolderBlobs(tmp_path), stamp="s")
    consumer = log.consumer(None)
    consumer.assign("shops", {0: 0})
    (records,) = consumer.poll(100, 0.0)
    rows = Decoder(SHOPS, "test").decode(records).frame
    raw = pl.Series("__raw", list(records.values), pl.Binary)
    for first in (0, 4):
        archive.append(
            "shops", topic.id, 0, rows.with_columns(raw)[first : first + 4],
            from_offset=first - 1, to_offset=first + 3, frontier_us=at,
        )  # fmt: skip
    # The first file isn't opened: nobody would notice that it is gone.
    min(tmp_path.rglob("*.parquet")).unlink()
    log.delete_records("shops", {0: 8})
    plan = plan_of(SHOPS)
    starts = {"shops": Start(topic.id, {}, 0)}
    settings = WorkerSettings(namespace="test", shards=1)
    history = History(CurrentPlan(plan), log, settings, starts, None, archive)
    (binding,) = plan.bindings
    pieces = list(history.read(binding.id, 0, (-1, 11), rows_max=2, since_us=at + 6))
    found = pl.concat([pl.DataFrame(pl.from_arrow(piece.of_shard(0))) for piece in pieces])
    assert found["__offset"].to_list() == [6, 7, 8, 9, 10, 11]
    # Offsets are covered all the same, without a gap.
    assert [(p.after, p.upto) for p in pieces] == list(pairwise([-1, *(p.upto for p in pieces)]))
    assert pieces[-1].upto == 11
    late = list(history.read(binding.id, 0, (7, 11), rows_max=2, since_us=at + 10))
    assert sum(piece.keyed.rows.num_rows for piece in late) == 2
