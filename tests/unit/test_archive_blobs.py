from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.errors import AlreadyExistsError, ArchiveError, MissingBlobError


def test_a_blob_is_never_replaced_where_it_must_be_absent(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    blobs.put_if_absent("a/b", b"one")
    with pytest.raises(AlreadyExistsError, match="exists already"):
        blobs.put_if_absent("a/b", b"two")
    assert blobs.get("a/b") == b"one"
    blobs.put("a/b", b"three")
    assert blobs.get("a/b") == b"three"
    assert blobs.exists("a/b")
    assert not blobs.exists("a")
    assert blobs.path("a/b") == str(tmp_path / "a/b")
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_a_blob_is_read_in_parts(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    blobs.put("a", memoryview(b"0123456789"))
    with blobs.open("a") as reader:
        assert reader.size_bytes == 10
        assert reader.read_at(3, 4) == b"3456"
        assert reader.read_at(8, 4) == b"89"
        assert reader.read_at(10, 4) == b""


def test_a_missing_blob_and_a_bad_name_say_so(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    for ask in (blobs.get, blobs.open):
        with pytest.raises(MissingBlobError, match=r"nowhere is missing"):
            ask("nowhere")
    for name in ("", "/a", "a//b", "a/../b", "../a", "a/", ".incoming/a"):
        with pytest.raises(ArchiveError, match=r"blob name|unfinished"):
            blobs.put(name, b"")


def test_blobs_are_found_by_the_beginning_of_their_names(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    for name in ("a/one=1", "a/one=2", "a/two", "b", "a/deep/er"):
        blobs.put(name, name.encode())
    assert [info.name for info in blobs.find("a/one=")] == ["a/one=1", "a/one=2"]
    assert [info.name for info in blobs.find("a/")] == ["a/deep/er", "a/one=1", "a/one=2", "a/two"]
    assert len(blobs.find("")) == 5
    assert blobs.find("a/three") == blobs.find("nowhere/at/all") == []
    (found,) = blobs.find("b")
    stat = (tmp_path / "b").stat()
    assert (found.size_bytes, found.modified_us) == (1, stat.st_mtime_ns // 1000)
    with pytest.raises(ArchiveError, match="not a blob name"):
        blobs.find("../a")


def test_deleted_blobs_are_gone_and_missing_ones_are_passed_over(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    blobs.put("a/b", b"1")
    blobs.put("a/c", b"2")
    blobs.delete(["a/b", "a/nothing", "nowhere/nothing"])
    assert [info.name for info in blobs.find("")] == ["a/c"]
    with pytest.raises(ArchiveError, match="can't delete"):
        blobs.delete(["a"])


def without_links(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Refuse hard links as between file systems; within the store they work."""
    link = os.link

    def refuse(source, target):
        if Path(source).parent.name == ".incoming":
            return link(source, target)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("code", [0, errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_a_file_is_stored_by_a_link_or_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    blobs, source = FolderBlobs(tmp_path / "blobs"), tmp_path / "source"
    data = os.urandom(3 << 20)
    source.write_bytes(data)
    if code:
        without_links(monkeypatch, code)
    for _ in range(2):  # the same file again is no error
        blobs.put_file("a/b", source)
    blobs.copy("a/b", "a/c")
    assert (tmp_path / "blobs/a/b").samefile(source) is (code == 0)
    assert blobs.link("a/b", tmp_path / "out") is (code == 0)
    source.unlink()
    blobs.delete(["a/b"])
    assert blobs.get("a/c") == data
    assert list((tmp_path / "blobs").rglob(".incoming/*")) == []
    other = tmp_path / "other"
    other.write_bytes(b"other")
    blobs.put_file("a/c", other)
    assert blobs.get("a/c") == b"other"


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    with pytest.raises(MissingBlobError, match="nothing is missing"):
        blobs.put_file("a", tmp_path / "nothing")
    with pytest.raises(MissingBlobError, match="blobs/b is missing"):
        blobs.copy("b", "a")
    with pytest.raises(MissingBlobError, match="blobs/b is missing"):
        blobs.link("b", tmp_path / "out")
    assert blobs.find("") == []


def test_a_failing_link_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    (tmp_path / "source").write_bytes(b"x")
    without_links(monkeypatch, errno.ENOSPC)
    with pytest.raises(ArchiveError, match=r"can't write .*blobs/a: No space left"):
        blobs.put_file("a", tmp_path / "source")


def test_a_failing_file_system_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a file where a folder should be")
    with pytest.raises(ArchiveError, match=r"can't write .*a/b.*needs space, permission"):
        FolderBlobs(tmp_path).put("a/b", b"")


def test_what_killed_writers_left_is_deleted_and_what_living_ones_write_is_not(
    tmp_path: Path,
) -> None:
    blobs = FolderBlobs(tmp_path)
    with blobs._staged(b"half") as living:
        dead = tmp_path / ".incoming/tmpdead"
        dead.write_bytes(b"left")
        FolderBlobs(tmp_path).put("a", b"b")
        assert living.exists()
        assert not dead.exists()
    assert not living.exists()


@pytest.mark.parametrize("write", ["put", "put_if_absent"])
def test_a_blob_is_durable_before_it_has_its_name_and_the_name_is_durable_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    blobs = FolderBlobs(tmp_path)
    blobs.put("a/first", b"makes the folders")
    done: list[str] = []
    fsync, link, rename = os.fsync, os.link, Path.replace

    def note_fsync(descriptor):
        mode = os.fstat(descriptor).st_mode
        done.append("sync folder" if stat.S_ISDIR(mode) else "sync file")
        fsync(descriptor)

    def note_link(source, target):
        done.append("name")
        link(source, target)

    def note_rename(source, target):
        done.append("name")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link", note_link)
    monkeypatch.setattr(Path, "replace", note_rename)
    getattr(blobs, write)("a/second", b"x")
    assert done == ["sync file", "name", "sync folder"]
    getattr(FolderBlobs(tmp_path, durable=False), write)("a/third", b"x")
    assert done[3:] == ["name"]
