"""The archive on a store that fails, hangs, loses answers, or says no to what it did."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from archive_harness import ID, TOPIC, add, offsets, rows
from faulty_blobs import FAULTS, FaultyBlobs
from hypothesis import given
from hypothesis import strategies as st
from object_store_server import BUCKET, options_of, s3_server, silent_server

from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.compaction import Sizes, compact
from headwater_connectors.archive.errors import (
    ArchiveConflictError,
    ArchiveError,
    StoreUnavailableError,
)
from headwater_connectors.archive.location import blobs_of
from headwater_connectors.archive.retention import retain
from headwater_connectors.archive.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable

DAY_US = 86_400_000_000


def persist(call: Callable[[], object], tries: int = 4) -> None:
    """Do something as a worker does: what the store didn't take is tried again."""
    for _ in range(tries - 1):
        try:
            call()
        except (StoreUnavailableError, ArchiveConflictError):
            continue
        return
    call()


def extend(archive: Archive, to_offset: int) -> None:
    """Append rows up to an offset from wherever the archive is, as an archive task does."""
    at = archive.position(TOPIC, ID, 0)
    done = -1 if at is None else at
    if done < to_offset:
        archive.append(
            TOPIC,
            ID,
            0,
            rows(done + 1, to_offset - done),
            from_offset=done,
            to_offset=to_offset,
            frontier_us=0,
        )


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", range(1, 13))
def test_a_writer_comes_through_a_fault_without_gap_or_double(fault: str, at: int) -> None:
    blobs = FaultyBlobs()
    archive = Archive(blobs, stamp="s")
    blobs.break_at(at, fault)
    for end in (2, 5, 8):
        persist(lambda end=end: extend(archive, end))
        assert offsets(Archive(FaultyBlobs(blobs._store), stamp="s")) == list(range(end + 1))
    assert blobs.met == 1
    found = verify(archive, TOPIC, ID, 0)
    assert (found.rows, found.problems) == (9, [])


@pytest.mark.parametrize("fault", ["fails", "hangs"])
def test_a_reader_gets_all_rows_or_an_error_that_names_the_object(fault: str) -> None:
    blobs = FaultyBlobs()
    archive = Archive(blobs, stamp="s")
    for _ in range(3):
        add(archive, 3)
    reader = Archive(blobs, stamp="s")
    blobs.break_at(10**9, fault)
    offsets(reader)
    for at in range(1, blobs.calls + 1):
        blobs.break_at(at, fault)
        with pytest.raises(StoreUnavailableError, match=r"s3://shop/flights/a1/.*see whether"):
            offsets(Archive(blobs, stamp="s"))
        assert offsets(Archive(blobs, stamp="s")) == list(range(9))


def test_a_store_that_goes_on_failing_is_an_error_within_a_few_calls() -> None:
    blobs = FaultyBlobs()
    archive = Archive(blobs, stamp="s")
    add(archive, 3)
    blobs.break_at(1, "fails", times=10**9)
    with pytest.raises(StoreUnavailableError):
        persist(lambda: extend(archive, 8))
    assert blobs.calls < 20
    blobs.at = None
    extend(archive, 8)
    assert offsets(archive) == list(range(9))


@given(st.integers(1, 60), st.sampled_from(FAULTS), st.integers(1, 3))
def test_compaction_and_retention_come_through_a_fault(at: int, fault: str, times: int) -> None:
    blobs = FaultyBlobs()
    archive = Archive(blobs, stamp="s")
    for _ in range(6):
        add(archive, 3)
    blobs.break_at(at, fault, times)
    sizes = Sizes(file_rows=9)
    for day in range(3):
        now_us = day * DAY_US
        visit = {"before_us": 5_000, "grace_us": DAY_US, "now_us": now_us}
        persist(partial(compact, archive, TOPIC, ID, 0, now_us=now_us, sizes=sizes), 9)
        persist(partial(retain, archive, TOPIC, ID, 0, **visit), 9)
        blobs.at = None if day else blobs.at
        found = offsets(Archive(FaultyBlobs(blobs._store), stamp="s"))
        assert found == list(range(found[0], 18))
        assert found[0] in {0, 3, 9}
    assert verify(Archive(blobs, stamp="s"), TOPIC, ID, 0).problems == []


def test_a_store_that_never_answers_is_an_error_of_the_archive_too() -> None:
    few = {"client.timeout": "100ms", "retry.max_retries": "0"}
    with silent_server() as endpoint:
        archive = Archive(blobs_of("s3://shop/a", options_of(endpoint, **few)), stamp="s")
        for call in (lambda: add(archive, 3), lambda: offsets(archive)):
            with pytest.raises(StoreUnavailableError, match="see whether the store can be reached"):
                call()


def test_history_is_kept_compacted_and_trimmed_on_an_s3_server() -> None:
    with s3_server() as endpoint:
        archive = Archive(blobs_of(f"s3://{BUCKET}/a", options_of(endpoint)), stamp="s")
        for _ in range(5):
            add(archive, 40)
        add(archive, 3, partition=1)
        compact(archive, TOPIC, ID, 0, now_us=0, sizes=Sizes(file_rows=100))
        told = retain(archive, TOPIC, ID, 0, before_us=90_000, grace_us=1, now_us=5)
        assert (told.dropped_rows, told.begin) == (80, 79)
        assert retain(archive, TOPIC, ID, 0, before_us=None, grace_us=1, now_us=9).deleted_files
        other = Archive(blobs_of(f"s3://{BUCKET}/a", options_of(endpoint)), stamp="s")
        assert other.partitions() == [(TOPIC, ID, 0), (TOPIC, ID, 1)]
        assert offsets(other) == [*range(80, 200), 0, 1, 2]
        assert verify(other, TOPIC, ID, 0).problems == []
        with pytest.raises(ArchiveError, match="begins after offset 79 now"):
            offsets(other, stretches={0: (-1, 100)})
