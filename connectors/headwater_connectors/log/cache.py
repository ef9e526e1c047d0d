"""A cache of decoded batches, so that several consumers near the end read each batch once."""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwater_connectors.log.batch import Batch, Placed

__all__ = ["BatchCache"]


class BatchCache:
    """The batches used last, at most `bytes_max` of them in memory; safe to share.

    `part` numbers a partition of a topic.
    """

    def __init__(self, bytes_max: int) -> None:
        """Start empty; with 0 bytes nothing is ever kept."""
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._batches: OrderedDict[tuple[int, int], Batch] = OrderedDict()
        self._bases: dict[int, list[int]] = {}
        self._bytes = 0

    @property
    def memory_bytes(self) -> int:
        """What the cached batches occupy."""
        return self._bytes

    def find(self, part: int, offset: int) -> Placed | None:
        """Return the batch that holds an offset, and its base offset."""
        with self._lock:
            bases = self._bases.get(part, ())
            index = bisect_right(bases, offset) - 1
            if index < 0:
                return None
            base = bases[index]
            batch = self._batches[part, base]
            if offset >= base + len(batch):
                return None
            self._batches.move_to_end((part, base))
            return base, batch

    def put(self, part: int, base: int, batch: Batch) -> None:
        """Keep a batch, in place of those unused for longest."""
        size = batch.memory_bytes
        if size > self._bytes_max:
            return
        with self._lock:
            if (part, base) in self._batches:
                self._batches.move_to_end((part, base))
                return
            self._batches[part, base] = batch
            insort(self._bases.setdefault(part, []), base)
            self._bytes += size
            while self._bytes > self._bytes_max:
                self._forget(*next(iter(self._batches)))

    def drop(self, part: int, before: int | None = None) -> None:
        """Forget a partition's batches, or those whose base is below `before`."""
        with self._lock:
            for base in list(self._bases.get(part, ())):
                if before is None or base < before:
                    self._forget(part, base)

    def _forget(self, part: int, base: int) -> None:
        self._bytes -= self._batches.pop((part, base)).memory_bytes
        bases = self._bases[part]
        del bases[bisect_right(bases, base) - 1]
        if not bases:
            del self._bases[part]
