"""A disk in memory that does what RocksDB without a write-ahead log does, crashes included.

Writes are whole batches. A flush makes all of them durable; a crash keeps those up to some batch
not older than the last flush. Only copies of a shard are real files, for the checkpoint store.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import msgspec

from headwater.state.store import Mark

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from simulation.fuse import Fuse

__all__ = ["Disk", "DiskStore", "DiskStores"]

_MARK = b"\x00mark"
_Rows = dict[bytes, bytes]


class _Folder:
    """One shard: what it held after each batch since the last flush, and at every flush."""

    def __init__(self, rows: _Rows) -> None:
        self.since_flush: list[_Rows] = [rows]
        self.flushed: list[_Rows] = [rows]

    def copy(self) -> _Folder:
        # The dictionaries are never changed, so that copies share them.
        other = _Folder({})
        other.since_flush = list(self.since_flush)
        other.flushed = list(self.flushed)
        return other

    def go_back(self, rows: _Rows) -> None:
        self.since_flush = [rows]


class Disk:
    """The state folders of one machine; `root` is where copies of them are made."""

    def __init__(self, new_root: Callable[[], Path]) -> None:
        self.folders: dict[int, _Folder] = {}
        self.root = new_root()
        self._new_root = new_root

    def copy(self) -> Disk:
        """Return a disk of its own with the same contents."""
        other = Disk(self._new_root)
        other.folders = {number: folder.copy() for number, folder in self.folders.items()}
        return other

    def empty(self) -> Disk:
        """Return a new disk."""
        return Disk(self._new_root)

    def crash(self, rng: random.Random) -> int:
        """Lose any number of the newest batches that were not flushed; return how many."""
        lost = 0
        for folder in self.folders.values():
            kept = rng.randrange(len(folder.since_flush))
            lost += len(folder.since_flush) - 1 - kept
            folder.go_back(folder.since_flush[kept])
        return lost

    def lose(self, rng: random.Random) -> None:
        """Put a shard back to any earlier flush, or lose it altogether."""
        number = rng.choice(sorted(self.folders))
        if rng.random() < 0.3:
            del self.folders[number]
        else:
            folder = self.folders[number]
            del folder.flushed[rng.randrange(len(folder.flushed)) + 1 :]
            folder.go_back(folder.flushed[-1])

    def durable_offset(self, shard: int) -> int:
        """Return the exchange offset that a shard goes on from after any crash."""
        mark = None if shard not in self.folders else _mark(self.folders[shard].flushed[-1])
        return 0 if mark is None else mark.next_offset

    def adopt(self, shard: int) -> bool:
        """Take over a folder that was restored; return whether there is one now."""
        path = self.root / f"shard-{shard:03}"
        if path.is_dir():
            rows: _Rows = {}
            for file in sorted(path.iterdir()):
                rows |= msgspec.msgpack.decode(file.read_bytes(), type=_Rows)
            shutil.rmtree(path)
            self.folders[shard] = _Folder(rows)
        return shard in self.folders


class DiskStore:
    """A Store on a folder of a Disk; see `headwater.state.store`."""

    def __init__(self, folder: _Folder, fuse: Fuse, path: Path) -> None:
        self.path = path
        self._folder = folder
        self._fuse = fuse

    @property
    def _rows(self) -> _Rows:
        return self._folder.since_flush[-1]

    def mark(self) -> Mark | None:
        """Return the last checkpoint's mark, or None for a new shard."""
        return _mark(self._rows)

    def get_many(self, view_id: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the blobs of keys, None where there is no row."""
        return [self._rows.get(_key(view_id, key)) for key in keys]

    def write(self, mark: Mark, rows: Iterable[tuple[str, Iterable[tuple[bytes, bytes]]]]) -> int:
        """Write rows by view and the mark in one atomic batch; return the bytes of the rows."""
        batch = {_key(view_id, key): blob for view_id, pairs in rows for key, blob in pairs}
        size = sum(map(len, batch.values()))
        self._fuse.point("write")
        batch[_MARK] = msgspec.msgpack.encode(mark)
        self._folder.since_flush.append(self._rows | batch)
        self._fuse.point("written")
        return size

    def delete_view(self, view_id: str) -> None:
        """Remove every row of a view."""
        self._fuse.point("delete view")
        prefix = _key(view_id, b"")
        kept = {key: blob for key, blob in self._rows.items() if not key.startswith(prefix)}
        self._folder.since_flush.append(kept)

    def flush(self) -> None:
        """Make every checkpoint written so far durable."""
        self._fuse.point("flush disk")
        self._folder.go_back(self._rows)
        self._folder.flushed.append(self._rows)
        self._fuse.point("disk flushed")

    def snapshot(self, folder: Path) -> Mark | None:
        """Make a copy in a new folder, a file for each view; return the mark it holds."""
        self.flush()
        parts: dict[str, _Rows] = {}
        for key, blob in self._rows.items():
            view_id = key.partition(b"\x00")[0].decode()
            name = "MARK" if key == _MARK else f"{view_id}.sst"
            parts.setdefault(name, {})[key] = blob
        folder.mkdir()
        for name, rows in parts.items():
            (folder / name).write_bytes(msgspec.msgpack.encode(rows))
        self._fuse.point("snapshot made")
        return self.mark()

    def close(self) -> None:
        """Flush and close; a process that is dead does neither."""
        if not self._fuse.dead:
            self.flush()


class DiskStores:
    """Stores on a Disk; see `headwater.state.store`."""

    durable = True

    def __init__(self, disk: Disk, fuse: Fuse) -> None:
        self._disk = disk
        self._fuse = fuse

    def folder(self, shard: int) -> Path:
        """Return where a shard is restored."""
        return self._disk.root / f"shard-{shard:03}"

    def exists(self, shard: int) -> bool:
        """Whether a shard has been written before."""
        return self._disk.adopt(shard)

    def open(self, shard: int) -> DiskStore:
        """Open a shard's store, making it if need be."""
        self._disk.adopt(shard)
        folder = self._disk.folders.setdefault(shard, _Folder({}))
        return DiskStore(folder, self._fuse, self.folder(shard))

    def close(self) -> None:
        """Keep everything: the disk outlives its worker."""


def _key(view_id: str, key: bytes) -> bytes:
    return view_id.encode() + b"\x00" + key


def _mark(rows: _Rows) -> Mark | None:
    raw = rows.get(_MARK)
    return None if raw is None else msgspec.msgpack.decode(raw, type=Mark)
