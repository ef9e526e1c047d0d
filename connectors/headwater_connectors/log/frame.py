"""Frames: a batch as one checked run of bytes, for implementations that store blobs.

Little endian: CRC-32 of all that follows, record count, flags, arrivals (one if all are equal),
value lengths, values; then keys and headers where the flags say there are any. A length of -1
is None. Header names and values are stored as two runs, with a count per record.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from headwater_connectors.log.batch import Batch, payload_lengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from headwater_connectors.log.log import Headers

__all__ = ["FrameError", "pack", "unpack"]

_CRC = struct.Struct("<I")
_HEAD = struct.Struct("<II")  # count, flags
_ONE_TIMESTAMP, _HAS_KEYS, _HAS_HEADERS = 1, 2, 4
_INT32, _INT64 = np.dtype("<i4"), np.dtype("<i8")


class FrameError(ValueError):
    """Bytes that are not a whole, unchanged frame."""


def pack(batch: Batch) -> bytes:
    """Return a batch, of at least one record, as a frame."""
    timestamps_us = batch.timestamps_us
    flags = 0
    if (timestamps_us == timestamps_us[0]).all():
        flags, timestamps_us = _ONE_TIMESTAMP, timestamps_us[:1]
    sections = [timestamps_us.astype(_INT64, copy=False).tobytes(), *_packed_items(batch.values)]
    if batch.keys is not None:
        flags |= _HAS_KEYS
        sections += _packed_items(batch.keys)
    if batch.headers is not None:
        flags |= _HAS_HEADERS
        sections += _packed_headers(batch.headers)
    sections.insert(0, _HEAD.pack(len(batch), flags))
    crc = 0
    for section in sections:
        crc = zlib.crc32(section, crc)
    return b"".join([_CRC.pack(crc), *sections])


def unpack(frame: bytes) -> Batch:
    """Return the batch of a frame; FrameError if a byte of it was lost or changed."""
    body_at = _CRC.size
    if len(frame) < body_at + _HEAD.size:
        msg = f"only {len(frame)} bytes"
        raise FrameError(msg)
    if zlib.crc32(memoryview(frame)[body_at:]) != _CRC.unpack_from(frame)[0]:
        msg = "its checksum does not match"
        raise FrameError(msg)
    count, flags = _HEAD.unpack_from(frame, body_at)
    reader = _Reader(frame, body_at + _HEAD.size)
    if flags & _ONE_TIMESTAMP:
        timestamps_us = np.full(count, reader.array(_INT64, 1)[0], np.int64)
    else:
        timestamps_us = reader.array(_INT64, count).astype(np.int64)
    payload_at = reader.payload_bytes
    values = reader.items(count)
    keys = reader.items(count) if flags & _HAS_KEYS else None
    headers = reader.headers(count) if flags & _HAS_HEADERS else None
    return Batch(timestamps_us, values, keys, headers, reader.payload_bytes - payload_at)


def _packed_items(items: tuple[bytes | None, ...]) -> list[bytes]:
    """Return the lengths and the bytes of values or keys."""
    lengths = payload_lengths(items, len(items)).astype(_INT32, copy=False)
    present: Sequence[bytes] = [item for item in items if item is not None]
    return [lengths.tobytes(), b"".join(present)]


def _packed_headers(headers: tuple[Headers, ...]) -> list[bytes]:
    """Return the count per record, then the names and the values as items."""
    counts = np.fromiter(map(len, headers), _INT32, len(headers))
    flat = [pair for each in headers for pair in each]
    names = tuple(name.encode() for name, _ in flat)
    return [counts.tobytes(), *_packed_items(names), *_packed_items(tuple(v for _, v in flat))]


class _Reader:
    """Walks through a frame's sections."""

    def __init__(self, frame: bytes, position: int) -> None:
        self._frame = frame
        self._position = position
        self.payload_bytes = 0

    def array(self, dtype: np.dtype[np.signedinteger], count: int) -> NDArray[np.signedinteger]:
        """Return a read-only view of the next `count` integers."""
        found = np.frombuffer(self._frame, dtype, count, self._position)
        self._position += found.nbytes
        return found

    def items(self, count: int) -> tuple[bytes | None, ...]:
        """Return the next `count` values or keys."""
        lengths = self.array(_INT32, count)
        ends_at = np.cumsum(np.maximum(lengths, 0), dtype=np.int64)
        total = int(ends_at[-1]) if count else 0
        ends = (ends_at + self._position).tolist()
        begins = [self._position, *ends[:-1]]
        frame = self._frame
        self._position += total
        self.payload_bytes += total
        if count and int(lengths.min()) < 0:
            return tuple(
                [
                    None if length < 0 else frame[begin:end]
                    for length, begin, end in zip(lengths.tolist(), begins, ends, strict=True)
                ]
            )
        # A list first: CPython builds it faster than a tuple from a generator.
        return tuple([frame[begin:end] for begin, end in zip(begins, ends, strict=False)])

    def headers(self, count: int) -> tuple[Headers, ...]:
        """Return the next `count` records' headers."""
        counts = self.array(_INT32, count).tolist()
        total = sum(counts)
        names, values = self.items(total), self.items(total)
        pairs = [(n.decode(), v) for n, v in zip(names, values, strict=True) if n is not None]
        out: list[Headers] = []
        at = 0
        for length in counts:
            out.append(tuple(pairs[at : at + length]))  # type: ignore[arg-type]
            at += length
        return tuple(out)
