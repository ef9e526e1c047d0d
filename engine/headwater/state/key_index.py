"""A growing index from keys to slots, numbered in the order in which the keys came."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from headwater.errors import StateError
from headwater.kernels import key_index as kernels
from headwater.state.keys import Keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KeyIndex"]

_Scalar = TypeVar("_Scalar", bound=np.generic)

_FIRST_KEY_BYTES = 16
_SLOTS_MAX = 1 << 30


class KeyIndex:
    """Slots of keys: 0, 1, 2, … by first appearance.

    Grows by doubling; its owner holds it to a budget by `nbytes`. Calls from several threads need a
    lock.
    """

    __slots__ = ("_heap", "_index", "_slot_hash", "_slot_offsets", "_slots")

    def __init__(self, capacity: int = 1024) -> None:
        """Make room for `capacity` keys; more make it grow."""
        capacity = max(capacity, 1)
        _check_capacity(capacity)
        self._slots = 0
        self._index = np.full(_index_size(capacity), -1, np.int32)
        self._slot_hash = np.empty(capacity, np.uint64)
        self._slot_offsets = np.zeros(capacity + 1, np.int64)
        self._heap = np.empty(capacity * _FIRST_KEY_BYTES, np.uint8)

    def __len__(self) -> int:
        return self._slots

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        arrays = (self._index, self._slot_hash, self._slot_offsets, self._heap)
        return sum(array.nbytes for array in arrays)

    def find(self, keys: Keys, rows: NDArray[np.int64] | None = None) -> NDArray[np.int32]:
        """Return the slot of each key, or of those in `rows`; −1 for one without one, or null."""
        slots = np.empty(len(keys) if rows is None else len(rows), np.int32)
        kernels.find(
            self._index, self._slot_hash, self._slot_offsets, self._heap,
            keys.data, keys.offsets, keys.hashes, rows, slots,
        )  # fmt: skip
        return slots

    def find_or_add(self, keys: Keys) -> NDArray[np.int32]:
        """Return the slot of each key, giving a new one the next slot; −1 for a null key."""
        slots = np.empty(len(keys), np.int32)
        handled = 0
        while True:
            code, handled, self._slots = kernels.find_or_add(
                self._index, self._slot_hash, self._slot_offsets, self._heap, self._slots,
                keys.data, keys.offsets, keys.hashes, handled, slots,
            )  # fmt: skip
            if code == kernels.ALL_ADDED:
                return slots
            self._grow(code, int(keys.offsets[handled + 1] - keys.offsets[handled]))

    def key(self, slot: int) -> bytes:
        """Return the bytes of a slot's key."""
        if not 0 <= slot < self._slots:
            raise IndexError(f"no slot {slot} among {self._slots}")
        return self._heap[self._slot_offsets[slot] : self._slot_offsets[slot + 1]].tobytes()

    def keys(self, slots: NDArray[np.int32]) -> Keys:
        """Return the keys of `slots`, copied."""
        count = self._slots
        offsets = self._slot_offsets[: count + 1]
        everything = Keys(self._heap, offsets, np.ones(count, np.bool_), self._slot_hash[:count])
        return everything.take(slots.astype(np.int64))

    def keep(self, kept: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Drop the slots that `kept` (bool, one per slot) leaves out and close the gaps.

        Returns old slot → new slot, −1 for a dropped one. Kept slots stay in order.
        """
        if len(kept) != self._slots:
            raise ValueError(f"a mask of {len(kept)} for {self._slots} slots")
        kept = np.ascontiguousarray(kept, np.bool_)
        count = int(np.count_nonzero(kept))
        lengths = np.diff(self._slot_offsets[: self._slots + 1])
        smaller = KeyIndex(max(count, 1))
        smaller._heap = np.empty(max(int(lengths[kept].sum()), _FIRST_KEY_BYTES), np.uint8)
        remap = np.empty(self._slots, np.int32)
        kernels.keep_slots(
            self._slot_hash, self._slot_offsets, self._heap, kept,
            smaller._slot_hash, smaller._slot_offsets, smaller._heap, remap,
        )  # fmt: skip
        kernels.rebuild(smaller._index, smaller._slot_hash, count)
        self._slots = count
        self._index, self._heap = smaller._index, smaller._heap
        self._slot_hash, self._slot_offsets = smaller._slot_hash, smaller._slot_offsets
        return remap

    def _grow(self, code: int, key_bytes: int) -> None:
        """Double the array that `code` says is full, at least so far that the next key fits."""
        if code == kernels.INDEX_FULL:
            _check_capacity(2 * self._slots)
            self._index = np.empty(2 * len(self._index), np.int32)
            kernels.rebuild(self._index, self._slot_hash, self._slots)
        elif code == kernels.SLOTS_FULL:
            # Both or neither, should memory run out in between.
            hashes = _longer(self._slot_hash, 2 * self._slots, self._slots)
            offsets = _longer(self._slot_offsets, 2 * self._slots + 1, self._slots + 1)
            self._slot_hash, self._slot_offsets = hashes, offsets
        else:
            used = int(self._slot_offsets[self._slots])
            self._heap = _longer(self._heap, max(2 * len(self._heap), used + key_bytes), used)


def _index_size(capacity: int) -> int:
    """Return the power of two that holds `capacity` keys within the allowed load."""
    size = 2
    while size * kernels.LOAD_MAX_PERCENT // 100 < capacity:
        size *= 2
    return size


def _check_capacity(capacity: int) -> None:
    if capacity > _SLOTS_MAX:
        raise StateError(
            f"an index holds at most {_SLOTS_MAX} keys and {capacity} are wanted;"
            " use more shards, or evict rows earlier"
        )


def _longer(array: NDArray[_Scalar], size: int, used: int) -> NDArray[_Scalar]:
    longer = np.empty(size, array.dtype)
    longer[:used] = array[:used]
    return longer
