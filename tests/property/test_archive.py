"""The archive against a plain list, and against any single flipped bit."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.errors import ArchiveError
from headwater_connectors.archive.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOPIC, ID = "t", "i"
TYPES = {"text": pl.String(), "number": pl.Float64(), "whole": pl.Int64()}
SCHEMA = {
    "__offset": pl.Int64(),
    "__ts": pl.Int64(),
    "__arrival": pl.Int64(),
    "__raw": pl.Binary(),
    **TYPES,
}
times = st.integers(-100, 100) | st.integers(-(1 << 62), 1 << 62)
row = st.tuples(
    st.integers(1, 4),  # offsets have gaps
    times,
    times,
    st.binary(max_size=20),
    st.none() | st.text(st.characters(codec="utf-8"), max_size=8),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
)
append = st.tuples(
    st.integers(0, 2),  # partition
    st.lists(row, max_size=8),
    st.integers(0, 3),  # records after the last row that had none
    st.sets(st.sampled_from(sorted(TYPES))),  # columns that are known by then
    st.booleans(),  # the process starts anew
)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def open_archive(path: Path) -> Archive:
    return Archive(FolderBlobs(path, durable=False), stamp="s")


def write(archive: Archive, partition: int, found: list, more: int, known: set[str]) -> list[dict]:
    """Append rows where the archive ends; return them as they should come back."""
    at = archive.position(TOPIC, ID, partition)
    offset = start = -1 if at is None else at
    rows = []
    for gap, *values in found:
        offset += gap
        rows.append(dict(zip(SCHEMA, (offset, *values), strict=True)))
    frame = pl.DataFrame(rows, schema=SCHEMA).drop(set(TYPES) - known)
    archive.append(
        TOPIC, ID, partition, frame, from_offset=start, to_offset=offset + more, frontier_us=0
    )
    unknown = dict.fromkeys(set(TYPES) - known)
    return [{"partition": partition, **one, **unknown} for one in rows]


def read(archive: Archive, **options) -> list[dict]:
    return [
        {"partition": partition, **one}
        for partition, frame in archive.scan(TOPIC, ID, columns=TYPES, raw=True, **options)
        for one in frame.to_dicts()
    ]


def ordered(rows: list[dict]) -> list[dict]:
    """Order rows, and the columns of each, as a scan gives them."""
    names = ["partition", "__offset", "__ts", "__arrival", *TYPES, "__raw"]
    in_order = sorted(rows, key=lambda one: (one["partition"], one["__offset"]))
    return [{name: one[name] for name in names} for one in in_order]


@given(
    st.lists(append, max_size=10),
    st.integers(1, 12),
    st.none() | times,
    st.none() | times,
    st.integers(0, 10),
)
def test_what_was_appended_is_what_is_read(appends, batch_rows, ts_from_us, ts_before_us, cut):
    with folder() as path:
        archive, expected, earlier, snapshot = open_archive(path), [], [], None
        for index, (partition, found, more, known, anew) in enumerate(appends):
            if index == cut:
                earlier, snapshot = list(expected), str(archive.snapshot({TOPIC: ID}))
            if anew:
                archive = open_archive(path)
            expected += write(archive, partition, found, more, known)
        reader = open_archive(path)
        # -0.0 equals 0.0, but is not written like it.
        assert repr(read(reader, batch_rows=batch_rows)) == repr(ordered(expected))
        assert reader.rows(TOPIC, ID) == len(expected)
        wanted = [
            one
            for one in expected
            if (ts_from_us is None or one["__ts"] >= ts_from_us)
            and (ts_before_us is None or one["__ts"] < ts_before_us)
        ]
        times_asked = {"ts_from_us": ts_from_us, "ts_before_us": ts_before_us}
        assert read(reader, **times_asked) == ordered(wanted)
        if snapshot is not None:
            assert read(reader, snapshot=Snapshot.parse(snapshot)) == ordered(earlier)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list]:
    path = tmp_path_factory.mktemp("whole")
    archive = open_archive(path)
    for index in range(6):
        found = [(1, 5 * n, 6 * n, b"%d" % n, f"t{n % 3}", n / 3, n) for n in range(40)]
        write(archive, index % 2, found, index % 3, set(TYPES) if index else {"text"})
    return path, read(archive)


def read_or_refused(path: Path) -> list[dict] | str:
    """Read all there is; return the message of an error."""
    try:
        return read(open_archive(path))
    except ArchiveError as error:
        return str(error)


def check_damage(
    whole: tuple[Path, list], data: st.DataObject, spoil: Callable[[bytes], bytes]
) -> None:
    """Spoil one file: what is read is right, or an error names the file."""
    source, expected = whole
    with folder() as parent:
        path = parent / "copy"
        shutil.copytree(source, path)
        files = sorted(str(one.relative_to(path)) for one in path.rglob("*") if one.is_file())
        name = data.draw(st.sampled_from(files), label="file")
        damaged = path / name
        damaged.write_bytes(spoil(damaged.read_bytes()))
        found = read_or_refused(path)
        if isinstance(found, str):
            assert name in found
            assert damaged.name != "LATEST"
        else:
            assert found == expected
            assert damaged.suffix != ".parquet"


@given(st.data())
def test_no_flipped_bit_changes_what_is_read(whole, data):
    def flip(content: bytes) -> bytes:
        bit = data.draw(st.integers(0, 8 * len(content) - 1), label="bit")
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    check_damage(whole, data, flip)


@given(st.data())
def test_no_cut_file_changes_what_is_read(whole, data):
    def cut(content: bytes) -> bytes:
        return content[: data.draw(st.integers(0, len(content) - 1), label="length")]

    check_damage(whole, data, cut)


plain = st.from_regex(r"[a-zA-Z0-9_-]{1,9}", fullmatch=True)


@example({})
@given(st.dictionaries(plain, plain, max_size=3))
def test_the_text_of_a_snapshot_reads_back(topics):
    with folder() as path:
        archive = open_archive(path)
        for number, (topic, topic_id) in enumerate(topics.items()):
            archive.append(
                topic, topic_id, number, pl.DataFrame(), from_offset=3, to_offset=4, frontier_us=0
            )
        snapshot = archive.snapshot(topics)
        assert Snapshot.parse(str(snapshot)) == snapshot
        assert {part.topic: part.topic_id for part in snapshot.topics} == topics
