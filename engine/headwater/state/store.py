"""A shard on disk: one RocksDB with rows and the mark, written by whole checkpoints only."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
from rocksdict import (
    BlockBasedOptions,
    Cache,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from headwater.errors import ConfigError, StateError
from headwater.plan.stamp import STATE_FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Mark", "Store", "Stores"]

_MARK = b"\x00mark"
_WRITE_BUFFER_BYTES = 16 << 20
_CACHE_BYTES = 8 << 20


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
    views: dict[str, str]  # view id → fingerprint


class Store:
    """The RocksDB of one shard. One writer; keys are `view id, 0, entity key`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
        options.set_max_background_jobs(2)
        table = BlockBasedOptions()
        table.set_block_cache(Cache(_CACHE_BYTES))
        table.set_bloom_filter(10, False)
        options.set_block_based_table_factory(table)
        try:
            self._db = Rdict(str(path), options)
        except Exception as error:  # rocksdict raises bare Exception for every RocksDB failure
            text = " ".join(str(error).split())
            if "lock" in text.lower():
                msg = (
                    f"state folder {path} is in use by another process; stop it or use another"
                    " folder"
                )
                raise ConfigError(msg) from error
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
        raw = self._db.get(_MARK)
        if raw is None:
            return None
        try:
            return msgspec.msgpack.decode(raw, type=Mark)
        except msgspec.DecodeError as error:
            msg = (
                f"state folder {self.path} has a mark this version can't read ({error}); it is from"
                f" another format (this one is {STATE_FORMAT}); remove the folder to rebuild it"
            )
            raise StateError(msg) from error

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

    def _path(self, shard: int) -> Path:
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="headwater-")
            self._folder = Path(self._temporary.name)
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"shard-{shard:03}"

    def exists(self, shard: int) -> bool:
        """Whether a shard has been written before."""
        return self._folder is not None and self._path(shard).exists()

    def open(self, shard: int) -> Store:
        """Open a shard's store, making it if need be."""
        return Store(self._path(shard))

    def close(self) -> None:
        """Remove the temporary folder, if there is one; every store is closed by now."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
            self._folder = None


def _prefix(view_id: str) -> bytes:
    return view_id.encode() + b"\x00"
