from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import polars as pl
import pytest
from archive_harness import (
    FOLDER,
    ID,
    TOPIC,
    add,
    files,
    offsets,
    open_archive,
    read,
    rows,
)

from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.errors import (
    ArchiveConflictError,
    ArchiveError,
)
from headwater_connectors.archive.manifest import pack, unpack

ROOT = Path(__file__).parents[2]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return open_archive(tmp_path)


# Damage


@pytest.mark.parametrize("where", [0, 3, 0.25, 0.5, 0.75, -1, -5, -40])
def test_a_flipped_bit_in_a_file_is_noticed(archive: Archive, tmp_path: Path, where: float) -> None:
    add(archive, 500)
    (path,) = files(tmp_path, ".parquet")
    data = bytearray(path.read_bytes())
    data[int(where * len(data)) if isinstance(where, float) else where] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"0-499-0\.parquet is damaged between bytes.*restore"):
        read(archive, raw=True)


def test_a_cut_or_missing_file_is_noticed(archive: Archive, tmp_path: Path) -> None:
    add(archive, 50)
    (path,) = files(tmp_path, ".parquet")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArchiveError, match=r"0-49-0\.parquet has \d+ bytes.*it was cut"):
        read(archive)
    path.unlink()
    with pytest.raises(ArchiveError, match=r"0-49-0\.parquet is missing.*restore"):
        read(archive)


def test_damage_in_a_column_that_is_not_read_does_no_harm(archive: Archive, tmp_path: Path) -> None:
    payload = pl.Series([os.urandom(1000) for _ in range(1000)], dtype=pl.Binary)
    frame = rows(0, 1000).with_columns(__raw=payload)
    archive.append(TOPIC, ID, 0, frame, from_offset=-1, to_offset=999, frontier_us=0)
    (path,) = files(tmp_path, ".parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert read(archive).height == 1000
    with pytest.raises(ArchiveError, match="damaged between bytes 393216 and 524288"):
        read(archive, raw=True)


def manifest_path(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"manifests/{number:010d}.json"


def four_manifests(folder: Path) -> Path:
    archive = open_archive(folder)
    for _ in range(4):
        add(archive, 3)
    return folder


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_missing_manifest_is_noticed(tmp_path: Path, number: int) -> None:
    manifest_path(four_manifests(tmp_path), number).unlink()
    with pytest.raises(ArchiveError, match=rf"{number:010d}\.json is missing; restore"):
        read(open_archive(tmp_path))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_missing_manifest_is_noticed_without_the_hint(tmp_path: Path, number: int) -> None:
    manifest_path(four_manifests(tmp_path), number).unlink()
    (tmp_path / FOLDER / "LATEST").unlink()
    with pytest.raises(ArchiveError, match=rf"{number:010d}\.json is missing; restore"):
        open_archive(tmp_path).position(TOPIC, ID, 0)


@pytest.mark.parametrize(
    "hint", [None, b"", b"4", b"2 1ad5be0d\n", b"0 f4dbdf21\n", b"\xff\n", b"9 f3b61b38\n"]
)
def test_the_newest_manifest_is_found_from_any_hint(tmp_path: Path, hint: bytes | None) -> None:
    path = four_manifests(tmp_path) / FOLDER / "LATEST"
    assert path.read_bytes() == b"4 f3b61b38\n"
    path.unlink()
    if hint is not None:
        path.write_bytes(hint)
    archive = open_archive(tmp_path)
    assert archive.position(TOPIC, ID, 0) == 11
    assert offsets(archive) == list(range(12))


@pytest.mark.parametrize("cut", [0, 1, 20, 300, -3])
def test_a_torn_manifest_is_noticed(tmp_path: Path, cut: int) -> None:
    path = manifest_path(four_manifests(tmp_path), 2)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ArchiveError, match=r"0000000002\.json is torn.*restore"):
        read(open_archive(tmp_path))


def test_a_changed_manifest_is_noticed(tmp_path: Path) -> None:
    path = manifest_path(four_manifests(tmp_path), 2)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"rows":3', b'"rows":2'))
    with pytest.raises(ArchiveError, match=r"0000000002\.json fails its checksum"):
        read(open_archive(tmp_path))


def forge(path: Path, **changes) -> None:
    """Replace a manifest by one that is whole but says something else."""
    manifest = unpack(path.read_bytes(), str(path)).manifest
    path.write_bytes(pack(msgspec.structs.replace(manifest, **changes))[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from_offset": 4}, "overlaps the one before it, which ends at 5"),
        ({"from_offset": 6}, "leaves a gap to the one before it, which ends at 5"),
        ({"previous": "00000000"}, "was not written after the one before it"),
        ({"partition": 1}, "files were moved"),
        ({"number": 4}, "files were moved"),
    ],
)
def test_a_manifest_that_does_not_extend_the_last_is_noticed(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    forge(manifest_path(four_manifests(tmp_path), 3), **changes)
    with pytest.raises(ArchiveError, match=rf"0000000003\.json .*{message}"):
        read(open_archive(tmp_path))


def test_a_manifest_of_a_later_format_is_refused(tmp_path: Path) -> None:
    manifest_path(four_manifests(tmp_path), 2).write_bytes(b'{"format": 3, "news": []}')
    with pytest.raises(ArchiveError, match="has format 3, this version reads 1 and 2"):
        read(open_archive(tmp_path))


def test_a_lost_partition_is_noticed(archive: Archive, tmp_path: Path) -> None:
    add(archive, 3, partition=2)
    assert offsets(open_archive(tmp_path)) == [0, 1, 2]
    (tmp_path / f"{TOPIC}/{ID}/partition=1/LATEST").unlink()
    with pytest.raises(ArchiveError, match="partition=1 is missing"):
        offsets(open_archive(tmp_path))


# Writers that race or die


class Killed(BaseException):
    """Stands for a process that stops between two instructions."""


class DyingBlobs(FolderBlobs):
    """Blobs whose process stops before or after the nth write."""

    def __init__(self, root: Path, *, writes: int, after: bool) -> None:
        super().__init__(root, durable=False)
        self.writes = writes
        self.after = after

    def put(self, name, data):
        self._write(super().put, name, data)

    def put_if_absent(self, name, data):
        self._write(super().put_if_absent, name, data)

    def _write(self, write, name, data):
        self.writes -= 1
        if self.writes or self.after:
            write(name, data)
        if not self.writes:
            raise Killed


def add_often(archive: Archive, times: int) -> None:
    for _ in range(times):
        add(archive, 5)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("writes", range(1, 11))
def test_a_writer_that_stops_at_any_write_goes_on_without_gap_or_double(
    tmp_path: Path, writes: int, after: bool
) -> None:
    # Announcing takes one write, each append three: rows, manifest, hint.
    dying = Archive(DyingBlobs(tmp_path, writes=writes, after=after), stamp="s")
    with pytest.raises(Killed):
        add_often(dying, 4)
    archive = open_archive(tmp_path)
    assert offsets(archive) == list(range((archive.position(TOPIC, ID, 0) or -1) + 1))
    while (archive.position(TOPIC, ID, 0) or 0) < 19:
        add(archive, 5)
    assert offsets(open_archive(tmp_path)) == list(range(20))
    assert archive.rows(TOPIC, ID) == 20


def test_of_two_writers_one_gets_a_conflict_and_can_go_on(tmp_path: Path) -> None:
    first, second = open_archive(tmp_path), open_archive(tmp_path)
    add(first, 3)
    assert second.position(TOPIC, ID, 0) == 2
    add(first, 3)
    stale = rows(3, 3).with_columns(plane=pl.lit("other"))
    with pytest.raises(ArchiveConflictError, match="go on from the archive's position"):
        second.append(TOPIC, ID, 0, stale, to_offset=5, frontier_us=0)
    # The loser's file had the same offsets: it took another name and is not read.
    assert len(files(tmp_path, "3-5-1.parquet")) == 1
    assert second.position(TOPIC, ID, 0) == 5
    with pytest.raises(ArchiveConflictError, match="begin at offset 3"):
        second.append(TOPIC, ID, 0, rows(3, 5), to_offset=8, frontier_us=0)
    with pytest.raises(ArchiveConflictError, match="reaches offset 5"):
        second.append(TOPIC, ID, 0, rows(6, 2), from_offset=2, to_offset=8, frontier_us=0)
    with pytest.raises(ArchiveConflictError, match="reaches offset 5"):
        second.append(TOPIC, ID, 0, pl.DataFrame(), to_offset=4, frontier_us=0)
    add(second, 2)
    assert read(first)["plane"].to_list() == rows(0, 8)["plane"].to_list()


class SlowToSee(FolderBlobs):
    """Blobs that tell of a file only after a call had time to go on: `then` runs in between."""

    then = staticmethod(lambda name: None)

    def exists(self, name):
        there = super().exists(name)
        self.then(name)
        return there


def test_a_file_that_appears_after_the_look_is_not_replaced(tmp_path: Path) -> None:
    archive = Archive(SlowToSee(tmp_path, durable=False), stamp="s")
    add(archive, 3)

    def append_meanwhile(name: str) -> None:
        if name.endswith("3-5-0.parquet"):
            del archive.blobs.then
            add(open_archive(tmp_path), 3)

    archive.blobs.then = append_meanwhile
    stale = rows(3, 3).with_columns(plane=pl.lit("other"))
    with pytest.raises(ArchiveConflictError):
        archive.append(TOPIC, ID, 0, stale, to_offset=5, frontier_us=0)
    assert len(files(tmp_path, "3-5-1.parquet")) == 1
    assert read(archive)["plane"].to_list() == rows(0, 6)["plane"].to_list()


def test_a_reader_that_looks_while_the_writer_appends_does_not_set_it_back(tmp_path: Path) -> None:
    archive = Archive(SlowToSee(tmp_path, durable=False), stamp="s")
    add(archive, 3)

    def append_meanwhile(name: str) -> None:
        if name.endswith("0000000003.json"):
            del archive.blobs.then
            archive.append(TOPIC, ID, 0, rows(3, 3), to_offset=5, frontier_us=0)

    archive.blobs.then = append_meanwhile
    assert archive.position(TOPIC, ID, 0) == 5
    archive.append(TOPIC, ID, 0, rows(6, 3), to_offset=8, frontier_us=0)
    assert offsets(archive) == list(range(9))


def test_racing_writers_never_write_a_stretch_twice(tmp_path: Path) -> None:
    barrier = threading.Barrier(2)
    outcomes: list[list[str]] = [[], []]

    def write(mine: list[str]) -> None:
        archive = open_archive(tmp_path)
        for _ in range(20):
            archive.position(TOPIC, ID, 0)
            barrier.wait()
            at = len(mine) * 2
            frame = rows(at, 2)
            try:
                archive.append(
                    TOPIC, ID, 0, frame, from_offset=at - 1, to_offset=at + 1, frontier_us=0
                )
                mine.append("written")
            except ArchiveConflictError:
                mine.append("conflict")
            barrier.wait()

    threads = [threading.Thread(target=write, args=(mine,)) for mine in outcomes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rounds = list(zip(*outcomes, strict=True))
    assert len(rounds) == 20
    assert {tuple(sorted(one)) for one in rounds} == {("conflict", "written")}
    assert offsets(open_archive(tmp_path)) == list(range(40))


def test_a_reader_beside_a_writer_sees_whole_appends_only(tmp_path: Path) -> None:
    done = threading.Event()

    def write() -> None:
        archive = open_archive(tmp_path)
        for _ in range(60):
            add(archive, 7)
        done.set()

    add(open_archive(tmp_path), 7)
    writer = threading.Thread(target=write)
    writer.start()
    reader = open_archive(tmp_path)
    seen = 0
    while not done.is_set():
        snapshot = reader.snapshot({TOPIC: ID})
        found = offsets(reader, snapshot=snapshot)
        assert found == list(range(reader.rows(TOPIC, ID, snapshot)))
        assert len(found) % 7 == 0
        assert len(found) >= seen
        seen = len(found)
    writer.join()
    assert offsets(reader) == list(range(7 * 61))


WRITER = """
import sys
import polars as pl
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs

archive = Archive(FolderBlobs(sys.argv[1]), stamp="s")
at = archive.position("flights", "a1", 0)
after = -1 if at is None else at
sys.stdout.write("ready\\n")
sys.stdout.flush()
while True:
    offsets = pl.Series("__offset", range(after + 1, after + 51), dtype=pl.Int64)
    frame = offsets.to_frame().with_columns(
        __ts=pl.col("__offset") * 1000,
        __arrival=pl.col("__offset") * 1000,
        __raw=pl.col("__offset").cast(pl.String).cast(pl.Binary),
        x=pl.col("__offset") * 3,
    )
    after += 50
    reach = {"from_offset": after - 50, "to_offset": after}
    archive.append("flights", "a1", 0, frame, **reach, frontier_us=0)
"""


def test_a_writer_killed_again_and_again_leaves_no_gap_and_no_double(tmp_path: Path) -> None:
    chance = random.Random(4)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    position = -1
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdout.readline() == b"ready\n"
            archive = open_archive(tmp_path)
            while (archive.position(TOPIC, ID, 0) or -1) < position + 100:
                assert writer.poll() is None
            # Somewhere in the next few appends.
            threading.Event().wait(chance.random() / 50)
            writer.send_signal(signal.SIGKILL)
        position = open_archive(tmp_path).position(TOPIC, ID, 0)
        found = [frame for _, frame in archive.scan(TOPIC, ID, columns=["x"], raw=True)]
        total = pl.concat(found)
        expected = pl.Series("__offset", range(position + 1), dtype=pl.Int64)
        assert total["__offset"].equals(expected)
        assert total["x"].equals((expected * 3).rename("x"))
        assert total["__raw"].to_list()[-1] == b"%d" % position
    add(archive, 0, to_offset=position, frontier_us=1)
    assert list((tmp_path / ".incoming").iterdir()) == []
