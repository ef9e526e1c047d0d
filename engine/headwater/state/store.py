"""A shard on disk: one RocksDB with rows and the mark, written by whole checkpoints only."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from headwater.errors import ConfigError, StateError
from headwater.plan.stamp import STATE_FORMAT
from headwater.state.loading import Loading  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

__all__ = ["Mark", "Store", "Stores", "check_unused", "temporary_folder"]

_MARK = b"\x00mark"
_WRITE_BUFFER_BYTES = 16 << 20
_CACHE_BYTES = 8 << 20
# RocksDB's own list of files grows by an edit per flush, and a snapshot copies it.
_FILE_LIST_BYTES_MAX = 1 << 20


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Where a checkpoint stands: everything a shard needs to go on from it."""

    format: int
    stamp: str
    namespace: str
    shard: int
    shards: int
    next_offset: int  # the exchange offset to go on from
    applied: dict[str, int]  # lane → last source offset applied
    horizon_us: int
    views: dict[str, str]  # view id → fingerprint, of those whose past is all there
    exchange_id: str = ""  # of the topic that next_offset is an offset of
    loading: dict[str, Loading] = msgspec.field(default_factory=dict)  # the other views

    @property
    def seen(self) -> frozenset[str]:
        """The views that the state has something of."""
        return frozenset((*self.views, *self.loading))

    def without(self, view_ids: Container[str]) -> Mark:
        """Return the mark of a state that has never seen these views."""
        views = {v: fingerprint for v, fingerprint in self.views.items() if v not in view_ids}
        loading = {v: one for v, one in self.loading.items() if v not in view_ids}
        return msgspec.structs.replace(self, views=views, loading=loading)


class Store:
    """The RocksDB of one shard. One writer; keys are `view id, 0, entity key`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
        options.set_max_background_jobs(2)
        options.set_max_manifest_file_size(_FILE_LIST_BYTES_MAX)
        table = BlockBasedOptions()
        table.set_block_cache(Cache(_CACHE_BYTES))
        table.set_bloom_filter(10, False)
        options.set_block_based_table_factory(table)
        try:
            self._db = Rdict(str(path), options)
        except Exception as error:  # rocksdict raises bare Exception for every RocksDB failure
            text = _one_line(error)
            if _is_locked(text):
                raise _in_use(path) from error
            msg = (
                f"state folder {path} can't be opened: {text}; restore it or remove it to rebuild"
                " from the log"
            )
            raise StateError(msg) from error
        self._options = WriteOptions()
        # A property, which the package's stubs call a method.
        setattr(self._options, "disable_wal", True)  # noqa: B010

    def mark(self) -> Mark | None:
        """Return the last checkpoint's mark, or None for a new shard."""
        return _decode_mark(self._db.get(_MARK), self.path)

    def get_many(self, view_id: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the blobs of keys, None where there is no row."""
        prefix = _prefix(view_id)
        found = self._db.get([prefix + key for key in keys])
        return cast("list[bytes | None]", found)

    def write(self, mark: Mark, rows: Iterable[tuple[str, Iterable[tuple[bytes, bytes]]]]) -> int:
        """Write rows by view and the mark in one atomic batch; return the bytes of the rows."""
        batch = WriteBatch(raw_mode=True)
        size = 0
        for view_id, pairs in rows:
            prefix = _prefix(view_id)
            for key, blob in pairs:
                batch.put(prefix + key, blob)
                size += len(blob)
        batch.put(_MARK, msgspec.msgpack.encode(mark))
        self._db.write(batch, self._options)
        return size

    def delete_view(self, view_id: str) -> None:
        """Remove every row of a view."""
        self._db.delete_range(_prefix(view_id), view_id.encode() + b"\x01")

    def flush(self) -> None:
        """Make every checkpoint written so far durable."""
        self._db.flush()

    def snapshot(self, folder: Path) -> Mark | None:
        """Make a consistent copy of the store in a new folder; return the mark it holds.

        Files of rows are hard links where the file system is the same: it takes milliseconds.
        What is not flushed is flushed first. The folder can be read and removed at any time.
        """
        try:
            Checkpoint(self._db).create_checkpoint(str(folder))
            copy = Rdict(str(folder), Options(raw_mode=True), access_type=AccessType.read_only())
            raw = copy.get(_MARK)
            copy.close()
        except Exception as error:  # rocksdict raises bare Exception for every RocksDB failure
            msg = (
                f"can't copy state folder {self.path} to {folder}: {_one_line(error)}; the folder"
                " must not exist, and the disk needs space for a flush"
            )
            raise StateError(msg) from error
        return _decode_mark(raw, folder)

    def close(self) -> None:
        """Flush and close."""
        self._db.flush()
        self._db.close()


class Stores:
    """The folder of the shards' stores; without `folder` a temporary one, for rows that don't fit.

    `durable` says that stores are there to go on from; else they only take what leaves memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.durable = folder is not None
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def folder(self, shard: int) -> Path:
        """Return where a shard's store is, or would be; the folder above it is there.

        ConfigError if it should be a temporary one and there is no place for that.
        """
        if self._folder is None:
            self._temporary = temporary_folder()
            self._folder = Path(self._temporary.name)
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"shard-{shard:03}"

    def exists(self, shard: int) -> bool:
        """Whether a shard has been written before."""
        return self._folder is not None and self.folder(shard).exists()

    def open(self, shard: int) -> Store:
        """Open a shard's store, making it if need be."""
        return Store(self.folder(shard))

    def close(self) -> None:
        """Remove the temporary folder, if there is one; every store is closed by now."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
            self._folder = None


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder that goes with what is returned; ConfigError where there is no place."""
    try:
        return tempfile.TemporaryDirectory(prefix="headwater-")
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        msg = (
            f"can't make a temporary folder{place}: {error.strerror or error}; name a folder with"
            " space that can be written to in the variable TMPDIR, or mount one at /tmp"
        )
        raise ConfigError(msg) from error


def check_unused(path: Path) -> None:
    """Check that no process, this one included, has the store of a folder open: ConfigError."""
    if not (path / "CURRENT").exists():
        return
    options = Options(raw_mode=True)
    options.create_if_missing(False)
    # RocksDB takes the lock first, and then refuses: nothing is read, written or replayed.
    options.set_error_if_exists(True)
    try:
        Rdict(str(path), options)
    except Exception as error:  # rocksdict raises bare Exception for every RocksDB failure
        if _is_locked(_one_line(error)):
            raise _in_use(path) from error


def _in_use(path: Path) -> ConfigError:
    return ConfigError(
        f"state folder {path} is in use by another process; stop it or use another folder"
    )


def _is_locked(text: str) -> bool:
    # Not just "lock": that is in "block checksum mismatch", and may be in a path.
    return "While lock file: " in text or "lock hold by current process" in text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _decode_mark(raw: bytes | None, path: Path) -> Mark | None:
    if raw is None:
        return None
    try:
        return msgspec.msgpack.decode(raw, type=Mark)
    except msgspec.DecodeError as error:
        msg = (
            f"state folder {path} has a mark this version can't read ({error}); it is from"
            f" another format (this one is {STATE_FORMAT}); remove the folder to rebuild it"
        )
        raise StateError(msg) from error


def _prefix(view_id: str) -> bytes:
    return view_id.encode() + b"\x00"
