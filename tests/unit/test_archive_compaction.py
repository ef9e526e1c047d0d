from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pyarrow.parquet as pq
import pytest
from archive_harness import FOLDER, ID, TOPIC, add, files, offsets, open_archive, read, rows

from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.compaction import Compaction, Sizes, compact, groups
from headwater_connectors.archive.errors import ArchiveConflictError, ArchiveError
from headwater_connectors.archive.manifest import FileEntry
from headwater_connectors.archive.snapshot import Snapshot
from headwater_connectors.archive.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

NOW_US = 1_000_000_000


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return open_archive(tmp_path)


def step(archive: Archive, partition: int = 0, **sizes) -> Compaction | None:
    return compact(archive, TOPIC, ID, partition, now_us=NOW_US, sizes=Sizes(**sizes))


def used(archive: Archive) -> list[FileEntry]:
    """Return the files that a scan reads."""
    generation = archive.chain(TOPIC, ID, 0).generations.newest()
    return list(generation.files)


class Spy(FolderBlobs):
    """Blobs that note what is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, durable=False)
        self.seen: list[str] = []

    def open(self, name):
        self.seen.append(name)
        return super().open(name)

    def get(self, name):
        self.seen.append(name)
        return super().get(name)


def test_many_small_files_become_one_with_the_same_rows(archive, tmp_path) -> None:
    for count in (5, 1, 7, 0, 3):
        add(archive, count)
    before = read(archive, raw=True)
    done = step(archive)
    assert (done.files_before, done.files_after, done.is_done) == (4, 1, True)
    (entry,) = used(archive)
    assert (entry.rows, entry.offset_min, entry.offset_max) == (16, 0, 15)
    assert (entry.ts_min_us, entry.ts_max_us) == (0, 15_000)
    assert (entry.arrival_min_us, entry.arrival_max_us) == (7, 15_007)
    assert read(archive, raw=True).equals(before)
    assert read(open_archive(tmp_path), raw=True).equals(before)
    assert open_archive(tmp_path).rows(TOPIC, ID) == 16
    (path,) = [path for path in files(tmp_path, ".parquet") if "compacted" in path.parts]
    metadata = pq.read_metadata(path)
    assert metadata.num_row_groups == 1
    assert metadata.metadata[b"headwater.stamp"] == b"format=1 polars=2 machine=test"


def test_a_scan_of_a_compacted_archive_walks_no_old_manifests(archive, tmp_path) -> None:
    for _ in range(30):
        add(archive, 4)
    step(archive)
    add(archive, 4)
    blobs = Spy(tmp_path)
    reader = Archive(blobs, stamp="s")
    snapshot = reader.snapshot({TOPIC: ID})
    blobs.seen.clear()
    assert offsets(reader, snapshot=snapshot) == list(range(124))
    assert len([name for name in blobs.seen if "/manifests/" in name]) <= 3
    assert len([name for name in blobs.seen if name.endswith(".parquet")]) == 2


def test_earlier_snapshots_and_stretches_read_the_same_rows_as_before(archive, tmp_path) -> None:
    taken = []
    for count in (5, 1, 7, 2):
        add(archive, count)
        snapshot = archive.snapshot({TOPIC: ID})
        taken.append((str(snapshot), read(archive, snapshot=snapshot, raw=True)))
    step(archive)
    add(archive, 3)
    step(archive, few=0)
    for path in files(tmp_path, ".parquet"):
        if "rows" in path.parts:
            path.unlink()
    reader = open_archive(tmp_path)
    for text, expected in taken:
        snapshot = Snapshot.parse(text)
        assert read(reader, snapshot=snapshot, raw=True).equals(expected)
        assert reader.rows(TOPIC, ID, snapshot) == expected.height
    assert offsets(reader, stretches={0: (2, 9)}) == list(range(3, 10))
    assert offsets(reader, ts_from_us=4_000, ts_before_us=6_000) == [4, 5]
    with pytest.raises(ArchiveError, match=r"offsets \(-5, 3\) were asked for"):
        offsets(reader, stretches={0: (-5, 3)})


def test_the_writer_goes_on_beside_it(archive) -> None:
    for _ in range(3):
        add(archive, 3)
        step(archive, few=0)
    add(archive, 3)
    assert archive.position(TOPIC, ID, 0) == 11
    assert offsets(archive) == list(range(12))


def test_nothing_to_do_writes_nothing(archive, tmp_path) -> None:
    assert step(archive) is None
    add(archive, 3)
    add(archive, 3)
    assert step(archive).files_before == 2
    names = files(tmp_path, ".json")
    assert step(archive) is None
    assert files(tmp_path, ".json") == names


def test_files_of_other_columns_payload_or_stamp_stay_apart(archive, tmp_path) -> None:
    add(archive, 2)
    add(archive, 2)
    add(archive, 2, keep_raw=False)
    add(archive, 2, keep_raw=False)
    later = Archive(archive.blobs, stamp="another engine")
    for start in (8, 10):
        frame = rows(start, 2)
        later.append(TOPIC, ID, 0, frame, to_offset=start + 1, frontier_us=0)
    for start in (12, 14):
        frame = rows(start, 2).with_columns(seats=pl.lit(3))
        later.append(TOPIC, ID, 0, frame, to_offset=start + 1, frontier_us=0)
    before = read(later, columns=["plane", "seats"])
    assert step(later).files_after == 4
    assert [entry.rows for entry in used(later)] == [4, 4, 4, 4]
    assert read(open_archive(tmp_path), columns=["plane", "seats"]).equals(before)
    assert before["seats"].to_list() == [None] * 12 + [3] * 4
    with pytest.raises(ArchiveError, match="archived without the raw payload"):
        read(open_archive(tmp_path), raw=True)


def test_a_file_is_no_larger_than_asked_for(archive) -> None:
    for _ in range(10):
        add(archive, 4)
    step(archive, file_rows=12)
    assert [entry.rows for entry in used(archive)] == [12, 12, 12, 4]
    assert step(archive, file_rows=12) is None
    assert offsets(archive) == list(range(40))


def test_a_step_is_bounded_and_the_next_goes_on(archive) -> None:
    for _ in range(12):
        add(archive, 4)
    sizes = {"file_rows": 12, "step_bytes": 1}
    done = []
    while (one := step(archive, **sizes)) is not None:
        done.append(one)
        assert one.files_before == 3
        assert offsets(archive) == list(range(48))
    assert [one.is_done for one in done] == [False, False, False, True]


def entry(size_bytes: int, layout: str = "a") -> FileEntry:
    return FileEntry("f", size_bytes, 1, (), 1, 0, 0, 0, 0, 0, 0, layout)


@pytest.mark.parametrize(
    ("found", "few", "expected"),
    [
        ([1, 1, 1], 1, [3]),
        ([1, 1, 1], 3, [1, 1, 1]),
        ([90, 1, 1], 1, [90, 2]),
        ([40, 1, 1, 2], 1, [40, 4]),
        ([40, 30, 20, 10], 1, [100]),
        ([40, 30, 20, 11], 1, [90, 11]),
        ([1, 1, 60, 1, 1], 1, [2, 60, 2]),
        ([60, 60], 1, [60, 60]),
        ([], 1, []),
    ],
)
def test_small_files_are_merged_once_they_are_worth_it(found, few, expected) -> None:
    sizes = Sizes(file_bytes=100, few=few)
    cut = groups([entry(size) for size in found], sizes)
    assert [sum(one.size_bytes for one in group) for group in cut] == expected


def test_a_row_is_written_again_only_a_few_times(archive) -> None:
    found: list[int] = []
    written = 0
    for _ in range(500):
        found.append(1)
        cut = list(groups([entry(size) for size in found], Sizes(file_bytes=1_000, few=4)))
        written += sum(
            len(group) and sum(e.size_bytes for e in group) for group in cut if len(group) > 1
        )
        found = [sum(e.size_bytes for e in group) for group in cut]
    assert sum(found) == 500
    assert len(found) < 20
    assert written < 500 * 8


def test_of_two_that_compact_one_gets_a_conflict_and_nothing_is_lost(tmp_path) -> None:
    archive = open_archive(tmp_path)
    for _ in range(4):
        add(archive, 3)

    class Slow(FolderBlobs):
        other = None

        def put_if_absent(self, name, data):
            if "/generations/" in name and Slow.other is None:
                Slow.other = step(open_archive(tmp_path))
            super().put_if_absent(name, data)

    slow = Archive(Slow(tmp_path, durable=False), stamp="s")
    with pytest.raises(ArchiveConflictError, match="another one that compacts or retains"):
        step(slow)
    assert Slow.other.files_after == 1
    assert offsets(slow) == offsets(open_archive(tmp_path)) == list(range(12))


class Killed(BaseException):
    """Stands for a process that stops between two instructions."""


class DyingBlobs(FolderBlobs):
    """Blobs whose process stops before or after the nth call that changes something."""

    def __init__(self, root: Path, *, calls: int, after: bool) -> None:
        super().__init__(root, durable=False)
        self.calls = calls
        self.after = after

    def put_if_absent(self, name, data):
        self._change(super().put_if_absent, name, data)

    def delete(self, names):
        self._change(super().delete, names)

    def _change(self, change, *args):
        self.calls -= 1
        if self.calls or self.after:
            change(*args)
        if not self.calls:
            raise Killed


def all_steps(archive: Archive) -> None:
    while step(archive, file_rows=12, step_bytes=1):
        pass


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("calls", range(1, 5))
def test_a_crash_at_any_step_leaves_a_readable_archive(tmp_path, calls, after) -> None:
    archive = open_archive(tmp_path)
    for _ in range(8):
        add(archive, 3)
    before = read(archive, raw=True)
    dying = Archive(DyingBlobs(tmp_path, calls=calls, after=after), stamp="s")
    with pytest.raises(Killed):
        all_steps(dying)
    assert read(open_archive(tmp_path), raw=True).equals(before)
    all_steps(archive)
    assert [entry.rows for entry in used(archive)] == [12, 12]
    assert read(open_archive(tmp_path), raw=True).equals(before)


@pytest.mark.parametrize("where", [0.1, 0.5, -1])
def test_a_damaged_file_is_named_and_stays_as_it_is(archive, tmp_path, where) -> None:
    for _ in range(3):
        add(archive, 200)
    path = files(tmp_path, ".parquet")[1]
    data = bytearray(path.read_bytes())
    data[int(where * len(data)) if isinstance(where, float) else where] ^= 1
    path.write_bytes(data)
    names = files(tmp_path, "")
    with pytest.raises(ArchiveError, match=r"rows/200-399-0\.parquet is damaged.*restore"):
        step(archive)
    assert files(tmp_path, "") == names


def test_what_the_store_has_is_checked_before_it_counts(tmp_path) -> None:
    archive = open_archive(tmp_path)
    add(archive, 50)
    add(archive, 50)

    class Lying(FolderBlobs):
        def put_if_absent(self, name, data):
            changed = bytearray(data)
            changed[len(changed) // 2] ^= 1
            super().put_if_absent(name, bytes(changed))

    with pytest.raises(ArchiveError, match=rf"{FOLDER}/compacted/.* is damaged"):
        step(Archive(Lying(tmp_path, durable=False), stamp="s"))
    assert offsets(open_archive(tmp_path)) == list(range(100))


@pytest.mark.parametrize("spoil", ["cut", "flip", "moved"])
def test_a_damaged_generation_is_named(archive, tmp_path, spoil) -> None:
    add(archive, 3)
    add(archive, 3)
    step(archive)
    (path,) = [path for path in files(tmp_path, ".json") if "generations" in path.parts]
    data = path.read_bytes()
    if spoil == "cut":
        path.write_bytes(data[:40])
    elif spoil == "flip":
        path.write_bytes(data.replace(b'"rows":6', b'"rows":7'))
    else:
        path.rename(path.with_name("0000000007.json"))
    message = {"cut": "is torn", "flip": "fails its checksum", "moved": "files were moved"}[spoil]
    with pytest.raises(ArchiveError, match=rf"generations/\d+\.json.*{message}.*restore"):
        read(open_archive(tmp_path))


def test_a_generation_of_another_copy_is_refused(tmp_path) -> None:
    archive, other = open_archive(tmp_path / "a"), open_archive(tmp_path / "b")
    for one in (archive, other):
        add(one, 3)
        add(one, 3, frontier_us=50_000 if one is other else 90_000)
    step(other)
    name = "generations/0000000001.json"
    source = tmp_path / "b" / FOLDER / name
    target = tmp_path / "a" / FOLDER / name
    target.parent.mkdir()
    target.write_bytes(source.read_bytes())
    with pytest.raises(ArchiveError, match="is not the one that generation 1 was made of"):
        read(open_archive(tmp_path / "a"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("header", r"is damaged between bytes 0 and \d+; restore"),
        ("data", r"is damaged between bytes \d+ and \d+; restore"),
        ("footer", r"is damaged between bytes \d+ and \d+; restore"),
        ("cut", r"has \d+ bytes, its manifest says \d+: it was cut or replaced; restore"),
        ("missing", "is missing, although a manifest names it; restore"),
    ],
)
def test_a_merged_file_that_is_damaged_is_named(archive, tmp_path, spoil, message) -> None:
    for _ in range(3):
        add(archive, 300)
    step(archive)
    (path,) = [path for path in files(tmp_path, ".parquet") if "compacted" in path.parts]
    data = bytearray(path.read_bytes())
    at = {"header": 1, "data": len(data) // 2, "footer": len(data) - 6}.get(spoil)
    if at is not None:
        data[at] ^= 4
    path.write_bytes(data[:-9] if spoil == "cut" else data)
    if spoil == "missing":
        path.unlink()
    with pytest.raises(ArchiveError, match=rf"compacted/0000000001-0-899-0\.parquet {message}"):
        read(open_archive(tmp_path), raw=True)
    (problem,) = verify(open_archive(tmp_path), TOPIC, ID, 0).problems
    assert "compacted/0000000001-0-899-0.parquet" in problem


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_manifest_that_is_lost_is_found_by_verify_and_never_a_gap(
    archive, tmp_path, number
) -> None:
    for _ in range(2):
        add(archive, 3)
    step(archive)
    for _ in range(2):
        add(archive, 3)
    (tmp_path / FOLDER / f"manifests/{number:010d}.json").unlink()
    reader = open_archive(tmp_path)
    problems = verify(reader, TOPIC, ID, 0).problems
    assert any(f"{number:010d}.json is missing; restore" in problem for problem in problems)
    if number == 1:
        # What the generation holds needs it no more.
        assert offsets(reader) == list(range(12))
    else:
        with pytest.raises(ArchiveError, match=rf"{number:010d}\.json is missing; restore"):
            offsets(reader)


def test_manifests_of_several_stamps_are_read_and_told(archive, tmp_path) -> None:
    add(archive, 3)
    later = Archive(archive.blobs, stamp="another engine")
    add(later, 3)
    found = verify(later, TOPIC, ID, 0)
    assert found.stamps == {"format=1 polars=2 machine=test", "another engine"}
    assert (found.problems, offsets(later)) == ([], list(range(6)))
