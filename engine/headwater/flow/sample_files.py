"""The files of samples: written by workers, found by time, read by audits, deleted when old."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from headwater.flow.samples import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwater.flow.samples import Block, Sample
    from headwater_connectors.archive.blobs import BlobStore

__all__ = ["SampleFiles"]

_NAME = re.compile(r"/(\d{20})-(\d{20})-[0-9a-f]{8}\.json$")


class SampleFiles:
    """Files of samples of a namespace, named by worker and by when their vectors were served.

    `<namespace>/<worker>/<first µs>-<last µs>-<checksum>.json`
    """

    def __init__(self, blobs: BlobStore, namespace: str) -> None:
        self._blobs = blobs
        self._prefix = f"{namespace}/"

    @property
    def place(self) -> str:
        """Where they are, for messages."""
        return self._blobs.path(self._prefix.rstrip("/"))

    def write(self, worker: str, samples: list[Sample]) -> None:
        """Write a file; ArchiveError if it can't be."""
        served = [one.asked.served_us for one in samples]
        data = pack(worker, samples)
        name = f"{min(served):020d}-{max(served):020d}-{zlib.crc32(data):08x}.json"
        self._blobs.put(f"{self._prefix}{worker}/{name}", data)

    def names(self, since_us: int | None, until_us: int | None) -> list[str]:
        """Return the files that may hold vectors served in `[since, until)`, the newest first."""
        found = [
            (last_us, name)
            for name, first_us, last_us in self._all()
            if (since_us is None or last_us >= since_us)
            and (until_us is None or first_us < until_us)
        ]
        return [name for _, name in sorted(found, reverse=True)]

    def read(self, name: str) -> list[Block]:
        """Return the vectors of a file; ArchiveError if it is damaged or of another version."""
        return unpack(self._blobs.get(name), self._blobs.path(name))

    def sweep(self, before_us: int) -> int:
        """Delete the files with nothing that was served since then; return how many."""
        old = [name for name, _, last_us in self._all() if last_us < before_us]
        self._blobs.delete(old)
        return len(old)

    def _all(self) -> Iterator[tuple[str, int, int]]:
        """Yield each file's name, and when its first and last vectors were served."""
        for info in self._blobs.find(self._prefix):
            found = _NAME.search(info.name)
            if found is not None:
                yield info.name, int(found[1]), int(found[2])
