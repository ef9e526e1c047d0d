"""Batches: runs of records as columns, the unit that is buffered, stored and cached."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from headwater_connectors.log.log import Records

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from headwater_connectors.log.log import Headers, Topic

__all__ = ["Batch", "Placed", "gather", "join", "payload_lengths", "split"]

_T = TypeVar("_T")

# What CPython needs for a record beside its bytes: the object's head, a pointer, a timestamp.
_RECORD_OVERHEAD_BYTES = 56


@dataclass(frozen=True, slots=True)
class Batch:
    """A run of records with consecutive offsets; `keys` and `headers` are None if all are empty.

    `payload_bytes` counts values, keys and headers.
    """

    timestamps_us: NDArray[np.int64]
    values: tuple[bytes | None, ...]
    keys: tuple[bytes | None, ...] | None
    headers: tuple[Headers, ...] | None
    payload_bytes: int

    def __len__(self) -> int:
        """Count the records."""
        return len(self.values)

    @property
    def memory_bytes(self) -> int:
        """Roughly what the batch occupies in memory."""
        return self.payload_bytes + _RECORD_OVERHEAD_BYTES * len(self.values)

    def stamped(self, timestamp_us: int) -> Batch:
        """Return the batch with one arrival for all its records."""
        timestamps_us = np.full(len(self.values), timestamp_us, np.int64)
        return Batch(timestamps_us, self.values, self.keys, self.headers, self.payload_bytes)


# A batch and the offset of its first record.
Placed = tuple[int, Batch]


def join(batches: Sequence[Batch]) -> Batch:
    """Return one batch with the records of all, in order."""
    if len(batches) == 1:
        return batches[0]
    keys = headers = None
    if any(batch.keys is not None for batch in batches):
        keys = tuple(chain.from_iterable(b.keys or (None,) * len(b) for b in batches))
    if any(batch.headers is not None for batch in batches):
        headers = tuple(chain.from_iterable(b.headers or ((),) * len(b) for b in batches))
    return Batch(
        np.concatenate([batch.timestamps_us for batch in batches]),
        tuple(chain.from_iterable(batch.values for batch in batches)),
        keys,
        headers,
        sum(batch.payload_bytes for batch in batches),
    )


def payload_lengths(items: Iterable[bytes | None], count: int) -> NDArray[np.int32]:
    """Return each item's length in bytes, -1 for None."""
    items = items if isinstance(items, tuple) else tuple(items)
    try:
        return np.fromiter(map(len, items), np.int32, count)
    except TypeError:
        return np.fromiter((-1 if x is None else len(x) for x in items), np.int32, count)


def split(batch: Batch, bytes_max: int) -> list[Batch]:
    """Cut a batch into batches of at most `bytes_max`, or of one record that is larger."""
    if batch.payload_bytes <= bytes_max:
        return [batch]
    count = len(batch)
    sizes = np.maximum(payload_lengths(batch.values, count), 0).astype(np.int64)
    if batch.keys is not None:
        sizes += np.maximum(payload_lengths(batch.keys, count), 0)
    if batch.headers is not None:
        sizes += _header_lengths(batch.headers, count)
    ends = np.cumsum(sizes)
    pieces: list[Batch] = []
    begin, done_bytes = 0, 0
    while begin < count:
        fitting = int(np.searchsorted(ends, done_bytes + bytes_max, side="right"))
        stop = max(begin + 1, fitting)
        piece_bytes = int(ends[stop - 1]) - done_bytes
        keys = None if batch.keys is None else batch.keys[begin:stop]
        headers = None if batch.headers is None else batch.headers[begin:stop]
        timestamps_us = batch.timestamps_us[begin:stop]
        pieces.append(Batch(timestamps_us, batch.values[begin:stop], keys, headers, piece_bytes))
        begin, done_bytes = stop, done_bytes + piece_bytes
    return pieces


def gather(
    topic: Topic, partition: int, offset: int, placed: Sequence[Placed], records_max: int
) -> Records:
    """Return at most `records_max` records from `offset` on out of adjoining batches.

    The first batch holds `offset`; each next one begins where the one before ended.
    """
    timestamps_us: list[NDArray[np.int64]] = []
    values: list[tuple[bytes | None, ...]] = []
    keys: list[tuple[bytes | None, ...]] = []
    headers: list[tuple[Headers, ...]] = []
    position, stop_offset = offset, offset + records_max
    for base, batch in placed:
        if position >= stop_offset:
            break
        begin, stop = position - base, min(len(batch), stop_offset - base)
        assert 0 <= begin < stop, "batches must adjoin"
        timestamps_us.append(batch.timestamps_us[begin:stop])
        values.append(batch.values[begin:stop])
        nothing = stop - begin
        keys.append((None,) * nothing if batch.keys is None else batch.keys[begin:stop])
        headers.append(((),) * nothing if batch.headers is None else batch.headers[begin:stop])
        position = base + stop
    return Records(
        topic=topic.name,
        topic_id=topic.id,
        partition=partition,
        offsets=np.arange(offset, position, dtype=np.int64),
        # Always a copy: stored columns are shared between consumers.
        timestamps_us=np.concatenate(timestamps_us),
        keys=_flat(keys),
        values=_flat(values),
        headers=_flat(headers),
    )


def _header_lengths(headers: Iterable[Headers], count: int) -> NDArray[np.int64]:
    """Return the bytes of each record's header names and values."""
    sizes = (sum(len(name) + len(value) for name, value in each) for each in headers)
    return np.fromiter(sizes, np.int64, count)


def _flat(pieces: list[tuple[_T, ...]]) -> Sequence[_T]:
    """Chain the pieces; one piece is returned as it is."""
    return pieces[0] if len(pieces) == 1 else tuple(chain.from_iterable(pieces))
