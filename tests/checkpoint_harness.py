"""Stores whose rows follow from their mark, and blobs that fail or let others go first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.flow.checkpoint_store import CheckpointStore, StoredCheckpoint
from headwater.state.store import Mark, Store
from headwater_connectors.archive.blobs import BlobInfo, FolderBlobs
from headwater_connectors.archive.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHARD = 3
EXCHANGE = "exchange-id"
VIEW = "v@1"
KEYS = 7


def mark_at(next_offset: int, *, namespace: str = "ns", shard: int = SHARD) -> Mark:
    return Mark(
        format=1,
        stamp="engine",
        namespace=namespace,
        shard=shard,
        shards=16,
        next_offset=next_offset,
        applied={"lane": next_offset},
        horizon_us=0,
        views={VIEW: "fingerprint"},
    )


def row(offset: int) -> tuple[bytes, bytes]:
    """Return the key and the value that the event at an offset writes."""
    return b"k%d" % (offset % KEYS), b"value %d" % offset


def rows_at(next_offset: int) -> dict[bytes, bytes]:
    """Return the rows of a shard that has applied all below an offset."""
    return dict(row(offset) for offset in range(next_offset))


def advance(store: Store, to_offset: int) -> Mark:
    """Apply events up to an offset and write and flush a checkpoint there."""
    held = store.mark()
    rows = dict(row(offset) for offset in range(held.next_offset if held else 0, to_offset))
    mark = mark_at(to_offset)
    store.write(mark, [(VIEW, rows.items())])
    store.flush()
    return mark


def contents(folder: Path) -> tuple[int, dict[bytes, bytes]]:
    """Return the offset and the rows of a shard's folder."""
    store = Store(folder)
    try:
        mark = store.mark()
        assert mark is not None
        rows = {key: value for key, value in store._db.items() if key.startswith(b"v")}
        return mark.next_offset, {key.partition(b"\x00")[2]: rows[key] for key in rows}
    finally:
        store.close()


def check(folder: Path, next_offset: int) -> None:
    """Check that a folder holds the rows of exactly one mark."""
    assert contents(folder) == (next_offset, rows_at(next_offset))


def newest(checkpoints: CheckpointStore) -> StoredCheckpoint:
    found = checkpoints.latest(SHARD, exchange_id=EXCHANGE)
    assert found is not None
    return found


def save(checkpoints: CheckpointStore, store: Store, to_offset: int) -> int:
    return checkpoints.save(SHARD, store, advance(store, to_offset), exchange_id=EXCHANGE)


def checkpoints_in(folder: Path, **changes) -> CheckpointStore:
    settings = {"namespace": "ns", "writer": "worker-a"} | changes
    blobs = settings.pop("blobs", None) or FolderBlobs(folder / "blobs", durable=False)
    return CheckpointStore(blobs, **settings)


def stored(folder: Path, what: str) -> list[Path]:
    return sorted((folder / "blobs/ns/exchange-id/shard-003" / what).iterdir())


def offsets(checkpoints: CheckpointStore) -> list[int]:
    return [one.next_offset for one in checkpoints.candidates(SHARD, exchange_id=EXCHANGE)]


class HookedBlobs(FolderBlobs):
    """Blobs in a folder that call `before` and `after` around each call, with its name."""

    def __init__(
        self,
        root: Path,
        before: Callable[[str], None] = lambda _: None,
        after: Callable[[str], None] = lambda _: None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(root, durable=False)
        self._before = before
        self._after = after
        self._clock = clock
        # With a clock: when each blob got its name, instead of the files' times.
        self.named_us: dict[str, int] = {}

    def _call(self, what: str, *args):
        self._before(what)
        result = getattr(FolderBlobs, what)(self, *args)
        if self._clock and what in {"put", "put_if_absent"}:
            self.named_us[args[0]] = self._clock()
        self._after(what)
        return result

    def put(self, name, data):
        return self._call("put", name, data)

    def put_if_absent(self, name, data):
        return self._call("put_if_absent", name, data)

    def put_file(self, name, path):
        return self._call("put_file", name, path)

    def copy(self, source, target):
        self._before("copy")
        FolderBlobs.put_file(self, target, self._location(source))
        self._after("copy")

    def get(self, name):
        return self._call("get", name)

    def delete(self, names):
        return self._call("delete", list(names))

    def find(self, prefix):
        found = self._call("find", prefix)
        if self._clock is None:
            return found
        return [BlobInfo(i.name, i.size_bytes, self.named_us.get(i.name, 0)) for i in found]


class RemoteBlobs(HookedBlobs):
    """As an object store: nothing can be linked to a local file."""

    def put_file(self, name, path):
        return self._call("put", name, path.read_bytes())

    def link(self, name, path):
        return False


class DyingBlobs(HookedBlobs):
    """Fails at the call of a number and ever after: before it has an effect, or after."""

    def __init__(self, root: Path, dies_at: int, *, late: bool) -> None:
        def count(_what: str) -> None:
            self.calls += 1
            if self.calls >= dies_at:
                raise ArchiveError("the store doesn't answer")

        super().__init__(root, after=count) if late else super().__init__(root, before=count)
        self.calls = 0
