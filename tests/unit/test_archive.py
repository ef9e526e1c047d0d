from __future__ import annotations

import datetime as dt
import os
import zlib
from pathlib import Path

import msgspec
import polars as pl
import pyarrow.parquet as pq
import pytest
from archive_harness import (
    COLUMNS,
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

from headwater_connectors.archive import archive as archive_module
from headwater_connectors.archive import chain as chain_module
from headwater_connectors.archive import parquet as parquet_module
from headwater_connectors.archive.archive import NO_FRONTIER_US, Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.errors import (
    ArchiveError,
)
from headwater_connectors.archive.manifest import Link, Manifest
from headwater_connectors.archive.snapshot import Snapshot

ROOT = Path(__file__).parents[2]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return open_archive(tmp_path)


class Spy(FolderBlobs):
    """Blobs that note what is opened."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, durable=False)
        self.opened: list[str] = []

    def open(self, name):
        self.opened.append(name)
        return super().open(name)


# Writing and reading


def test_rows_come_back_in_order_of_partition_and_offset(archive: Archive) -> None:
    add(archive, 3, partition=1)
    add(archive, 2, partition=0)
    add(archive, 2, partition=1)
    found = read(archive, raw=True)
    assert found["partition"].to_list() == [0, 0, 1, 1, 1, 1, 1]
    expected = pl.concat([rows(0, 2), rows(0, 5)])
    assert found.drop("partition").equals(expected.select(found.columns[1:]), null_equal=True)


def test_a_manifest_tells_what_it_covers(archive: Archive) -> None:
    add(archive, 4)
    manifest = archive.append(TOPIC, ID, 0, rows(6, 3), to_offset=11, frontier_us=99_000)
    assert (manifest.number, manifest.from_offset, manifest.to_offset) == (2, 3, 11)
    assert (manifest.rows, manifest.rows_total) == (3, 7)
    assert manifest.columns == {"plane": "String", "delay": "Float64"}
    assert manifest.stamp == "format=1 polars=2 machine=test"
    (entry,) = manifest.files
    assert entry.name == f"{FOLDER}/rows/6-8-0.parquet"
    assert (entry.offset_min, entry.offset_max, entry.rows) == (6, 8, 3)
    assert (entry.ts_min_us, entry.ts_max_us) == (6_000, 8_000)
    assert (entry.arrival_min_us, entry.arrival_max_us) == (6_007, 8_007)
    assert list(archive.manifests(TOPIC, ID, 0))[-1] == manifest


def test_a_parquet_file_names_its_schema_and_stamp(archive: Archive, tmp_path: Path) -> None:
    add(archive, 4)
    add(archive, 4, keep_raw=False)
    first, second = [pq.read_metadata(path).metadata for path in files(tmp_path, ".parquet")]
    assert first[b"headwater.stamp"] == b"format=1 polars=2 machine=test"
    assert first[b"headwater.schema"] == second[b"headwater.schema"]
    assert len(first[b"headwater.schema"]) == 16


def test_position_is_the_last_offset_covered_also_without_rows(archive: Archive) -> None:
    assert archive.position(TOPIC, ID, 0) is None
    add(archive, 0, from_offset=41, to_offset=41, frontier_us=5)
    assert archive.position(TOPIC, ID, 0) == 41
    archive.append(TOPIC, ID, 0, pl.DataFrame(), to_offset=50, frontier_us=6)
    assert archive.position(TOPIC, ID, 0) == 50
    assert offsets(archive) == []


def test_another_topic_id_is_another_history(archive: Archive) -> None:
    add(archive, 4)
    assert archive.position(TOPIC, "b2", 0) is None
    assert archive.rows(TOPIC, "b2") == 0
    assert list(archive.scan(TOPIC, "b2", columns=COLUMNS)) == []


def test_the_first_append_needs_its_beginning(archive: Archive) -> None:
    with pytest.raises(ArchiveError, match="from_offset="):
        archive.append(TOPIC, ID, 0, rows(0, 2), to_offset=1, frontier_us=0)
    with pytest.raises(ArchiveError, match="to_offset=1 lies before from_offset=5"):
        archive.append(TOPIC, ID, 0, pl.DataFrame(), from_offset=5, to_offset=1, frontier_us=0)
    assert archive.position(TOPIC, ID, 0) is None


def test_nothing_new_to_say_writes_nothing(archive: Archive, tmp_path: Path) -> None:
    last = add(archive, 4)
    before = files(tmp_path, "")
    assert add(archive, 0) == last
    assert files(tmp_path, "") == before


def test_a_partition_at_its_end_moves_its_frontier_alone(archive: Archive) -> None:
    add(archive, 4, frontier_us=100)
    add(archive, 0, frontier_us=900)
    assert archive.frontier_us(TOPIC, ID, [0]) == 900
    assert offsets(archive) == [0, 1, 2, 3]


def test_the_frontier_is_the_least_of_all_partitions_and_never_goes_back(archive: Archive) -> None:
    add(archive, 4, partition=0, frontier_us=100)
    assert archive.frontier_us(TOPIC, ID, range(2)) == NO_FRONTIER_US
    add(archive, 4, partition=1, frontier_us=50)
    assert archive.frontier_us(TOPIC, ID, range(2)) == 50
    snapshot = archive.snapshot({TOPIC: ID})
    add(archive, 1, partition=1, frontier_us=300)
    add(archive, 1, partition=0, frontier_us=80)
    assert archive.frontier_us(TOPIC, ID, range(2)) == 100
    assert archive.frontier_us(TOPIC, ID, range(2), snapshot) == 50
    with pytest.raises(ArchiveError, match="at least one"):
        archive.frontier_us(TOPIC, ID, [])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (rows(0, 3).drop("__ts"), "no column __ts"),
        (rows(0, 3).drop("__raw"), "no column __raw.*keep_raw=False"),
        (rows(0, 3).with_columns(pl.col("__ts").cast(pl.Int32)), "__ts is Int32; cast it to Int64"),
        (rows(0, 3).with_columns(__arrival=pl.lit(None, pl.Int64)), "__arrival has a null"),
        (rows(0, 3).reverse(), "do not ascend"),
        (pl.concat([rows(0, 2), rows(1, 1)]), "do not ascend"),
        (rows(0, 4), "beyond to_offset=2"),
        (rows(0, 3, mood=pl.Series([[1], [2], [3]])), 'column "mood": type List'),
    ],
)
def test_rows_that_can_not_be_archived_are_refused_whole(
    archive: Archive, tmp_path: Path, broken: pl.DataFrame, message: str
) -> None:
    with pytest.raises(ArchiveError, match=message):
        archive.append(TOPIC, ID, 0, broken, from_offset=-1, to_offset=2, frontier_us=0)
    assert files(tmp_path, ".parquet") == []


@pytest.mark.parametrize(
    ("topic", "topic_id", "partition"),
    [
        ("..", ID, 0),
        ("a/b", ID, 0),
        ("", ID, 0),
        (TOPIC, "../x", 0),
        (TOPIC, "", 0),
        (TOPIC, ID, -1),
    ],
)
def test_names_that_are_no_topics_are_refused(
    archive: Archive, topic: str, topic_id: str, partition: int
) -> None:
    with pytest.raises(ArchiveError):
        archive.position(topic, topic_id, partition)


@pytest.mark.parametrize(
    "series",
    [
        pl.Series([0.0, -0.0, float("nan"), float("inf"), 5e-324, None], dtype=pl.Float64),
        pl.Series([0.0, -0.0, float("nan"), float("-inf"), 1e-45, None], dtype=pl.Float32),
        pl.Series([0.0, -0.0, float("nan"), 0.5, 65504.0, None], dtype=pl.Float16),
        pl.Series([-(1 << 63), -1, 0, 1, (1 << 63) - 1, None], dtype=pl.Int64),
        pl.Series([0, 1, 2, 3, (1 << 64) - 1, None], dtype=pl.UInt64),
        pl.Series([-128, 0, 1, 2, 127, None], dtype=pl.Int8),
        pl.Series([0, 0, 1, 2, 65535, None], dtype=pl.UInt16),
        pl.Series(["", "ß", "日本", "a\x00b", "x" * 5000, None], dtype=pl.String),
        pl.Series([b"", b"\xff", b"\x00", b"a", b"b" * 5000, None], dtype=pl.Binary),
        pl.Series([True, False, None, None, True, False], dtype=pl.Boolean),
        pl.Series([dt.date(1970, 1, 1), dt.date(2100, 1, 1), None] * 2, dtype=pl.Date),
        pl.Series([0, -1, 1, 1 << 52, None, 5]).cast(pl.Datetime("ms")),
        pl.Series([0, -1, 1, 1 << 52, None, 5]).cast(pl.Datetime("us", "Europe/Paris")),
        pl.Series([0, -1, 1, 1 << 60, None, 5]).cast(pl.Datetime("ns", "UTC")),
        pl.Series([0, -1, 1, 1 << 60, None, 5]).cast(pl.Duration("us")),
        pl.Series([None] * 6, dtype=pl.String),
    ],
    ids=lambda series: str(series.dtype),
)
def test_every_type_comes_back_bit_for_bit(archive: Archive, series: pl.Series) -> None:
    # Long enough for dictionaries and splits, which depend on how often values repeat.
    column = pl.concat([series] * 50).rename("x")
    frame = rows(0, 300, x=column)
    archive.append(TOPIC, ID, 0, frame, from_offset=-1, to_offset=299, frontier_us=0)
    found = read(archive, columns=["x"])["x"]
    assert found.dtype == column.dtype
    assert found.equals(column, null_equal=True)
    if column.dtype.is_float():
        # Equality takes 0.0 for -0.0.
        assert found.fill_null(7).to_numpy().tobytes() == column.fill_null(7).to_numpy().tobytes()


def test_batches_have_the_size_asked_for_and_files_are_opened_one_by_one(tmp_path: Path) -> None:
    blobs = Spy(tmp_path)
    archive = Archive(blobs, stamp="s")
    for _ in range(10):
        add(archive, 10)
    scan = archive.scan(TOPIC, ID, columns=COLUMNS, batch_rows=25)
    assert blobs.opened == []
    assert next(scan)[1].height == 25
    assert len(blobs.opened) == 3
    assert [frame.height for _, frame in scan] == [25, 25, 25]
    assert [frame.height for _, frame in archive.scan(TOPIC, ID, columns=[], batch_rows=3)][
        -2:
    ] == [3, 1]
    with pytest.raises(ValueError, match="batch_rows is 0"):
        archive.scan(TOPIC, ID, columns=[], batch_rows=0)


def test_a_large_append_becomes_several_files(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "_FILE_ROWS_MAX", 4)
    manifest = add(archive, 10)
    assert [(entry.offset_min, entry.offset_max) for entry in manifest.files] == [
        (0, 3),
        (4, 7),
        (8, 9),
    ]
    assert offsets(archive) == list(range(10))


def test_row_groups_are_bounded_by_bytes(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_module, "_GROUP_BYTES_MAX", 50_000)
    frame = rows(0, 200).with_columns(__raw=pl.Series([os.urandom(1000)] * 200, dtype=pl.Binary))
    archive.append(TOPIC, ID, 0, frame, from_offset=-1, to_offset=199, frontier_us=0)
    (path,) = files(tmp_path, ".parquet")
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert 40 < max(groups) <= 50
    assert [frame.height for _, frame in archive.scan(TOPIC, ID, columns=[], raw=True)] == [200]


def test_files_outside_the_times_asked_for_are_not_opened(tmp_path: Path) -> None:
    blobs = Spy(tmp_path)
    archive = Archive(blobs, stamp="s")
    for _ in range(5):
        add(archive, 10)
    assert offsets(archive, ts_from_us=12_000, ts_before_us=20_000) == list(range(12, 20))
    assert len(blobs.opened) == 1
    blobs.opened.clear()
    assert offsets(archive, ts_before_us=20_001) == list(range(21))
    assert len(blobs.opened) == 3
    blobs.opened.clear()
    assert offsets(archive, ts_from_us=39_000) == list(range(39, 50))
    assert len(blobs.opened) == 2


def test_a_stretch_reads_its_partitions_and_offsets(tmp_path: Path) -> None:
    blobs = Spy(tmp_path)
    archive = Archive(blobs, stamp="s")
    for _ in range(3):
        add(archive, 10, partition=0)
        add(archive, 10, partition=1)
    found = read(archive, stretches={1: (8, 12)})
    assert found["partition"].unique().to_list() == [1]
    assert found["__offset"].to_list() == [9, 10, 11, 12]
    assert len(blobs.opened) == 2
    blobs.opened.clear()
    assert offsets(archive, stretches={0: (9, 20), 1: (19, 20)}) == [*range(10, 21), 20]
    assert len(blobs.opened) == 3
    assert read(archive, stretches={}).is_empty()
    assert read(archive, stretches={1: (5, 5)}).is_empty()


def test_a_stretch_that_is_not_archived_is_refused(archive: Archive) -> None:
    add(archive, 0, from_offset=4, to_offset=4)
    add(archive, 5)
    with pytest.raises(ArchiveError, match="ends at offset 9"):
        offsets(archive, stretches={0: (4, 10)})
    with pytest.raises(ArchiveError, match="begins after 4"):
        offsets(archive, stretches={0: (3, 9)})
    with pytest.raises(ArchiveError, match="holds nothing"):
        offsets(archive, stretches={7: (3, 9)})
    assert offsets(archive, stretches={0: (4, 9)}) == [5, 6, 7, 8, 9]


def test_payload_can_be_left_out(archive: Archive) -> None:
    add(archive, 3)
    add(archive, 3, keep_raw=False)
    assert offsets(archive) == list(range(6))
    with pytest.raises(ArchiveError, match="without the raw payload"):
        read(archive, raw=True)


# Columns that come and change


def test_a_column_is_null_before_it_existed(archive: Archive) -> None:
    add(archive, 3)
    late = rows(3, 2).with_columns(gate=pl.Series(["A", "B"]))
    archive.append(TOPIC, ID, 0, late.drop("delay"), to_offset=4, frontier_us=0)
    found = read(archive, columns=["gate", "delay"])
    assert found["gate"].to_list() == [None, None, None, "A", "B"]
    assert found["delay"].to_list() == [0.0, 0.25, 0.5, None, None]
    assert archive.rows(TOPIC, ID) == 5


def test_it_is_known_up_to_where_a_column_is_not_archived(archive: Archive) -> None:
    add(archive, 3)
    before = archive.snapshot({TOPIC: ID})
    assert archive.lacks_until(TOPIC, ID, 0, ["gate"]) == 2
    add(archive, 2)
    late = rows(5, 2).with_columns(gate=pl.Series(["A", "B"]))
    archive.append(TOPIC, ID, 0, late, to_offset=6, frontier_us=0)
    assert archive.lacks_until(TOPIC, ID, 0, ["gate", "delay"]) == 4
    assert archive.lacks_until(TOPIC, ID, 0, ["gate"], before) == 2
    assert archive.lacks_until(TOPIC, ID, 0, COLUMNS) is None
    assert archive.lacks_until(TOPIC, ID, 1, ["gate"]) is None


def test_rows_of_a_worker_that_does_not_know_a_column_yet_are_known_to_lack_it(
    archive: Archive,
) -> None:
    add(archive, 3)
    with_gate = rows(3, 2).with_columns(gate=pl.Series(["A", "B"]))
    archive.append(TOPIC, ID, 0, with_gate, to_offset=4, frontier_us=0)
    between = archive.snapshot({TOPIC: ID})
    add(archive, 2)
    assert archive.lacks_until(TOPIC, ID, 0, ["gate"]) == 6
    assert archive.lacks_until(TOPIC, ID, 0, ["gate"], between) == 2
    # Without rows nothing is without the column.
    archive.append(TOPIC, ID, 0, pl.DataFrame(), to_offset=9, frontier_us=0)
    with_gate = rows(10, 2).with_columns(gate=pl.Series(["A", "B"]))
    archive.append(TOPIC, ID, 0, with_gate, to_offset=11, frontier_us=0)
    assert archive.lacks_until(TOPIC, ID, 0, ["gate"]) == 6
    assert archive.lacks_until(TOPIC, ID, 0, COLUMNS) is None


def test_manifests_that_do_not_say_what_rows_lack_are_read_and_extended(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_format_1(manifest: Manifest) -> tuple[bytes, Link]:
        body = msgspec.json.encode(msgspec.structs.replace(manifest, lacked=None))
        body = body.replace(b',"lacked":null', b"")
        crc32 = f"{zlib.crc32(body):08x}"
        data = b'{"format":1,"crc32":"%s","manifest":%s}\n' % (crc32.encode(), body)
        return data, Link(manifest, crc32)

    with monkeypatch.context() as old:
        old.setattr(chain_module, "pack", as_format_1)
        add(archive, 3)
        with_gate = rows(3, 2).with_columns(gate=pl.Series(["A", "B"]))
        archive.append(TOPIC, ID, 0, with_gate, to_offset=4, frontier_us=0)
    archive = open_archive(tmp_path)
    assert archive.lacks_until(TOPIC, ID, 0, ["gate"]) == 2
    late = rows(5, 2).with_columns(gate=pl.Series(["A", "B"]), belt=pl.Series([1, 2]))
    archive.append(TOPIC, ID, 0, late, to_offset=6, frontier_us=0)
    assert archive.lacks_until(TOPIC, ID, 0, ["gate"]) == 2
    assert archive.lacks_until(TOPIC, ID, 0, ["belt"]) == 4


def test_an_extent_is_what_is_archived_of_each_partition(archive: Archive) -> None:
    add(archive, 3)
    archive.append(TOPIC, ID, 2, rows(5, 2), from_offset=4, to_offset=9, frontier_us=0)
    before = archive.snapshot({TOPIC: ID})
    add(archive, 2)
    assert archive.extents(TOPIC, ID) == {0: (-1, 4), 2: (4, 9)}
    assert archive.extents(TOPIC, ID, before) == {0: (-1, 2), 2: (4, 9)}


def test_an_unknown_column_is_an_error_unless_its_type_is_given(archive: Archive) -> None:
    add(archive, 3)
    with pytest.raises(ArchiveError, match=r'no column "plain".*Did you mean "plane"'):
        archive.scan(TOPIC, ID, columns=["plain"])
    found = read(archive, columns={"plane": pl.String(), "gate": pl.Int32()})
    assert found["gate"].to_list() == [None] * 3
    assert found.schema["gate"] == pl.Int32
    with pytest.raises(ArchiveError, match='"plane" is String there and Int64 here'):
        archive.scan(TOPIC, ID, columns={"plane": pl.Int64()})


def test_a_column_that_changes_its_type_is_refused(archive: Archive) -> None:
    add(archive, 3)
    changed = rows(3, 2).with_columns(pl.col("delay").cast(pl.Int64))
    with pytest.raises(ArchiveError, match='"delay" is Float64 in the archive and Int64 here'):
        archive.append(TOPIC, ID, 0, changed, to_offset=4, frontier_us=0)
    assert archive.position(TOPIC, ID, 0) == 2


def test_a_column_of_two_types_in_two_partitions_can_not_be_read(archive: Archive) -> None:
    add(archive, 3)
    changed = rows(0, 2).with_columns(pl.col("delay").cast(pl.Int64))
    archive.append(TOPIC, ID, 1, changed, from_offset=-1, to_offset=1, frontier_us=0)
    with pytest.raises(ArchiveError, match=r'flights\[1\]: column "delay"'):
        archive.scan(TOPIC, ID, columns=["delay"])


# Snapshots


def test_a_snapshot_reads_the_same_bits_for_ever(archive: Archive, tmp_path: Path) -> None:
    add(archive, 5)
    add(archive, 5, partition=2)
    snapshot = archive.snapshot({TOPIC: ID})
    before = read(archive, raw=True).write_ipc(None).getvalue()
    add(archive, 5)
    add(archive, 5, partition=1)
    add(archive, 5, partition=3)
    again = Snapshot.parse(str(snapshot))
    assert again == snapshot
    reader = open_archive(tmp_path)
    assert read(reader, snapshot=again, raw=True).write_ipc(None).getvalue() == before
    assert reader.rows(TOPIC, ID, again) == 10
    assert reader.rows(TOPIC, ID) == 25
    assert [len(list(reader.manifests(TOPIC, ID, part, again))) for part in range(5)] == [
        1,
        0,
        1,
        0,
        0,
    ]


def test_the_text_of_a_snapshot_is_short_and_stable(archive: Archive) -> None:
    add(archive, 5)
    add(archive, 5)
    add(archive, 5, partition=2)
    snapshot = archive.snapshot({TOPIC: ID, "weather.v2": "zz_9"})
    assert str(snapshot).startswith("flights@a1:2,0,1~")
    assert str(snapshot).endswith("+weather.v2@zz_9:~00000000")
    assert str(snapshot) == str(archive.snapshot({"weather.v2": "zz_9", TOPIC: ID}))
    assert Snapshot.parse(str(snapshot)) == snapshot
    assert Snapshot.parse("") == Snapshot(())
    with pytest.raises(ArchiveError, match="copy the whole text"):
        Snapshot.parse("flights@a1:2,0")


def test_a_snapshot_of_other_manifests_is_refused(archive: Archive, tmp_path: Path) -> None:
    add(archive, 5)
    snapshot = archive.snapshot({TOPIC: ID})
    other = open_archive(tmp_path / "other")
    add(other, 6)
    with pytest.raises(ArchiveError, match="other manifests than those that are here"):
        read(other, snapshot=snapshot)
    with pytest.raises(ArchiveError, match="with id a1, not b2"):
        archive.rows(TOPIC, "b2", snapshot)
    with pytest.raises(ArchiveError, match=r'topic "flihts".*Did you mean "flights"'):
        archive.rows("flihts", ID, snapshot)
