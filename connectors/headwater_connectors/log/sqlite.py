"""Batches in SQLite: one row a batch, packed, and the offsets beside them in one database."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import StateError
from headwater_connectors.log.cache import BatchCache
from headwater_connectors.log.folder import DATABASE_NAME, FolderLock
from headwater_connectors.log.frame import FrameError, pack, unpack
from headwater_connectors.log.log import Topic
from headwater_connectors.log.storage import TopicState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from headwater_connectors.log.batch import Batch, Placed
    from headwater_connectors.log.storage import Append

__all__ = ["FORMAT_VERSION", "SqliteStorage"]

FORMAT_VERSION = 1
_APPLICATION_ID = 0x48574C47  # "HWLG"
_PAGE_BYTES = 16 << 10  # fewer links than at 4 KiB in a blob that overflows its page
_WAL_PAGES_MAX = 4096  # 64 MiB: a checkpoint copies and syncs, so not at every few flushes
_SWEEP_ROWS = 64  # batches freed while appends wait
_OFFSET_MAX = (1 << 63) - 1

# A partition's rows carry `part`, a number never used twice, so that a deleted topic's batches
# can be freed later. The index covers every search, so that none walks through blobs.
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE topics (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, append_time INTEGER NOT NULL
);
CREATE TABLE partitions (
    part INTEGER PRIMARY KEY AUTOINCREMENT, topic_id TEXT NOT NULL, partition INTEGER NOT NULL,
    start_offset INTEGER NOT NULL, end_offset INTEGER NOT NULL, UNIQUE (topic_id, partition)
);
CREATE TABLE batches (
    part INTEGER NOT NULL, base INTEGER NOT NULL, next_base INTEGER NOT NULL,
    latest_us INTEGER NOT NULL, frame BLOB NOT NULL
);
CREATE UNIQUE INDEX batches_by_base ON batches (part, base, next_base, latest_us);
CREATE TABLE committed (
    consumer_group TEXT NOT NULL, topic_id TEXT NOT NULL, partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL, PRIMARY KEY (consumer_group, topic_id, partition)
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {FORMAT_VERSION};
COMMIT;
"""


_READ = """
SELECT base, next_base, frame FROM batches
WHERE part = :part AND base < :stop
AND base >= (SELECT max(base) FROM batches WHERE part = :part AND base <= :offset)
ORDER BY base
"""
_FIRST_LATE = """
SELECT base FROM batches
WHERE part = :part AND next_base > :offset AND latest_us >= :timestamp_us
AND base >= coalesce((SELECT max(base) FROM batches WHERE part = :part AND base <= :offset), 0)
ORDER BY base LIMIT 1
"""
_SWEEP = """
DELETE FROM batches WHERE rowid IN (
    SELECT rowid FROM batches WHERE part = ? AND base < ? AND next_base <= ? ORDER BY base LIMIT ?
)
"""


class SqliteStorage:
    """A Storage in one SQLite file of a locked folder; one connection writes, one reads."""

    def __init__(self, folder: Path, *, cache_bytes_max: int) -> None:
        """Open or create the database.

        ConfigError if the folder can't be used or is in use; StateError if it holds other files,
        or the database is something else, of another format or damaged.
        """
        self._path = path = folder / DATABASE_NAME
        self._cache = BatchCache(cache_bytes_max)
        self._reading = threading.Lock()
        self._parts: dict[tuple[str, int], int] = {}
        # Parts that may hold batches below an offset that can't be read any more.
        self._unswept: dict[int, int] = {}
        with self._failures_named(), ExitStack() as undo:
            self._lock = FolderLock(folder)
            undo.callback(self._lock.release)
            self._writer = undo.enter_context(closing(_connect(path)))
            self._prepare()
            self._reader = undo.enter_context(closing(_connect(path)))
            undo.pop_all()

    def load(self) -> list[TopicState]:
        """Return the topics, and note what a killed process left unswept."""
        with self._failures_named():
            states = {
                topic_id: TopicState(Topic(name, topic_id, 0, bool(append_time)), [], [])
                for topic_id, name, append_time in self._writer.execute(
                    "SELECT id, name, append_time FROM topics"
                )
            }
            starts: dict[int, int] = {}
            for part, topic_id, start, end in self._writer.execute(
                "SELECT part, topic_id, start_offset, end_offset FROM partitions"
                " ORDER BY topic_id, partition"
            ):
                state = states[topic_id]
                self._parts[topic_id, len(state.starts)] = part
                state.starts.append(start)
                state.ends.append(end)
                starts[part] = start
            self._unswept = {
                part: starts.get(part, _OFFSET_MAX)
                for part in self._parts_with_batches()
                if starts.get(part) != 0
            }
        for state in states.values():
            state.topic = replace(state.topic, partitions=len(state.starts))
        return list(states.values())

    def create_topic(self, topic: Topic) -> None:
        """Store a new, empty topic."""
        parts: dict[tuple[str, int], int] = {}
        with self._transaction():
            self._writer.execute(
                "INSERT INTO topics VALUES (?, ?, ?)", (topic.id, topic.name, topic.append_time)
            )
            for partition in range(topic.partitions):
                row = self._writer.execute(
                    "INSERT INTO partitions (topic_id, partition, start_offset, end_offset)"
                    " VALUES (?, ?, 0, 0)",
                    (topic.id, partition),
                )
                assert row.lastrowid is not None
                parts[topic.id, partition] = row.lastrowid
        self._parts.update(parts)

    def delete_topic(self, topic: Topic) -> None:
        """Forget a topic and its committed offsets; `sweep` frees its batches."""
        with self._transaction():
            for statement in (
                "DELETE FROM topics WHERE id = ?",
                "DELETE FROM partitions WHERE topic_id = ?",
                "DELETE FROM committed WHERE topic_id = ?",
            ):
                self._writer.execute(statement, (topic.id,))
        for partition in range(topic.partitions):
            part = self._parts.pop((topic.id, partition))
            self._unswept[part] = _OFFSET_MAX
            self._cache.drop(part)

    def append(self, appends: Sequence[Append]) -> None:
        """Store all of the batches or none of them."""
        rows = []
        ends: dict[int, int] = {}
        for each in appends:
            part = self._parts[each.topic.id, each.partition]
            latest_us = int(each.batch.timestamps_us.max())
            ends[part] = each.base + len(each.batch)
            rows.append((part, each.base, ends[part], latest_us, pack(each.batch)))
        with self._transaction():
            self._writer.executemany("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", rows)
            self._writer.executemany(
                "UPDATE partitions SET end_offset = ? WHERE part = ?",
                [(end, part) for part, end in ends.items()],
            )
        for each, (part, *_) in zip(appends, rows, strict=True):
            self._cache.put(part, each.base, each.batch)

    def set_starts(self, topic: Topic, starts: Mapping[int, int]) -> None:
        """Store new start offsets; `sweep` frees the batches below."""
        parts = {self._parts[topic.id, partition]: start for partition, start in starts.items()}
        with self._transaction():
            self._writer.executemany(
                "UPDATE partitions SET start_offset = ? WHERE part = ?",
                [(start, part) for part, start in parts.items()],
            )
        self._unswept.update(parts)
        for part, start in parts.items():
            self._cache.drop(part, start)

    def sweep(self) -> bool:
        """Free some batches; return whether more are left."""
        for part, before in self._unswept.items():
            with self._transaction():
                swept = self._writer.execute(_SWEEP, (part, before, before, _SWEEP_ROWS)).rowcount
            if swept < _SWEEP_ROWS:
                del self._unswept[part]
            break
        return bool(self._unswept)

    def read(
        self, topic: Topic, partition: int, offset: int, records_max: int, bytes_max: int
    ) -> list[Placed]:
        """Return adjoining batches, from the cache as far as they are there."""
        part = self._parts.get((topic.id, partition))
        if part is None:
            return []
        placed: list[Placed] = []
        position, stop, bytes_left = offset, offset + records_max, bytes_max
        while position < stop and bytes_left > 0:
            found = self._cache.find(part, position)
            if found is None:
                return placed + self._fetch(part, position, stop, bytes_left)
            placed.append(found)
            position = found[0] + len(found[1])
            bytes_left -= found[1].memory_bytes
        return placed

    def first_at(self, topic: Topic, partition: int, start: int, timestamp_us: int) -> int | None:
        """Return the first offset, from `start` on, that arrived at or after a time."""
        part = self._parts.get((topic.id, partition))
        while part is not None:
            where = {"part": part, "offset": start, "timestamp_us": timestamp_us}
            row = self._one(_FIRST_LATE, where)
            if row is None:
                return None
            start = max(start, row[0])
            for base, batch in self.read(topic, partition, start, 1, 1):
                late_enough = batch.timestamps_us[start - base :] >= timestamp_us
                if late_enough.any():
                    return start + int(np.argmax(late_enough))
                # Its latest record is below the start.
                start = base + len(batch)
        return None

    def commit(self, group: str, topic: Topic, offsets: Mapping[int, int]) -> None:
        """Store all of a group's next offsets or none of them."""
        with self._transaction():
            self._writer.executemany(
                "INSERT OR REPLACE INTO committed VALUES (?, ?, ?, ?)",
                [(group, topic.id, partition, offset) for partition, offset in offsets.items()],
            )

    def committed(self, group: str, topic: Topic) -> dict[int, int]:
        """Return a group's next offsets."""
        with self._failures_named(), self._reading:
            return dict(
                self._reader.execute(
                    "SELECT partition, next_offset FROM committed"
                    " WHERE consumer_group = ? AND topic_id = ? ORDER BY partition",
                    (group, topic.id),
                )
            )

    def close(self) -> None:
        """Copy the write-ahead log into the database, close it and free the folder."""
        with self._failures_named(), self._reading, ExitStack() as closing_all:
            closing_all.callback(self._lock.release)
            closing_all.enter_context(closing(self._writer))
            closing_all.enter_context(closing(self._reader))

    def _prepare(self) -> None:
        """Check that the file is a log of this format; lay out a new one."""
        writer = self._writer
        application = _pragma(writer, "application_id")
        if application == 0 and _pragma(writer, "schema_version") == 0:
            writer.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            writer.execute("PRAGMA journal_mode = WAL")
            writer.executescript(_SCHEMA)
        elif application != _APPLICATION_ID:
            msg = f'"{self._path}" is the database of another application; give another folder'
            raise StateError(msg)
        version = _pragma(writer, "user_version")
        if version != FORMAT_VERSION:
            msg = (
                f'log "{self._path}" has format {version}, this release reads {FORMAT_VERSION};'
                " open it with the release that wrote it, or give another folder"
            )
            raise StateError(msg)

    def _fetch(self, part: int, offset: int, stop: int, bytes_max: int) -> list[Placed]:
        """Read adjoining batches from the database, and put them into the cache."""
        frames: list[tuple[int, int, bytes]] = []
        position, bytes_left = offset, bytes_max
        where = {"part": part, "offset": offset, "stop": stop}
        with (
            self._failures_named(),
            self._reading,
            closing(self._reader.execute(_READ, where)) as rows,
        ):
            for base, next_base, frame in rows:
                if not base <= position < next_base:
                    break
                frames.append((base, next_base, frame))
                position = next_base
                bytes_left -= len(frame)
                if bytes_left <= 0:
                    break
        placed = [(base, self._unpacked(base, end, frame)) for base, end, frame in frames]
        for base, batch in placed:
            self._cache.put(part, base, batch)
        return placed

    def _unpacked(self, base: int, next_base: int, frame: bytes) -> Batch:
        try:
            batch = unpack(frame)
        except FrameError as error:
            msg = (
                f'log "{self._path}": the batch of offsets {base} to {next_base - 1} is damaged'
                f" ({error}); restore the file from a copy, or read from {next_base} on"
            )
            raise StateError(msg) from error
        assert len(batch) == next_base - base, "a frame's count is checked by its checksum"
        return batch

    def _parts_with_batches(self) -> list[int]:
        """Return the parts that have batches, skipping through the index."""
        parts: list[int] = []
        last = 0
        while True:
            statement = "SELECT part FROM batches WHERE part > ? ORDER BY part LIMIT 1"
            row = self._writer.execute(statement, (last,)).fetchone()
            if row is None:
                return parts
            last = row[0]
            parts.append(last)

    def _one(self, statement: str, where: Mapping[str, int]) -> tuple[int] | None:
        with self._failures_named(), self._reading:
            row: tuple[int] | None = self._reader.execute(statement, where).fetchone()
            return row

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what is done inside, or undo all of it."""
        with self._failures_named():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._writer.execute("COMMIT")
            except BaseException:
                # SQLite itself has rolled back after some errors, such as a full disk.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        """Turn what SQLite raises into a StateError that names the file."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorname", "")
            cure = (
                "it is damaged: restore it from a copy, or give another folder"
                if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
                else "check the disk's free space and the file's permissions"
            )
            msg = f'log "{self._path}": {error}; {cure}'
            raise StateError(msg) from error


def _connect(path: Path) -> sqlite3.Connection:
    """Open a connection in autocommit mode, for any thread that holds its lock."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES_MAX}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_PAGES_MAX * _PAGE_BYTES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value
