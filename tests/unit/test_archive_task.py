from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from harness import BASE_US, click, clicks_plan

from headwater.flow.archive_task import ArchiveTask
from headwater.flow.decode import Decoder
from headwater.flow.metrics import Metrics
from headwater.flow.pipeline import Tick
from headwater.flow.starts import resolve_start
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.errors import ArchiveConflictError
from headwater_connectors.log.memory import MemoryLog

if TYPE_CHECKING:
    from pathlib import Path

WAIT_US = 10_000_000


class Writer:
    """An archive task over its own consumer, and the archive that it shares with others."""

    def __init__(self, log: MemoryLog, folder: Path) -> None:
        (stream,) = clicks_plan().streams.values()
        self.topic = log.topic(stream.topic)
        self.archive = Archive(FolderBlobs(folder), stamp="test")
        self.consumer = log.consumer("archive")
        self.metrics = Metrics()
        self.task = ArchiveTask(
            Decoder(stream, "test"),
            self.topic.id,
            archive=self.archive,
            consumer=self.consumer,
            metrics=self.metrics,
            start=resolve_start(log, stream, lambda: BASE_US),
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
