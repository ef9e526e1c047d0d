"""A bucket: blobs in memory that all workers share, and that fail for each of them by seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from headwater.flow.checkpoint_manifest import StoredCheckpoint
from headwater_connectors.archive.blobs import BlobInfo
from headwater_connectors.archive.errors import AlreadyExistsError, ArchiveError, MissingBlobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import Self

    from simulation.broker import Broker
    from simulation.fuse import Fuse

__all__ = ["Bucket", "HostBlobs"]

_T = TypeVar("_T")


class Bucket:
    """Blobs by name, each with the store's time at which it got it."""

    def __init__(self) -> None:
        self.blobs: dict[str, tuple[bytes, int]] = {}

    def kept_offset(self, shard: int) -> int:
        """Return the exchange offset that the newest checkpoint of a shard goes on from."""
        place = f"/shard-{shard:03}/manifests/"
        parsed = (StoredCheckpoint.parse(shard, name) for name in self.blobs if place in name)
        return max((one.next_offset for one in parsed if one is not None), default=0)


@dataclass
class _Reader:
    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class HostBlobs:
    """A BlobStore for one process: a call may be its last, or fail before or after its effect."""

    def __init__(self, bucket: Bucket, broker: Broker, fuse: Fuse) -> None:
        self._blobs = bucket.blobs
        self._broker = broker
        self._fuse = fuse

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._call("put", lambda: self._put(name, bytes(data)))

    def put_if_absent(self, name: str, data: bytes | memoryview) -> None:
        def put() -> None:
            if name in self._blobs:
                raise AlreadyExistsError(name)
            self._put(name, bytes(data))

        self._call("put if absent", put)

    def put_file(self, name: str, path: Path) -> None:
        self._call("put file", lambda: self._put(name, path.read_bytes()))

    def copy(self, source: str, target: str) -> None:
        self._call("copy", lambda: self._put(target, self._get(source)))

    def get(self, name: str) -> bytes:
        return self._call("get", lambda: self._get(name))

    def exists(self, name: str) -> bool:
        return self._call("exists", lambda: name in self._blobs)

    def open(self, name: str) -> _Reader:
        return self._call("open", lambda: _Reader(self._get(name)))

    def link(self, name: str, path: Path) -> bool:
        return False

    def find(self, prefix: str) -> list[BlobInfo]:
        def found() -> list[BlobInfo]:
            names = sorted(name for name in self._blobs if name.startswith(prefix))
            return [BlobInfo(n, len(self._blobs[n][0]), self._blobs[n][1]) for n in names]

        return self._call("find", found)

    def folders(self, prefix: str) -> list[str]:
        def found() -> list[str]:
            rests = (n.removeprefix(prefix) for n in self._blobs if n.startswith(prefix))
            return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

        return self._call("folders", found)

    def delete(self, names: Iterable[str]) -> None:
        for name in list(names):
            self._call("delete", lambda name=name: self._blobs.pop(name, None))

    def path(self, name: str) -> str:
        return f"bucket/{name}"

    def _put(self, name: str, data: bytes) -> None:
        self._blobs[name] = (data, self._broker.clock.now_us)

    def _get(self, name: str) -> bytes:
        if name not in self._blobs:
            msg = f"{name} is missing"
            raise MissingBlobError(msg)
        return self._blobs[name][0]

    def _call(self, what: str, effect: Callable[[], _T]) -> _T:
        self._fuse.point(what)
        if self._broker.strikes("blob"):
            msg = f"{what}: the store doesn't answer"
            raise ArchiveError(msg)
        done = effect()
        if self._broker.strikes("blob"):
            msg = f"{what}: the store's answer was lost"
            raise ArchiveError(msg)
        return done
