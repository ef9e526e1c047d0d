from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from faulty_blobs import FAULTS, FaultyBlobs
from harness import BASE_US, click, clicks_plan

import headwater as hw
from headwater.flow.archive_care import CareSettings
from headwater.flow.archive_task import ArchiveTask
from headwater.flow.decode import Decoder
from headwater.flow.metrics import Metrics
from headwater.flow.pipeline import Tick
from headwater.flow.running import CurrentPlan, Running
from headwater.flow.starts import resolve_start
from headwater.plan.plan import compile_plan
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.errors import ArchiveConflictError
from headwater_connectors.log.memory import MemoryLog

if TYPE_CHECKING:
    from pathlib import Path

WAIT_US = 10_000_000


class Writer:
    """An archive task over its own consumer, and the archive that it shares with others."""

    def __init__(
        self, log: MemoryLog, folder: Path | FaultyBlobs, care: CareSettings | None = None
    ) -> None:
        self.current = CurrentPlan(clicks_plan())
        (stream,) = self.current.plan.streams.values()
        self.topic = log.topic(stream.topic)
        blobs = folder if isinstance(folder, FaultyBlobs) else FolderBlobs(folder)
        self.archive = Archive(blobs, stamp="test")
        self.consumer = log.consumer("archive")
        self.metrics = Metrics()
        self.task = ArchiveTask(
            Decoder(stream, "test"),
            self.current,
            archive=self.archive,
            consumer=self.consumer,
            metrics=self.metrics,
            start=resolve_start(log, stream, lambda: BASE_US),
            care=care or CareSettings(),
            ends=lambda: log.end_offsets(stream.topic),
        )
        self.consumer.assign(stream.topic, self.task.assigned([0]))

    def take(self, now_us: int = 0) -> None:
        self.task([*self.consumer.poll(100, 0.0), Tick(now_us, idle=False)])

    def write(self, now_us: int) -> None:
        """Let what was taken become old enough to be written."""
        self.task([Tick(now_us + WAIT_US, idle=False)])

    def offsets(self) -> list[int]:
        found = self.archive.scan(self.topic.name, self.topic.id, columns=["x"])
        return [offset for _, frame in found for offset in frame["__offset"].to_list()]


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog(clock=lambda: BASE_US)
    log.create_topic("clicks", partitions=1, append_time=False)
    return log


def test_a_stream_that_gains_a_column_is_archived_with_it_from_the_next_file_on(
    log: MemoryLog, tmp_path: Path
) -> None:
    writer = Writer(log, tmp_path)
    push(log, 2, y=1)
    writer.take()
    (stream,) = writer.current.plan.streams.values()
    wider = replace(stream, schema=dict(stream.schema) | {"y": pl.Int64()})
    user = hw.entity("user", key="user")
    view = hw.view("ys", features=wider.group_by(user).window("1h").agg(y=hw.sum("y")))
    writer.current.now = Running.of(compile_plan([view]), 2)
    push(log, 3, y=2)
    writer.take()
    writer.write(0)
    (one, two) = writer.archive.manifests(writer.topic.name, writer.topic.id, 0)
    assert ("y" in one.columns, "y" in two.columns) == (False, True)
    assert (one.to_offset, two.to_offset) == (1, 4)
    assert writer.offsets() == [0, 1, 2, 3, 4]


def push(log: MemoryLog, count: int, **changes: Any) -> None:
    producer = log.producer()
    for second in range(count):
        value = json.dumps({**click(second), **changes}).encode()
        producer.send("clicks", 0, value, timestamp_us=BASE_US + count * 1_000_000)
    producer.flush()


def test_what_a_worker_that_stood_still_has_written_is_left_out(log, tmp_path) -> None:
    push(log, 3)
    before, owner = Writer(log, tmp_path), Writer(log, tmp_path)
    before.take()
    push(log, 4)
    owner.take()
    # It goes on before it hears that the partition isn't its own any more.
    before.write(0)
    owner.write(0)
    assert owner.offsets() == list(range(7))
    assert owner.task.archived == {0: 6}
    assert owner.metrics.archived_rows.labels("clicks")._value.get() == 4
    push(log, 2)
    owner.take(WAIT_US)
    owner.write(WAIT_US)
    assert owner.offsets() == list(range(9))


def test_a_worker_that_stood_still_writes_nothing_twice(log, tmp_path) -> None:
    push(log, 3)
    before, owner = Writer(log, tmp_path), Writer(log, tmp_path)
    before.take()
    push(log, 4)
    owner.take()
    owner.write(0)
    before.write(0)
    assert owner.offsets() == list(range(7))
    assert before.task.archived == {0: 6}
    assert before.metrics.archived_rows.labels("clicks")._value.get() == 0
    # Whichever of them goes on, nothing is missing and nothing is there twice.
    push(log, 2)
    before.take(WAIT_US)
    before.write(WAIT_US)
    assert owner.offsets() == list(range(9))


def test_one_that_writes_all_the_time_is_a_mistake_and_is_told(log, tmp_path) -> None:
    one, other = Writer(log, tmp_path), Writer(log, tmp_path)

    def both_write() -> None:
        for turn in range(20):
            push(log, 1)
            for writer in (one, other):
                writer.take(turn * WAIT_US)
            for writer in (one, other):
                writer.write(turn * WAIT_US)

    with pytest.raises(ArchiveConflictError, match="give each namespace an archive of its own"):
        both_write()


def failures(writer: Writer) -> float:
    return writer.metrics.archive_failures._value.get()


@pytest.mark.parametrize("fault", FAULTS)
def test_rows_wait_for_a_store_that_fails_and_are_then_written_once(log, fault) -> None:
    blobs = FaultyBlobs()
    writer = Writer(log, blobs)
    push(log, 3)
    writer.take()
    blobs.break_at(1, fault, times=1)
    writer.write(0)
    # It is not asked again at once.
    calls = blobs.calls
    if fault != "answer_lost":
        assert failures(writer) == 1
        writer.write(1)
        assert blobs.calls == calls
    push(log, 2)
    writer.take(WAIT_US)
    writer.write(WAIT_US)
    assert writer.offsets() == list(range(5))
    assert writer.task.archived == {0: 4}


def test_a_store_that_fails_for_long_makes_the_task_wait_with_bounded_rows(
    log, monkeypatch
) -> None:
    monkeypatch.setattr("headwater.flow.archive_task._ROWS_MAX", 4)
    blobs = FaultyBlobs()
    writer = Writer(log, blobs)
    blobs.break_at(1, "hangs", times=10**9)
    push(log, 3)
    writer.take()
    assert not writer.task.is_full()
    push(log, 3)
    writer.take()
    assert writer.task.is_full()
    writer.write(0)
    assert failures(writer) == 2
    blobs.at = None
    writer.write(WAIT_US)
    assert not writer.task.is_full()
    assert writer.offsets() == list(range(6))


def test_what_the_store_does_not_take_at_a_handover_the_next_owner_reads_again(log) -> None:
    blobs = FaultyBlobs()
    first = Writer(log, blobs)
    push(log, 3)
    first.take()
    blobs.break_at(1, "fails", times=10**9)
    first.task.revoked([0], lost=False)
    assert first.task.archived == {}
    blobs.at = None
    second = Writer(log, blobs)
    second.take()
    second.write(0)
    assert second.offsets() == [0, 1, 2]


HOUR_US = 3_600_000_000


def test_small_files_are_merged_now_and_then_and_old_ones_dropped(log, tmp_path) -> None:
    care = CareSettings(keep_us=6 * HOUR_US, grace_us=HOUR_US)
    writer = Writer(log, tmp_path, care)
    for turn in range(12):
        push(log, 2)
        writer.take(turn * WAIT_US)
        writer.write(turn * WAIT_US)
    generations = writer.archive.chain("clicks", writer.topic.id, 0).generations
    assert generations.newest() is not None
    assert len(generations.newest().files) < 12
    assert writer.offsets() == list(range(24))
    # The events arrived in 2026: much later all of them are old.
    much_later = BASE_US + 24 * HOUR_US
    writer.task([Tick(much_later, idle=True)])
    writer.task([Tick(much_later + HOUR_US, idle=True)])
    assert writer.offsets() == []
    writer.task([Tick(much_later + 3 * HOUR_US, idle=True)])
    assert list(tmp_path.rglob("*.parquet")) == []
    push(log, 1)
    writer.take(much_later + 4 * HOUR_US)
    writer.write(much_later + 4 * HOUR_US)
    assert writer.archive.position("clicks", writer.topic.id, 0) == 24


def test_events_go_on_being_archived_when_care_fails(log, tmp_path, capsys) -> None:
    writer = Writer(log, tmp_path)
    for turn in range(12):
        push(log, 2)
        writer.take(turn)
        writer.write(turn)
    for path in sorted(tmp_path.rglob("*.parquet"))[:6]:
        path.write_bytes(b"")
    writer.task([Tick(2 * HOUR_US, idle=True)])
    push(log, 2)
    writer.take(2 * HOUR_US)
    writer.write(2 * HOUR_US)
    assert writer.archive.position("clicks", writer.topic.id, 0) == 25
