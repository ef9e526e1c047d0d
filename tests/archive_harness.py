"""An archive in a folder, with rows that know their offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs

if TYPE_CHECKING:
    from pathlib import Path

    from headwater_connectors.archive.manifest import Manifest

TOPIC, ID = "flights", "a1"
FOLDER = f"{TOPIC}/{ID}/partition=0"
COLUMNS = ["plane", "delay"]


def rows(first: int, count: int, **columns: pl.Series) -> pl.DataFrame:
    offsets = range(first, first + count)
    system = {
        "__offset": pl.Series(offsets, dtype=pl.Int64),
        "__ts": pl.Series([1_000 * offset for offset in offsets], dtype=pl.Int64),
        "__arrival": pl.Series([1_000 * offset + 7 for offset in offsets], dtype=pl.Int64),
        "__raw": pl.Series([b'{"n":%d}' % offset for offset in offsets], dtype=pl.Binary),
    }
    own = {
        "plane": pl.Series([f"N{offset % 7}" for offset in offsets], dtype=pl.String),
        "delay": pl.Series([offset / 4 for offset in offsets], dtype=pl.Float64),
    }
    return pl.DataFrame({**system, **(columns or own)})


def open_archive(folder: Path) -> Archive:
    return Archive(FolderBlobs(folder, durable=False), stamp="format=1 polars=2 machine=test")


def add(archive: Archive, count: int, partition: int = 0, **options) -> Manifest:
    """Append rows that go on from the archive's position."""
    at = archive.position(TOPIC, ID, partition)
    after = -1 if at is None else at
    return archive.append(
        TOPIC,
        ID,
        partition,
        rows(after + 1, count) if count else pl.DataFrame(),
        **{
            "to_offset": after + count,
            "frontier_us": 1_000 * (after + count) + 7,
            "from_offset": after,
            **options,
        },
    )


def read(archive: Archive, **options) -> pl.DataFrame:
    frames = [
        frame.select(pl.lit(partition).alias("partition"), pl.all())
        for partition, frame in archive.scan(TOPIC, ID, **{"columns": COLUMNS, **options})
    ]
    return pl.concat(frames) if frames else pl.DataFrame()


def offsets(archive: Archive, **options) -> list[int]:
    return [
        offset
        for _, frame in archive.scan(TOPIC, ID, **{"columns": [], **options})
        for offset in frame["__offset"].to_list()
    ]


def files(folder: Path, ending: str) -> list[Path]:
    return sorted(path for path in folder.rglob(f"*{ending}") if ".incoming" not in path.parts)
