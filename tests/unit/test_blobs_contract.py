"""What every store of blobs promises: folders, and object stores through obstore."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import polars as pl
import pytest
from archive_harness import COLUMNS, ID, TOPIC, rows
from object_store_server import BUCKET, SECRET, options_of, s3_server, silent_server
from obstore.store import LocalStore, MemoryStore

from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import BlobStore, FolderBlobs
from headwater_connectors.archive.errors import (
    AlreadyExistsError,
    ArchiveConflictError,
    ArchiveError,
    MissingBlobError,
    StoreUnavailableError,
)
from headwater_connectors.archive.location import blobs_of
from headwater_connectors.archive.object_blobs import ObjectBlobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as found:
        yield found


@pytest.fixture(params=["folder", "memory", "local", "s3"])
def blobs(request, tmp_path: Path) -> BlobStore:
    match request.param:
        case "folder":
            return FolderBlobs(tmp_path / "blobs", durable=False)
        case "memory":
            return ObjectBlobs(MemoryStore(), "memory://here")
        case "local":
            (tmp_path / "blobs").mkdir()
            return ObjectBlobs(LocalStore(tmp_path / "blobs"), "file://here")
    endpoint = request.getfixturevalue("endpoint")
    return blobs_of(f"s3://{BUCKET}/{tmp_path.name}", options_of(endpoint))


def test_a_blob_is_created_once_and_replaced_where_that_is_meant(blobs) -> None:
    blobs.put_if_absent("a/b", b"one")
    with pytest.raises(AlreadyExistsError, match="a/b exists already, and is never replaced"):
        blobs.put_if_absent("a/b", b"two")
    assert blobs.get("a/b") == b"one"
    blobs.put("a/b", memoryview(b"three"))
    assert blobs.get("a/b") == b"three"
    blobs.put("empty", b"")
    assert blobs.get("empty") == b""
    assert blobs.exists("a/b")
    assert not blobs.exists("a")
    assert blobs.path("a/b").endswith("/a/b")


def test_of_many_that_create_a_blob_one_succeeds(blobs) -> None:
    won: list[int] = []

    def create(mine: int) -> None:
        try:
            blobs.put_if_absent("a/one", b"%d" % mine)
        except AlreadyExistsError:
            return
        won.append(mine)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert blobs.get("a/one") == b"%d" % won[0]


def test_a_blob_is_read_in_parts(blobs) -> None:
    blobs.put("a", b"0123456789")
    with blobs.open("a") as reader:
        assert reader.size_bytes == 10
        assert reader.read_at(3, 4) == b"3456"
        assert reader.read_at(8, 4) == b"89"
        assert reader.read_at(10, 4) == b""


def test_a_missing_blob_is_named(blobs, tmp_path) -> None:
    for ask in (blobs.get, blobs.open):
        with pytest.raises(MissingBlobError, match="nowhere is missing"):
            ask("nowhere")
    with pytest.raises(MissingBlobError, match="nowhere is missing"):
        blobs.copy("nowhere", "a")
    with pytest.raises(MissingBlobError, match="nothing is missing"):
        blobs.put_file("a", tmp_path / "nothing")
    for name in ("", "/a", "a//b", "a/../b", "a/"):
        with pytest.raises(ArchiveError, match="not a blob name"):
            blobs.put(name, b"")


def test_blobs_are_found_by_the_beginning_of_their_names_in_pages(blobs) -> None:
    many = [f"many/{number:04}" for number in range(1_005)]
    for name in ("a/one=1", "a/one=2", "a/two", "b", "a/deep/er", *many):
        blobs.put(name, name.encode())
    assert [info.name for info in blobs.find("a/one=")] == ["a/one=1", "a/one=2"]
    assert [info.name for info in blobs.find("a/")] == ["a/deep/er", "a/one=1", "a/one=2", "a/two"]
    assert [info.name for info in blobs.find("many/")] == many
    assert [info.size_bytes for info in blobs.find("b")] == [1]
    assert blobs.find("a/three") == blobs.find("nowhere/at/all") == []
    assert all(info.modified_us > 1_500_000_000_000_000 for info in blobs.find("a/"))
    assert blobs.folders("") == ["a", "many"]
    assert blobs.folders("a/") == ["deep"]
    assert blobs.folders("nowhere/") == []


@pytest.mark.parametrize("name", ["worker%3A1=0f3a=9b", "a b", "100%", "é~+&", "named=x/c.json"])
def test_a_name_comes_back_as_it_was_given(blobs, name) -> None:
    blobs.put(f"a/{name}", b"1")
    blobs.put_if_absent(f"b/{name}", b"2")
    assert blobs.get(f"a/{name}") == b"1"
    assert [info.name for info in blobs.find("a/")] == [f"a/{name}"]
    assert blobs.find(f"a/{name}")[0].size_bytes == 1
    blobs.delete([f"a/{name}"])
    assert [info.name for info in blobs.find("")] == [f"b/{name}"]


def test_deleted_blobs_are_gone_and_missing_ones_are_passed_over(blobs) -> None:
    for name in ("a/b", "a/c", "a/d"):
        blobs.put(name, b"1")
    blobs.delete(["a/nothing", "a/b", "nowhere/nothing", "a/d"])
    assert [info.name for info in blobs.find("")] == ["a/c"]
    blobs.delete([])


def test_a_file_is_stored_and_a_copy_outlives_it(blobs, tmp_path) -> None:
    data = os.urandom(12 << 20)  # more than one part of an upload
    source = tmp_path / "source"
    source.write_bytes(data)
    blobs.put_file("a/b", source)
    blobs.copy("a/b", "a/c")
    blobs.delete(["a/b"])
    assert blobs.get("a/c") == data
    with blobs.open("a/c") as reader:
        assert reader.read_at(7 << 20, 5) == data[7 << 20 : (7 << 20) + 5]
    target = tmp_path / "target"
    if blobs.link("a/c", target):
        assert target.read_bytes() == data
    else:
        assert not target.exists()


def test_an_archive_in_any_store_reads_back_what_was_written(blobs) -> None:
    first, second = Archive(blobs, stamp="s"), Archive(blobs, stamp="s")
    for start in (0, 3):
        first.append(
            TOPIC, ID, 0, rows(start, 3), from_offset=start - 1, to_offset=start + 2, frontier_us=0
        )
    snapshot = second.snapshot({TOPIC: ID})
    with pytest.raises(ArchiveConflictError, match="go on from the archive's position"):
        second.append(TOPIC, ID, 0, rows(3, 3), from_offset=2, to_offset=5, frontier_us=0)
    first.append(TOPIC, ID, 0, rows(6, 2), to_offset=7, frontier_us=0)
    found = pl.concat(frame for _, frame in second.scan(TOPIC, ID, columns=COLUMNS, raw=True))
    assert found.equals(rows(0, 8).select(found.columns))
    kept = second.scan(TOPIC, ID, columns=COLUMNS, snapshot=snapshot)
    assert pl.concat(frame for _, frame in kept).height == 6


# Mistakes and faults of an object store


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ftp://shop", {}, "object store ftp://shop can't be used: .*correct the URL"),
        ("s3://", {}, "object store s3:// can't be used"),
        ("s3://shop", {"endpiont": "x"}, r"'endpiont' is not valid.*\[object_store\]"),
        ("s3://shop", {"client.timeout": "soon"}, r"can't be used: .*\[object_store\]"),
        ("s3://shop", {"retry.max_retries": "often"}, r"can't be used: .*\[object_store\]"),
        ("az://shop/x", {}, "Account must be specified"),
    ],
)
def test_a_wrong_url_or_option_is_refused_at_once(url, options, message) -> None:
    with pytest.raises(ArchiveError, match=message) as caught:
        blobs_of(url, options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_bucket_that_is_not_there_is_a_mistake_and_not_an_empty_archive(endpoint) -> None:
    blobs = blobs_of("s3://elsewhere/a", options_of(endpoint))
    with pytest.raises(ArchiveError, match="no such bucket; make it"):
        blobs.put("a", b"")
    with pytest.raises(ArchiveError, match="no such bucket; make it"):
        blobs.find("a/")


FEW = {"client.timeout": "200ms", "retry.max_retries": "1", "retry.retry_timeout_s": "1"}
CALLS = {
    "put": lambda blobs: blobs.put("a", b"x"),
    "create": lambda blobs: blobs.put_if_absent("a", b"x"),
    "get": lambda blobs: blobs.get("a"),
    "exists": lambda blobs: blobs.exists("a"),
    "open": lambda blobs: blobs.open("a"),
    "find": lambda blobs: blobs.find("a/"),
    "delete": lambda blobs: blobs.delete(["a"]),
    "copy": lambda blobs: blobs.copy("a", "b"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_store_that_never_answers_is_an_error_in_one_line(call) -> None:
    with silent_server() as endpoint:
        blobs = blobs_of("s3://shop/a", options_of(endpoint, **FEW))
        with pytest.raises(StoreUnavailableError, match="see whether the store can") as caught:
            call(blobs)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_store_that_is_gone_is_an_error_in_one_line() -> None:
    with silent_server() as endpoint:
        pass
    blobs = blobs_of("s3://shop/a", options_of(endpoint, **FEW))
    with pytest.raises(StoreUnavailableError, match=r"can't read s3://shop/a/x: .*endpoint"):
        blobs.get("x")
