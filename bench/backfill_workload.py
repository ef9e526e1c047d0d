"""The workload of the backfill benchmark: an archive, as workers write it, and a spine."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import polars as pl

from bench import workload
from headwater.offline.sources import ArchiveEvents
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["END_US", "PARTITIONS", "TOPIC_ID", "Prepared", "Sizes", "prepare"]

TOPIC_ID = "bench"
PARTITIONS = 4
DAYS, SEED = 30, 1
# After the last event.
END_US = workload.BEGIN_US + DAYS * workload.DAY_US
# As the archive task cuts them, of a topic that is read as fast as it is written.
_FILE_ROWS = 200_000
_DONE = "done.json"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large; the keys of events and spine are drawn alike, "uniform" or "zipf"."""

    events: int = 20_000_000
    entities: int = 1_000_000
    spine: int = 1_000_000
    distribution: str = "zipf"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Where the archive and the spine are."""

    folder: Path

    @property
    def archive_folder(self) -> Path:
        """The archive's folder."""
        return self.folder / "archive"

    def archive(self) -> Archive:
        """Return the archive."""
        return Archive(FolderBlobs(self.archive_folder, durable=False), stamp="bench")

    @property
    def spine(self) -> Path:
        """The spine's file."""
        return self.folder / "spine.parquet"

    @property
    def files(self) -> str:
        """The archive's Parquet files, as a pattern."""
        return str(self.archive_folder / workload.STREAM / TOPIC_ID / "*" / "rows" / "*.parquet")

    def source(self) -> ArchiveEvents:
        """Return the archive's events."""
        archive = self.archive()
        return ArchiveEvents(archive, archive.snapshot({workload.STREAM: TOPIC_ID}))

    def archive_bytes(self) -> int:
        """Return the size of the archive's Parquet files."""
        return sum(path.stat().st_size for path in self.archive_folder.rglob("*.parquet"))


def prepare(folder: Path, sizes: Sizes) -> Prepared:
    """Return the workload in a folder; it is generated once, and is always the same."""
    made = Prepared(folder / f"{sizes.distribution}-{sizes.events}-{sizes.entities}-{sizes.spine}")
    wanted = json.dumps({**asdict(sizes), "days": DAYS, "seed": SEED})
    done = made.folder / _DONE
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return made
    if made.folder.exists():
        shutil.rmtree(made.folder)
    made.folder.mkdir(parents=True)
    load = workload.Workload(
        sizes.events, sizes.entities, sizes.spine, DAYS, SEED, sizes.distribution
    )
    events, spine = load.frames()
    spine.write_parquet(made.spine)
    archive = made.archive()
    # Partition by partition, each in the order of time, as a producer by key would have sent them.
    for partition in range(PARTITIONS):
        own = events.filter(pl.col("card") % PARTITIONS == partition)
        for first in range(0, own.height, _FILE_ROWS):
            _append(archive, partition, first, own[first : first + _FILE_ROWS])
    done.write_text(wanted, encoding="utf-8")
    return made


def _append(archive: Archive, partition: int, first: int, events: pl.DataFrame) -> None:
    raw = pl.struct("card", "ts", "amount").struct.json_encode()
    frame = events.with_columns(
        pl.int_range(first, first + pl.len(), dtype=pl.Int64).alias("__offset"),
        pl.col("ts").alias("__ts"),
        (pl.col("ts") + 20_000).alias("__arrival"),
        raw.cast(pl.Binary).alias("__raw"),
    )
    archive.append(
        workload.STREAM,
        TOPIC_ID,
        partition,
        frame,
        to_offset=first + events.height - 1,
        from_offset=first - 1,
        frontier_us=1 << 60,
    )
