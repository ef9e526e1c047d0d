"""The producer of a log inside one process: buffers records, appends them in batches."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import StateError
from headwater_connectors.log.batch import Batch, join, split
from headwater_connectors.log.log import DeliveryError, DeliveryFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from headwater_connectors.log.local import LocalLog
    from headwater_connectors.log.log import Headers, Topic

__all__ = ["LocalProducer"]

_BYTES_OR_NONE = {bytes, type(None)}


class LocalProducer:
    """A Producer that appends when its buffer is full or flushed.

    One flush is one `LocalLog.append`: in a durable log, all of the buffer or nothing of it.
    """

    def __init__(self, log: LocalLog) -> None:
        """Start with an empty buffer."""
        self._log = log
        self._limits = log.limits
        self._lock = threading.Lock()
        self._buffers: dict[tuple[str, int], _Buffer] = {}
        self._buffered_bytes = 0
        self._closed = False

    def send(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp_us: int | None = None,
    ) -> None:
        """Send one record; see Producer."""
        if type(value) not in _BYTES_OR_NONE or type(key) not in _BYTES_OR_NONE:
            msg = f"a record's value and key are bytes or None, not {type(value)}, {type(key)}"
            raise TypeError(msg)
        target = self._log.partition_of(topic, partition)
        size = (0 if value is None else len(value)) + (0 if key is None else len(key))
        if size > self._limits.record_bytes_max:
            raise DeliveryError(self._too_large(topic, partition, size))
        stamp = self._log.clock() if timestamp_us is None else int(timestamp_us)
        with self._lock:
            buffer = self._buffer(target, partition)
            self._buffered_bytes += buffer.add(value, key, headers, stamp, size)
            if self._buffered_bytes > self._limits.buffer_bytes_max:
                self._drain()

    def send_many(
        self,
        topic: str,
        partition: int,
        values: Sequence[bytes | None],
        *,
        keys: Sequence[bytes | None] | None = None,
        timestamps_us: NDArray[np.int64] | Sequence[int] | None = None,
        headers: Sequence[Headers] | None = None,
    ) -> None:
        """Send a run of records in order; see Producer."""
        target = self._log.partition_of(topic, partition)
        if not len(values):
            return
        batch = self._batch(values, keys, timestamps_us, headers)
        if batch.payload_bytes > self._limits.record_bytes_max:
            # Only then can one of them be too large: nothing of the call is sent.
            keys_ = batch.keys or (None,) * len(batch)
            sizes = (
                len(v or b"") + len(k or b"") for v, k in zip(batch.values, keys_, strict=True)
            )
            largest = max(sizes)
            if largest > self._limits.record_bytes_max:
                raise DeliveryError(self._too_large(topic, partition, largest, len(batch)))
        for piece in split(batch, self._limits.batch_bytes_max):
            with self._lock:
                self._buffer(target, partition).add_batch(piece)
                self._buffered_bytes += piece.memory_bytes
                if self._buffered_bytes > self._limits.buffer_bytes_max:
                    self._drain()

    def flush(self) -> None:
        """Append everything buffered, or raise DeliveryError."""
        with self._lock:
            self._drain()

    def dispatch(self) -> None:
        """Write what was sent: in one process that is no longer than the way."""
        self.flush()

    def close(self) -> None:
        """Flush and refuse further records."""
        with self._lock:
            if not self._closed:
                self._drain()
                self._closed = True

    def _buffer(self, topic: Topic, partition: int) -> _Buffer:
        """Return the buffer of a partition of this very topic."""
        if self._closed:
            msg = f'producer is closed: can\'t send to "{topic.name}"; take a new one from the log'
            raise StateError(msg)
        key = (topic.id, partition)
        buffer = self._buffers.get(key)
        if buffer is None:
            buffer = _Buffer(topic, partition, self._limits.batch_bytes_max)
            self._buffers[key] = buffer
        return buffer

    def _drain(self) -> None:
        """Append the whole buffer and empty it, whatever comes of it."""
        buffers, self._buffers, self._buffered_bytes = self._buffers, {}, 0
        if not buffers:
            return
        appends = [(b.topic, b.partition, batch) for b in buffers.values() for batch in b.batches()]
        failures = self._log.append(appends)
        if failures:
            raise DeliveryError(*failures)

    def _batch(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
        timestamps_us: NDArray[np.int64] | Sequence[int] | None,
        headers: Sequence[Headers] | None,
    ) -> Batch:
        """Check a run of records and copy its columns."""
        count = len(values)
        for name, column in (
            ("keys", keys),
            ("timestamps_us", timestamps_us),
            ("headers", headers),
        ):
            if column is not None and len(column) != count:
                msg = f"{count} values but {len(column)} {name}: give one for each value"
                raise ValueError(msg)
        if timestamps_us is None:
            stamps = np.full(count, self._log.clock(), np.int64)
        else:
            stamps = np.array(timestamps_us, dtype=np.int64)
        kept_values, value_bytes = _checked(values)
        kept_keys, key_bytes = (None, 0) if keys is None else _checked(keys)
        kept_headers, header_bytes = None, 0
        if headers is not None and any(headers):
            kept_headers = tuple(headers)
            header_bytes = sum(map(_header_bytes, kept_headers))
        payload_bytes = value_bytes + key_bytes + header_bytes
        return Batch(stamps, kept_values, kept_keys, kept_headers, payload_bytes)

    def _too_large(
        self, topic: str, partition: int, size: int, records: int = 1
    ) -> DeliveryFailure:
        reason = f"a record of {size} bytes is above the limit of {self._limits.record_bytes_max}"
        return DeliveryFailure(topic, partition, records, reason)


class _Buffer:
    """Records waiting for one partition: sealed batches, then columns still growing."""

    def __init__(self, topic: Topic, partition: int, batch_bytes_max: int) -> None:
        self.topic = topic
        self.partition = partition
        self._batch_bytes_max = batch_bytes_max
        self._sealed: list[Batch] = []
        self._open_bytes = 0
        self._values: list[bytes | None] = []
        self._keys: list[bytes | None] = []
        self._headers: list[Headers] = []
        self._timestamps_us: list[int] = []

    def add(
        self, value: bytes | None, key: bytes | None, headers: Headers, stamp: int, size: int
    ) -> int:
        """Add a record; return the bytes it occupies, its overhead included."""
        size += _header_bytes(headers)
        if self._open_bytes + size > self._batch_bytes_max:
            self._seal()
        self._values.append(value)
        self._keys.append(key)
        self._headers.append(headers)
        self._timestamps_us.append(stamp)
        self._open_bytes += size
        return size + _OPEN_RECORD_BYTES

    def add_batch(self, batch: Batch) -> None:
        """Add a batch behind the records that are there."""
        self._seal()
        self._sealed.append(batch)

    def batches(self) -> list[Batch]:
        """Return everything, in order, small neighbours joined."""
        self._seal()
        groups: list[list[Batch]] = []
        group_bytes = 0
        for batch in self._sealed:
            if groups and group_bytes + batch.payload_bytes <= self._batch_bytes_max:
                groups[-1].append(batch)
                group_bytes += batch.payload_bytes
            else:
                groups.append([batch])
                group_bytes = batch.payload_bytes
        return [join(group) for group in groups]

    def _seal(self) -> None:
        """Make a batch of the open columns."""
        if not self._values:
            return
        keys = tuple(self._keys) if any(key is not None for key in self._keys) else None
        headers = tuple(self._headers) if any(self._headers) else None
        stamps = np.array(self._timestamps_us, dtype=np.int64)
        self._sealed.append(Batch(stamps, tuple(self._values), keys, headers, self._open_bytes))
        self._values, self._keys, self._headers, self._timestamps_us = [], [], [], []
        self._open_bytes = 0


# A value's and a timestamp's object head and five pointers in lists.
_OPEN_RECORD_BYTES = 120


def _checked(items: Sequence[bytes | None]) -> tuple[tuple[bytes | None, ...], int]:
    """Return a copy and its bytes in all; TypeError if an item is neither bytes nor None."""
    kept = tuple(items)
    kinds = set(map(type, kept))
    if not kinds <= _BYTES_OR_NONE:
        others = ", ".join(sorted(kind.__name__ for kind in kinds - _BYTES_OR_NONE))
        msg = f"a record's value and key are bytes or None, not {others}"
        raise TypeError(msg)
    if type(None) in kinds:
        return kept, sum(len(item) for item in kept if item is not None)
    return kept, sum(map(len, kept))  # type: ignore[arg-type]


def _header_bytes(headers: Headers) -> int:
    """Return the bytes of a record's header names and values."""
    return sum([len(name) + len(value) for name, value in headers]) if headers else 0
