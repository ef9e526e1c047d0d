from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from archive_harness import FOLDER, ID, TOPIC, add, files, offsets, open_archive, read

from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.compaction import Sizes, compact
from headwater_connectors.archive.errors import ArchiveConflictError, ArchiveError
from headwater_connectors.archive.named_snapshots import NamedSnapshots
from headwater_connectors.archive.retention import Retained, retain
from headwater_connectors.archive.snapshot import Snapshot
from headwater_connectors.archive.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

HOUR_US = 3_600_000_000
GRACE_US = 24 * HOUR_US
NOW_US = 1_000 * HOUR_US


def visit(archive: Archive, before_us: int | None = None, **options) -> Retained:
    given = {"before_us": before_us, "grace_us": GRACE_US, "now_us": NOW_US, **options}
    return retain(archive, TOPIC, ID, 0, **given)


def merge(archive: Archive, now_us: int = NOW_US) -> None:
    compact(archive, TOPIC, ID, 0, now_us=now_us, sizes=Sizes())


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Five appends of four rows; offset n arrived at 1000 n + 7."""
    archive = open_archive(tmp_path)
    for _ in range(5):
        add(archive, 4)
    return archive


def parquet(folder: Path) -> list[str]:
    return [path.name for path in files(folder, ".parquet")]


def test_whole_files_that_are_old_are_dropped_and_later_deleted(archive, tmp_path) -> None:
    told = visit(archive, before_us=9_000)
    # The third file has rows from 8007 on, so it stays.
    assert (told.begin, told.begin_us) == (7, 7_007)
    assert (told.dropped_files, told.dropped_rows, told.deleted_files) == (2, 8, 0)
    reader = open_archive(tmp_path)
    assert offsets(reader) == list(range(8, 20))
    assert reader.rows(TOPIC, ID) == 12
    assert len(parquet(tmp_path)) == 5
    assert visit(archive, now_us=NOW_US + GRACE_US - 1).deleted_files == 0
    told = visit(archive, now_us=NOW_US + GRACE_US)
    assert (told.deleted_files, told.dropped_files) == (2, 0)
    assert len(parquet(tmp_path)) == 3
    assert offsets(open_archive(tmp_path)) == list(range(8, 20))


def test_the_manifests_go_with_the_files_and_the_chain_has_a_new_beginning(
    archive, tmp_path
) -> None:
    visit(archive, before_us=13_000)
    visit(archive, now_us=NOW_US + GRACE_US)
    left = [path.name for path in files(tmp_path, ".json") if "manifests" in path.parts]
    assert left == ["0000000004.json", "0000000005.json"]
    reader = open_archive(tmp_path)
    assert [one.number for one in reader.manifests(TOPIC, ID, 0)] == [4, 5]
    assert reader.position(TOPIC, ID, 0) == 19
    found = verify(reader, TOPIC, ID, 0)
    assert (found.manifests, found.files, found.rows, found.problems) == (2, 2, 8, [])
    assert reader.beginning(TOPIC, ID, 0).after_offset == 11
    # The chain is held together: another oldest manifest is noticed.
    (tmp_path / FOLDER / "manifests/0000000004.json").unlink()
    with pytest.raises(ArchiveError, match=r"0000000004\.json is missing; restore"):
        list(open_archive(tmp_path).manifests(TOPIC, ID, 0))


@pytest.mark.parametrize("hint", [None, b"torn", b"2 1ad5be0d\n"])
def test_a_trimmed_partition_is_found_without_its_hint(archive, tmp_path, hint) -> None:
    visit(archive, before_us=13_000)
    visit(archive, now_us=NOW_US + GRACE_US)
    path = tmp_path / FOLDER / "LATEST"
    path.unlink()
    if hint is not None:
        path.write_bytes(hint)
    reader = open_archive(tmp_path)
    assert reader.position(TOPIC, ID, 0) == 19
    assert offsets(reader) == list(range(12, 20))
    add(reader, 2)
    assert offsets(open_archive(tmp_path)) == list(range(12, 22))


def test_who_asks_for_what_was_dropped_hears_where_history_begins(archive) -> None:
    snapshot = archive.snapshot({TOPIC: ID})
    visit(archive, before_us=9_000)
    begins = r"came up to 1970-01-01 00:00:00 UTC: history of flights\[0\] begins after offset 7"
    with pytest.raises(ArchiveError, match=rf"offsets \(3, 12\) of .*{begins}"):
        offsets(archive, stretches={0: (3, 12)})
    assert offsets(archive, stretches={0: (7, 12)}) == list(range(8, 13))
    with pytest.raises(ArchiveError, match=rf"snapshot {TOPIC}@.* can't be read .*{begins}"):
        offsets(archive, snapshot=snapshot)
    with pytest.raises(ArchiveError, match=begins):
        archive.rows(TOPIC, ID, snapshot)
    again = archive.snapshot({TOPIC: ID})
    assert str(again).startswith(f"{TOPIC}@{ID}:5/7~")
    assert offsets(archive, snapshot=Snapshot.parse(str(again))) == list(range(8, 20))


def test_a_snapshot_whose_manifest_is_gone_hears_it_too(archive, tmp_path) -> None:
    early = open_archive(tmp_path / "early")
    add(early, 4)
    snapshot = early.snapshot({TOPIC: ID})
    visit(archive, before_us=13_000)
    visit(archive, now_us=NOW_US + GRACE_US)
    with pytest.raises(ArchiveError, match="begins after offset 11 now"):
        offsets(open_archive(tmp_path), snapshot=snapshot)


def test_a_named_snapshot_keeps_what_it_needs_until_it_is_removed(archive, tmp_path) -> None:
    named = NamedSnapshots(archive)
    taken = named.take("model-7", {TOPIC: ID}, NOW_US)
    before = read(archive, snapshot=Snapshot.parse(taken.snapshot), raw=True)
    add(archive, 4)
    told = visit(archive, before_us=NOW_US)
    assert (told.dropped_files, told.held_by) == (0, ("model-7",))
    merge(archive)
    visit(archive, before_us=NOW_US, now_us=NOW_US + 2 * GRACE_US)
    # The small files are gone, the rows are not.
    assert len(parquet(tmp_path)) == 1
    kept = Snapshot.parse(NamedSnapshots(open_archive(tmp_path)).get("model-7").snapshot)
    assert read(open_archive(tmp_path), snapshot=kept, raw=True).equals(before)
    named.remove("model-7")
    assert visit(archive, before_us=NOW_US).dropped_files == 1
    assert offsets(archive) == []
    assert archive.position(TOPIC, ID, 0) == 23
    add(archive, 2)
    assert offsets(open_archive(tmp_path)) == [24, 25]


def test_a_snapshot_named_while_retention_runs_gets_its_rows_back(archive, tmp_path) -> None:
    class Slow(FolderBlobs):
        taken = None

        def put_if_absent(self, name, data):
            if "/generations/" in name and Slow.taken is None:
                other = NamedSnapshots(open_archive(tmp_path))
                Slow.taken = other.take("just-now", {TOPIC: ID}, NOW_US)
            super().put_if_absent(name, data)

    told = visit(Archive(Slow(tmp_path, durable=False), stamp="s"), before_us=9_000)
    assert told.dropped_files == 0
    reader = open_archive(tmp_path)
    assert offsets(reader, snapshot=Snapshot.parse(Slow.taken.snapshot)) == list(range(20))
    assert offsets(reader) == list(range(20))
    assert verify(reader, TOPIC, ID, 0).problems == []


def test_a_snapshot_named_while_history_is_cut_is_taken_again(archive, tmp_path) -> None:
    class Slow(FolderBlobs):
        done = False

        def put_if_absent(self, name, data):
            if name.startswith("named=") and not Slow.done:
                Slow.done = True
                visit(open_archive(tmp_path), before_us=9_000)
            super().put_if_absent(name, data)

    named = NamedSnapshots(Archive(Slow(tmp_path, durable=False), stamp="s"))
    taken = Snapshot.parse(named.take("just-now", {TOPIC: ID}, NOW_US).snapshot)
    assert offsets(open_archive(tmp_path), snapshot=taken) == list(range(8, 20))


def test_names_are_told_apart_and_mistakes_said(archive, tmp_path) -> None:
    named = NamedSnapshots(archive)
    named.take("b", {TOPIC: ID}, 5)
    named.take("a", {TOPIC: ID}, 6)
    assert [(one.name, one.taken_us) for one in named.all()] == [("a", 6), ("b", 5)]
    add(archive, 1)
    with pytest.raises(ArchiveError, match='"a" exists already; choose another name'):
        named.take("a", {TOPIC: ID}, 7)
    with pytest.raises(ArchiveError, match='no snapshot "model" in the archive'):
        named.remove("model")
    with pytest.raises(ArchiveError, match="can't name a snapshot"):
        named.take("a/b", {TOPIC: ID}, 7)
    (path, _) = files(tmp_path / "named=snapshots", ".json")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(ArchiveError, match=r'snapshot "a" .*is torn.*nothing is retained until'):
        visit(archive, before_us=NOW_US)
    assert offsets(archive) == list(range(21))


def test_a_dry_run_tells_and_changes_nothing(archive, tmp_path) -> None:
    merge(archive)
    add(archive, 4)
    names = files(tmp_path, "")
    told = visit(archive, before_us=NOW_US, dry_run=True)
    assert (told.dropped_files, told.dropped_rows, told.begin) == (2, 24, 23)
    told = visit(archive, now_us=NOW_US + GRACE_US, dry_run=True)
    assert told.deleted_files == 5
    assert files(tmp_path, "") == names
    assert offsets(archive) == list(range(24))


def test_with_no_bound_only_replaced_files_go(archive, tmp_path) -> None:
    merge(archive)
    visit(archive)
    assert len(parquet(tmp_path)) == 6
    told = visit(archive, now_us=NOW_US + GRACE_US)
    assert (told.deleted_files, told.dropped_files) == (5, 0)
    assert parquet(tmp_path) == ["0000000001-0-19-0.parquet"]
    assert offsets(open_archive(tmp_path)) == list(range(20))


def test_an_archive_that_holds_nothing_is_left_alone(tmp_path) -> None:
    assert visit(open_archive(tmp_path), before_us=NOW_US).dropped_files == 0
    assert files(tmp_path, "") == []


def test_a_scan_that_began_before_goes_on_within_the_grace_period(archive) -> None:
    scan = archive.scan(TOPIC, ID, columns=[], batch_rows=4)
    assert next(scan)[1]["__offset"].to_list() == [0, 1, 2, 3]
    merge(archive)
    visit(archive, before_us=NOW_US)
    assert [frame["__offset"][0] for _, frame in scan] == [4, 8, 12, 16]


def test_a_scan_that_lasts_longer_is_told_so(archive) -> None:
    scan = archive.scan(TOPIC, ID, columns=[], batch_rows=4)
    next(scan)
    merge(archive)
    visit(archive, now_us=NOW_US + GRACE_US)
    with pytest.raises(ArchiveError, match=r"after this scan began.*read again"):
        list(scan)


def test_what_crashes_left_is_swept_and_what_writers_may_name_is_not(archive, tmp_path) -> None:
    merge(archive)
    folder = tmp_path / FOLDER
    left = ("rows/0-19-7.parquet", "compacted/0000000001-0-3-5.parquet")
    stays = ("rows/20-23-0.parquet", "compacted/0000000009-0-3-0.parquet", "rows/mine.parquet")
    for name in (*left, *stays):
        (folder / name).write_bytes(b"x")
    visit(archive)
    assert not any((folder / name).exists() for name in left)
    assert all((folder / name).exists() for name in stays)


def test_a_late_compaction_does_not_bring_old_files_back(archive, tmp_path) -> None:
    class Slow(FolderBlobs):
        done = False

        def put_if_absent(self, name, data):
            if "/generations/" in name and not Slow.done:
                Slow.done = True
                for day in range(3):
                    add(open_archive(tmp_path), 1)
                    at = NOW_US + day * GRACE_US
                    merge(open_archive(tmp_path), at)
                    visit(open_archive(tmp_path), before_us=9_000, now_us=at + GRACE_US)
            super().put_if_absent(name, data)

    slow = Archive(Slow(tmp_path, durable=False), stamp="s")
    with pytest.raises(ArchiveConflictError, match="nothing is lost"):
        merge(slow)
    reader = open_archive(tmp_path)
    found = offsets(reader)
    assert found == list(range(found[0], 23))
    visit(reader)
    assert offsets(open_archive(tmp_path)) == found
    assert verify(reader, TOPIC, ID, 0).problems == []
