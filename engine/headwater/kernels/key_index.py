"""An index from key bytes to slots: open addressing with linear probing, over the caller's arrays.

- `index`: int32[power of two, 2 or more], a slot or −1.
- `slot_hash`: uint64[slots that fit], the hash of each slot's key.
- `slot_offsets`: int64[slots that fit + 1], beginning with 0: the key of slot s is
  heap[slot_offsets[s]:slot_offsets[s + 1]].
- `heap`: uint8, the keys one after the other.

The hash chooses where to look and the bytes decide. Probing begins at the hash's *top* bits: the
keys of one shard agree on the hash modulo the shard count, so their low bits would pile up on few
positions. A key of no bytes stands for a null key; it has no slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.kernels.borrowed import borrowed
from headwater.kernels.compiled import kernel
from headwater.kernels.prefetch import prefetch
from headwater.kernels.unaligned import copy_bytes, same_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ALL_ADDED", "HEAP_FULL", "INDEX_FULL", "LOAD_MAX_PERCENT", "SLOTS_FULL",
    "find", "find_or_add", "keep_slots", "rebuild", "shift_of",
]  # fmt: skip

ALL_ADDED, INDEX_FULL, SLOTS_FULL, HEAP_FULL = range(4)

# Beyond this, runs of taken positions grow long under linear probing.
LOAD_MAX_PERCENT = 60

# An index of fewer positions is in a core's cache.
_FAR_POSITIONS = 1 << 16
# How many keys before its own look-up the first line of a key is asked for.
_AHEAD = 16


@kernel
def shift_of(index: NDArray[Any]) -> np.uint64:
    """Return how far a hash is shifted to leave a position: at most 63, as there are 2 or more."""
    bits = 0
    while (1 << bits) < index.shape[0]:
        bits += 1
    return np.uint64(64 - bits)


@kernel
def _look_up(
    index: NDArray[np.int32],
    slot_hash: NDArray[np.uint64],
    slot_offsets: NDArray[np.int64],
    heap: NDArray[np.uint8],
    slots: int,
    key_data: NDArray[np.uint8],
    key_offsets: NDArray[np.int64],
    key_hashes: NDArray[np.uint64],
    rows: NDArray[np.int64] | None,
    begin: int,
    adding: bool,
    out_slots: NDArray[np.int32],
) -> tuple[int, int, int]:
    # Of the two forms of each line that asks for `rows`, one is compiled.
    # Probing stands inside the loop: as a kernel of its own it isn't inlined, and passing it five
    # arrays for each key costs three times what the look-up does.
    index, slot_hash, slot_offsets = borrowed(index), borrowed(slot_hash), borrowed(slot_offsets)
    heap, out_slots = borrowed(heap), borrowed(out_slots)
    key_data, key_offsets = borrowed(key_data), borrowed(key_offsets)
    key_hashes = borrowed(key_hashes)
    shift = shift_of(index)
    mask = index.shape[0] - 1
    load_max = index.shape[0] * LOAD_MAX_PERCENT // 100
    last = out_slots.shape[0]
    is_far = index.shape[0] >= _FAR_POSITIONS
    for i in range(begin, last):
        if is_far and i + _AHEAD < last:
            # A look-up waits for three lines one after the other; these are on their way by then.
            j = i + _AHEAD if rows is None else rows[i + _AHEAD]
            prefetch(index, np.int64(key_hashes[j] >> shift))
            j = i + _AHEAD // 2 if rows is None else rows[i + _AHEAD // 2]
            coming = np.int64(index[np.int64(key_hashes[j] >> shift)])
            if coming >= 0:
                prefetch(slot_hash, coming)
                prefetch(slot_offsets, coming)
            j = i + _AHEAD // 4 if rows is None else rows[i + _AHEAD // 4]
            coming = np.int64(index[np.int64(key_hashes[j] >> shift)])
            if coming >= 0:
                prefetch(heap, slot_offsets[coming])
        key = i if rows is None else rows[i]
        at = key_offsets[key]
        length = key_offsets[key + 1] - at
        if length == 0:
            out_slots[i] = -1
            continue
        position = np.int64(key_hashes[key] >> shift)
        while True:
            slot = np.int64(index[position])
            if slot < 0:
                break
            if slot_hash[slot] == key_hashes[key]:
                start = slot_offsets[slot]
                slot_length = slot_offsets[slot + 1] - start
                if slot_length == length and same_bytes(heap, start, key_data, at, length):
                    break
            position = (position + 1) & mask
        if slot < 0 and adding:
            start = slot_offsets[slots]
            if slots >= load_max:
                return INDEX_FULL, i, slots
            if slots >= slot_hash.shape[0]:
                return SLOTS_FULL, i, slots
            if start + length > heap.shape[0]:
                return HEAP_FULL, i, slots
            copy_bytes(key_data, at, heap, start, length)
            slot = slots
            slots += 1
            slot_hash[slot] = key_hashes[key]
            slot_offsets[slots] = start + length
            index[position] = slot
        out_slots[i] = slot
    return ALL_ADDED, out_slots.shape[0], slots


@kernel
def find(
    index: NDArray[np.int32],
    slot_hash: NDArray[np.uint64],
    slot_offsets: NDArray[np.int64],
    heap: NDArray[np.uint8],
    key_data: NDArray[np.uint8],
    key_offsets: NDArray[np.int64],
    key_hashes: NDArray[np.uint64],
    rows: NDArray[np.int64] | None,
    out_slots: NDArray[np.int32],
) -> None:
    """Fill `out_slots` (n) with the slot of each key, or of the keys `rows`; −1 where none has."""
    _look_up(
        index, slot_hash, slot_offsets, heap, 0,
        key_data, key_offsets, key_hashes, rows, 0, False, out_slots,
    )  # fmt: skip


@kernel
def find_or_add(
    index: NDArray[np.int32],
    slot_hash: NDArray[np.uint64],
    slot_offsets: NDArray[np.int64],
    heap: NDArray[np.uint8],
    slots: int,
    key_data: NDArray[np.uint8],
    key_offsets: NDArray[np.int64],
    key_hashes: NDArray[np.uint64],
    begin: int,
    out_slots: NDArray[np.int32],
) -> tuple[int, int, int]:
    """Fill `out_slots` from key `begin` on, giving each new key the next slot after `slots`.

    Returns (code, handled, slots). Where a new key finds no room, `handled` is that key's number
    and the code names the array to grow; call again from there. Otherwise the code is ALL_ADDED.
    """
    return _look_up(
        index, slot_hash, slot_offsets, heap, slots,
        key_data, key_offsets, key_hashes, None, begin, True, out_slots,
    )  # fmt: skip


@kernel
def rebuild(index: NDArray[np.int32], slot_hash: NDArray[np.uint64], slots: int) -> None:
    """Fill an index anew with the first `slots` slots, whose keys differ."""
    shift = shift_of(index)
    mask = index.shape[0] - 1
    index[:] = -1
    for slot in range(slots):
        position = np.int64(slot_hash[slot] >> shift)
        while index[position] >= 0:
            position = (position + 1) & mask
        index[position] = slot


@kernel
def keep_slots(
    slot_hash: NDArray[np.uint64],
    slot_offsets: NDArray[np.int64],
    heap: NDArray[np.uint8],
    kept: NDArray[np.bool_],
    target_hash: NDArray[np.uint64],
    target_offsets: NDArray[np.int64],
    target_heap: NDArray[np.uint8],
    remap: NDArray[np.int32],
) -> None:
    """Copy the kept slots, in order and without gaps; `remap` gets old slot → new slot or −1."""
    slot = np.int64(0)
    target_offsets[0] = 0
    for old in range(kept.shape[0]):
        if not kept[old]:
            remap[old] = -1
            continue
        start = target_offsets[slot]
        length = slot_offsets[old + 1] - slot_offsets[old]
        copy_bytes(heap, slot_offsets[old], target_heap, start, length)
        target_hash[slot] = slot_hash[old]
        remap[old] = slot
        slot += 1
        target_offsets[slot] = start + length
