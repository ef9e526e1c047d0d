"""Canonical keys: the bytes that name an entity on the exchange, on disk and in memory.

A key is its parts in the entity's order, each a tag byte and a payload, little-endian:

| part | tag | payload |
|---|---|---|
| string | 1 | u32 length, UTF-8 bytes |
| integer of any width below 2⁶³ | 2 | 8 bytes, two's complement |
| UInt64 from 2⁶³ on | 3 | 8 bytes |
| Boolean | 4 | 1 byte |
| binary | 5 | u32 length, bytes |
| date | 6 | 4 bytes, days since 1970 |
| datetime | 7 | 8 bytes, µs since 1970, UTC |

So Int32 5 and Int64 5 are one key, and ("a", "bc") is not ("ab", "c"). A datetime without a time
zone is taken as UTC; nanoseconds are cut to the microsecond below.
"""

from __future__ import annotations

import datetime as dt
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from headwater.errors import DefinitionError, StateError, did_you_mean
from headwater.kernels.keys import (
    add_ragged_lengths,
    gather_offsets,
    gather_rows,
    put_bytes,
    put_halves,
    put_ragged,
    put_words,
    sum_lengths,
)
from headwater.kernels.xxh3 import hash_ragged
from headwater.state.arrow_views import view_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from numpy.typing import NDArray

__all__ = ["Keys", "canonical_keys", "check_key_dtype", "decode_key"]

_STRING, _INTEGER, _LARGE, _BOOLEAN, _BINARY, _DATE, _DATETIME = range(1, 8)

_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
_ALLOWED = (pl.String, *_INTEGERS, pl.Boolean, pl.Binary, pl.Date, pl.Datetime)
_MILLISECONDS_MAX = ((1 << 63) - 1) // 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Keys as ragged bytes: key i is data[offsets[i]:offsets[i + 1]].

    A row with a null part isn't `valid` and has no bytes; every other key has at least one. The
    arrays are shared between slices and must not be written to.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    valid: NDArray[np.bool_]
    hashes: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.valid)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Bytes of each key; 0 for a null one."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the keys of `rows` (int64), in that order, repeated where rows are."""
        rows = np.ascontiguousarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows reach from {rows.min()} to {rows.max()}, keys to {len(self)}")
        offsets = np.empty(len(rows) + 1, np.int64)
        data = np.empty(gather_offsets(self.offsets, rows, offsets), np.uint8)
        gather_rows(self.data, self.offsets, rows, offsets, data)
        return type(self)(data, offsets, self.valid[rows], self.hashes[rows])

    def slice(self, start: int, stop: int) -> Self:
        """Return keys `start` to `stop`, without copying."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"slice {start}:{stop} of {len(self)} keys")
        offsets = self.offsets[start : stop + 1]
        return type(self)(self.data, offsets, self.valid[start:stop], self.hashes[start:stop])

    def to_list(self) -> list[bytes]:
        """Return each key's bytes; b"" for a null one."""
        first, ends = int(self.offsets[0]), self.offsets.tolist()
        joined = self.data[first : ends[-1]].tobytes()
        return [joined[start - first : stop - first] for start, stop in pairwise(ends)]

    @classmethod
    def from_list(cls, keys: Sequence[bytes]) -> Self:
        """Return keys from their bytes; b"" is a null one."""
        offsets = np.zeros(len(keys) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)), out=offsets[1:])
        # Through a bytearray, because an array over bytes is read-only.
        return cls._hashed(np.frombuffer(bytearray(b"".join(keys)), np.uint8), offsets)

    @classmethod
    def from_arrow(cls, array: pa.Array | pa.ChunkedArray) -> Self:
        """Return keys from a binary or large_binary array; a null or b"" is a null key.

        A large_binary array without nulls isn't copied.
        """
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if not pa.types.is_large_binary(array.type):
            array = array.cast(pa.large_binary())
        if array.null_count:
            # There may be bytes under a null, and a null key has none.
            array = array.fill_null(b"")
        data, offsets = _ragged_views(array)
        return cls._hashed(data, offsets)

    def to_arrow(self) -> pa.LargeBinaryArray:
        """Return the keys as an array over the same memory; null where a key is."""
        null_count = len(self) - int(np.count_nonzero(self.valid))
        validity = pa.py_buffer(np.packbits(self.valid, bitorder="little")) if null_count else None
        buffers = [validity, pa.py_buffer(self.offsets), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(pa.large_binary(), len(self), buffers, null_count)

    @classmethod
    def _hashed(cls, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Self:
        hashes = np.empty(len(offsets) - 1, np.uint64)
        hash_ragged(data, offsets, hashes)
        return cls(data, offsets, np.diff(offsets) > 0, hashes)


@dataclass(frozen=True, slots=True)
class _Ragged:
    """A part of any length, as ragged bytes."""

    tag: int
    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def measure(self, lengths: NDArray[np.int64]) -> None:
        add_ragged_lengths(self.offsets, lengths)

    def write(
        self, valid: NDArray[np.bool_], cursors: NDArray[np.int64], data: NDArray[np.uint8]
    ) -> None:
        put_ragged(np.uint8(self.tag), self.data, self.offsets, valid, cursors, data)


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A part of 1, 4 or 8 bytes; `tag_negative` marks an 8-byte value whose top bit is set."""

    tag: int
    tag_negative: int
    values: NDArray[np.uint8] | NDArray[np.int32] | NDArray[np.int64]

    def measure(self, lengths: NDArray[np.int64]) -> None:
        lengths += 1 + self.values.itemsize

    def write(
        self, valid: NDArray[np.bool_], cursors: NDArray[np.int64], data: NDArray[np.uint8]
    ) -> None:
        tag = np.uint8(self.tag)
        # Each view is of the array's own type, which it tells the type checker.
        if self.values.dtype == np.int64:
            tag_negative = np.uint8(self.tag_negative)
            put_words(tag, tag_negative, self.values.view(np.int64), valid, cursors, data)
        elif self.values.dtype == np.int32:
            put_halves(tag, self.values.view(np.int32), valid, cursors, data)
        else:
            put_bytes(tag, self.values.view(np.uint8), valid, cursors, data)


def check_key_dtype(dtype: pl.DataType | type[pl.DataType], column: str = "") -> None:
    """Refuse a type that can't be part of a key; `column` names it in the error."""
    if dtype not in _ALLOWED:
        named = f'key column "{column}" is {dtype}' if column else f"{dtype} can't be part of a key"
        allowed = ", ".join(str(one) for one in _ALLOWED)
        raise DefinitionError(
            f"{named}; a key is made of {allowed}: cast it, or use another column"
        )


def canonical_keys(frame: pl.DataFrame, columns: Sequence[str]) -> Keys:
    """Return the key of each row of `frame`, its parts in the order of `columns`.

    A row is null where any part is. A datetime in milliseconds beyond the range of microseconds is
    null too, because it would wrap to another instant. Keys of any length come out; see `lengths`.
    """
    assert columns, "a key has at least one part"
    valid = np.ones(frame.height, np.bool_)
    parts = []
    for column in columns:
        series = _stored(_column(frame, column))
        if series.null_count():
            valid &= series.is_not_null().to_numpy()
        parts.append(_part(series, frame.schema[column]))
    lengths = np.zeros(frame.height, np.int64)
    for part in parts:
        part.measure(lengths)
    offsets = np.empty(frame.height + 1, np.int64)
    data = np.empty(sum_lengths(lengths, valid, offsets), np.uint8)
    cursors = offsets[:-1].copy()
    for part in parts:
        part.write(valid, cursors, data)
    hashes = np.empty(frame.height, np.uint64)
    hash_ragged(data, offsets, hashes)
    return Keys(data, offsets, valid, hashes)


def _column(frame: pl.DataFrame, column: str) -> pl.Series:
    if column not in frame.columns:
        hint = did_you_mean(column, frame.columns)
        raise DefinitionError(f'no key column "{column}" in the columns {frame.columns}.{hint}')
    check_key_dtype(frame.schema[column], column)
    return frame[column]


def _stored(series: pl.Series) -> pl.Series:
    """Return a column as what a key stores of it: text, bytes, days, µs, or one integer type."""
    dtype = series.dtype
    if isinstance(dtype, pl.Datetime):
        return _microseconds(series.to_physical(), dtype.time_unit)
    if dtype == pl.UInt64:
        return series.reinterpret(signed=True)
    if dtype.is_integer():
        return series.cast(pl.Int64)
    if dtype == pl.Boolean:
        return series.cast(pl.UInt8)
    return series.to_physical()


def _microseconds(times: pl.Series, unit: str) -> pl.Series:
    # Not cast_time_unit: Polars 2.1 panics on instants that its calendar can't show.
    if unit == "ns":
        return times // 1_000
    if unit == "ms":
        fits = times.is_between(-_MILLISECONDS_MAX, _MILLISECONDS_MAX)
        return pl.select(pl.when(fits).then(times * 1_000)).to_series()
    return times


def _part(series: pl.Series, dtype: pl.DataType) -> _Ragged | _Fixed:
    if dtype in (pl.String, pl.Binary):
        # Oldest means large_string and large_binary: one data buffer, not the views Polars keeps.
        array = series.to_arrow(compat_level=pl.CompatLevel.oldest())
        return _Ragged(_STRING if dtype == pl.String else _BINARY, *_ragged_views(array))
    tag = _INTEGER
    if dtype == pl.Boolean:
        tag = _BOOLEAN
    elif dtype == pl.Date:
        tag = _DATE
    elif dtype == pl.Datetime:
        tag = _DATETIME
    tag_negative = _LARGE if dtype == pl.UInt64 else tag
    return _Fixed(tag, tag_negative, series.fill_null(0).to_numpy(writable=True))


def _ragged_views(array: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return data and offsets of a large_string or large_binary array."""
    _, offsets, data = array.buffers()
    size = 0 if data is None else data.size
    return (
        view_of(data, np.uint8, 0, size),
        view_of(offsets, np.int64, array.offset, len(array) + 1),
    )


def decode_key(key: bytes) -> tuple[object, ...]:
    """Return a key's parts as Python values, for people to read.

    Days and microseconds beyond Python's years 1 to 9999 come back as integers. Raises StateError
    for bytes that aren't a canonical key.
    """
    parts: list[object] = []
    at = 0
    while at < len(key):
        try:
            value, at = _decoded_part(key, at)
        except (struct.error, UnicodeDecodeError) as error:
            raise StateError(
                f"key {key.hex()} is damaged at byte {at}: {error};"
                " restore this state or rebuild it from the log"
            ) from error
        parts.append(value)
    return tuple(parts)


def _decoded_part(key: bytes, at: int) -> tuple[object, int]:
    tag, at = key[at], at + 1
    if tag in {_STRING, _BINARY}:
        (length,) = struct.unpack_from("<I", key, at)
        (value,) = struct.unpack_from(f"{length}s", key, at + 4)
        return (value.decode() if tag == _STRING else value), at + 4 + length
    if tag in {_INTEGER, _DATETIME}:
        (number,) = struct.unpack_from("<q", key, at)
        return (number if tag == _INTEGER else _instant(number)), at + 8
    if tag == _LARGE:
        return struct.unpack_from("<Q", key, at)[0], at + 8
    if tag == _BOOLEAN:
        return struct.unpack_from("<?", key, at)[0], at + 1
    if tag == _DATE:
        return _day(struct.unpack_from("<i", key, at)[0]), at + 4
    raise struct.error(f"no part has tag {tag}")


def _instant(microseconds: int) -> dt.datetime | int:
    try:
        return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=microseconds)
    except OverflowError:
        return microseconds


def _day(days: int) -> dt.date | int:
    try:
        return dt.date(1970, 1, 1) + dt.timedelta(days=days)
    except OverflowError:
        return days
