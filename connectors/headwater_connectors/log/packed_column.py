"""Columns whose items lie one after the other in one buffer and are cut out when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Self, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["BytesColumn", "PackedColumn"]

_T = TypeVar("_T")


class PackedColumn(Sequence[_T]):
    """Items packed into one buffer, each behind a newline.

    Item `i` is what `item` makes of `buffer[bounds[i] + 1 : bounds[i + 1]]`, or of None where
    `nulls[i]`. A slice shares the buffer. `bounds` are int64 and one more than the items.
    """

    __slots__ = ("bounds", "buffer", "nulls")

    def __init__(
        self, buffer: bytes, bounds: NDArray[np.int64], nulls: NDArray[np.bool_] | None
    ) -> None:
        """Take the parts over; `nulls` is None where nothing is."""
        self.buffer = buffer
        self.bounds = bounds
        self.nulls = nulls

    def item(self, raw: bytes | None) -> _T:
        """Return the item that was packed as `raw`."""
        raise NotImplementedError

    @classmethod
    def join(cls, columns: Sequence[Self]) -> Self:
        """Return one column with the items of all, in order."""
        if len(columns) == 1:
            return columns[0]
        ends = np.cumsum([0, *(column.packed_bytes for column in columns)])
        bounds = [
            column.bounds[:-1] + (begin - column.bounds[0])
            for column, begin in zip(columns, ends.tolist(), strict=False)
        ]
        nulls = None
        if any(column.nulls is not None for column in columns):
            each = [np.zeros(len(c), np.bool_) if c.nulls is None else c.nulls for c in columns]
            nulls = np.concatenate(each)
        buffer = b"".join([column.lines() for column in columns])
        return cls(buffer, np.concatenate([*bounds, ends[-1:]]), nulls)

    @property
    def packed_bytes(self) -> int:
        """The bytes of the items and of the newlines before them."""
        return int(self.bounds[-1] - self.bounds[0])

    def lines(self) -> bytes:
        """Return the items with a newline before each; null items are empty."""
        return self.buffer[self.bounds[0] : self.bounds[-1]]

    def __len__(self) -> int:
        """Count the items."""
        return self.bounds.size - 1

    @overload
    def __getitem__(self, at: int) -> _T: ...

    @overload
    def __getitem__(self, at: slice) -> Self: ...

    def __getitem__(self, at: int | slice) -> _T | Self:
        """Return an item, or a run of items that shares the buffer."""
        count = len(self)
        if isinstance(at, slice):
            begin, stop, step = at.indices(count)
            if step != 1:
                picked = [self[each : each + 1] for each in range(begin, stop, step)]
                return self.join(picked or [self[:0]])
            stop = max(begin, stop)
            nulls = None if self.nulls is None else self.nulls[begin:stop]
            return type(self)(self.buffer, self.bounds[begin : stop + 1], nulls)
        if not -count <= at < count:
            raise IndexError(f"item {at} of {count}")
        at %= count
        if self.nulls is not None and self.nulls[at]:
            return self.item(None)
        return self.item(self.buffer[self.bounds[at] + 1 : self.bounds[at + 1]])

    def __iter__(self) -> Iterator[_T]:
        """Iterate over the items."""
        return map(self.item, self._raw())

    def _raw(self) -> Iterator[bytes | None]:
        bounds = self.bounds.tolist()
        if self.nulls is not None:
            ranges = zip(pairwise(bounds), self.nulls.tolist(), strict=True)
            return (None if no else self.buffer[begin + 1 : end] for (begin, end), no in ranges)
        starts = (self.bounds[:-1] + 1).tolist()
        return map(self.buffer.__getitem__, map(slice, starts, bounds[1:]))

    def __repr__(self) -> str:
        """Say how much there is; the items may be many and large."""
        return f"{type(self).__name__}({len(self)} items, {self.packed_bytes} bytes)"


class BytesColumn(PackedColumn["bytes | None"]):
    """Byte strings, or None, such as the values of fetched records."""

    __slots__ = ()

    def item(self, raw: bytes | None) -> bytes | None:
        """Return the bytes as they are."""
        return raw

    def __iter__(self) -> Iterator[bytes | None]:
        """Iterate over the byte strings."""
        return self._raw()

    def lengths(self) -> NDArray[np.int64]:
        """Return each item's length in bytes, 0 for None."""
        return np.diff(self.bounds) - 1

    def first_bytes(self) -> NDArray[np.uint8]:
        """Return the first byte of each item; none may be empty."""
        return np.frombuffer(self.buffer, np.uint8)[self.bounds[:-1] + 1]
