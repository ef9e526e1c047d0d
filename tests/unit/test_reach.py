"""How far history reaches: what a new view reads, and since when nothing is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from headwater.definitions.window import window
from headwater.errors import NotFoundError
from headwater.flow.starts import Start
from headwater.kernels.rows import NO_HORIZON
from headwater.registry.reach import Reach, reach_of
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.retention import retain
from headwater_connectors.log.memory import MemoryLog

if TYPE_CHECKING:
    from pathlib import Path

HOUR_US = 3_600_000_000
NOW_US = 1_700_000_000_000_000
VALUE = b"x" * 100


def log_of(*counts: int) -> MemoryLog:
    """Return a log with so many records in each partition, one a minute, the last one now."""
    log = MemoryLog()
    log.create_topic("orders", partitions=len(counts), append_time=False)
    producer = log.producer()
    for partition, count in enumerate(counts):
        for n in range(count):
            stamp = NOW_US - (count - n) * HOUR_US // 60
            producer.send("orders", partition, VALUE, timestamp_us=stamp)
    producer.close()
    return log


def start(log: MemoryLog, complete_from_us: int = NO_HORIZON, **positions: int) -> Start:
    at = {int(name[1:]): offset for name, offset in positions.items()}
    return Start(log.topic("orders").id, at, complete_from_us)


def reach(log: MemoryLog, kept: Archive | None, stream: str, begin: Start) -> Reach:
    return reach_of(log, kept, stream, begin, now_us=NOW_US)


def archive(log: MemoryLog, folder: Path, first: int, last: int) -> Archive:
    """Return an archive of the offsets from first to last of partition 0."""
    made = Archive(FolderBlobs(folder), stamp="test")
    offsets = pl.Series(range(first, last + 1), dtype=pl.Int64)
    frame = pl.DataFrame(
        {
            "__offset": offsets,
            "__ts": offsets + 1,
            "__arrival": offsets + 1_000,
            "__raw": [VALUE] * len(offsets),
        }
    )
    topic_id = log.topic("orders").id
    made.append("orders", topic_id, 0, frame, to_offset=last, frontier_us=0, from_offset=first - 1)
    return made


def test_a_whole_topic_is_read_and_nothing_is_missing() -> None:
    log = log_of(30, 12)
    assert reach(log, None, "orders", start(log)) == Reach("orders", 42, 4_200, None)


def test_a_partition_without_records_is_no_gap() -> None:
    log = log_of(0, 3)
    assert reach(log, None, "orders", start(log)) == Reach("orders", 3, 300, None)


def test_what_is_before_the_streams_start_is_not_read() -> None:
    log = log_of(30)
    found = reach(log, None, "orders", start(log, complete_from_us=NOW_US, p0=28))
    assert (found.events, found.begins_us) == (2, NOW_US)


def test_records_that_retention_took_are_missing_from_the_first_one_that_is_there() -> None:
    log = log_of(30, 30)
    log.delete_records("orders", {0: 10, 1: 20})
    found = reach(log, None, "orders", start(log))
    assert found.events == 30
    # The later one of the two partitions decides.
    assert found.begins_us == NOW_US - 10 * HOUR_US // 60


def test_the_archive_has_what_retention_took(tmp_path) -> None:
    log = log_of(30)
    kept = archive(log, tmp_path, 0, 19)
    log.delete_records("orders", {0: 15})
    found = reach(log, kept, "orders", start(log))
    assert (found.events, found.begins_us) == (30, None)
    assert found.size_bytes > 10 * len(VALUE)


def test_an_archive_that_begins_late_says_when(tmp_path) -> None:
    log = log_of(30)
    kept = archive(log, tmp_path, 5, 19)
    log.delete_records("orders", {0: 15})
    found = reach(log, kept, "orders", start(log))
    assert (found.events, found.begins_us) == (25, 1_005)


def test_an_archive_that_retention_has_trimmed_begins_where_it_ended(tmp_path) -> None:
    log = log_of(30)
    kept = archive(log, tmp_path, 0, 9)
    offsets = pl.Series(range(10, 20), dtype=pl.Int64)
    more = pl.DataFrame(
        {"__offset": offsets, "__ts": offsets, "__arrival": offsets + 1_000}
    ).with_columns(__raw=pl.lit(VALUE))
    topic_id = log.topic("orders").id
    kept.append("orders", topic_id, 0, more, to_offset=19, frontier_us=0)
    log.delete_records("orders", {0: 15})
    whole = reach(log, kept, "orders", start(log))
    assert (whole.events, whole.begins_us) == (30, None)
    # What arrived before goes with its file.
    retain(kept, "orders", topic_id, 0, before_us=1_010, grace_us=0, now_us=NOW_US)
    found = reach(log, kept, "orders", start(log))
    assert (found.events, found.begins_us) == (20, 1_009)
    assert found.size_bytes < whole.size_bytes


def test_a_gap_between_the_archive_and_the_topic_counts_from_behind_it(tmp_path) -> None:
    log = log_of(30)
    kept = archive(log, tmp_path, 0, 9)
    log.delete_records("orders", {0: 20})
    found = reach(log, kept, "orders", start(log))
    assert found.begins_us == NOW_US - 10 * HOUR_US // 60


def test_where_nothing_is_left_history_begins_now() -> None:
    log = log_of(30)
    log.delete_records("orders", {0: 30})
    assert reach(log, None, "orders", start(log)) == Reach("orders", 0, 0, NOW_US)


def test_a_topic_that_is_not_there_is_told() -> None:
    log = MemoryLog()
    with pytest.raises(NotFoundError, match="orders"):
        reach(log, None, "orders", Start("", {}, NO_HORIZON))


def test_windows_that_lack_history_say_from_when_they_are_complete() -> None:
    windows = [window(one) for one in ("1h", "24h", "7d", "lifetime")]
    begins_us = NOW_US - 20 * HOUR_US
    read, lacking = Reach("orders", 1, 1_500, begins_us).sentences(windows, NOW_US)
    assert read == "reads 1 event of orders, about 1.5 kB"
    assert lacking == (
        "history begins at 2023-11-14 02:13:20Z: the 24h window is complete from"
        " 2023-11-15 02:13:20Z; the 7d window is complete from 2023-11-21 02:13:20Z; the lifetime"
        " window lacks what came before and stays WARMING"
    )
    assert len(Reach("orders", 2, 0, begins_us).sentences(windows[:1], NOW_US)) == 1
    assert len(Reach("orders", 2, 0, None).sentences(windows, NOW_US)) == 1
