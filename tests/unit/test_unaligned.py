from __future__ import annotations

import numpy as np
from numba import njit

from headwater.kernels.unaligned import (
    copy_bytes,
    load_half,
    load_word,
    same_bytes,
    store_half,
    store_word,
)

LENGTHS = range(41)


# Intrinsics can be called from compiled code only.
@njit
def loaded(data, at):
    return load_word(data, at), load_half(data, at)


@njit
def store(data, at, word, half):
    store_word(data, at, word)
    store_half(data, at + 8, half)


def test_words_are_little_endian_at_any_byte():
    data = np.arange(1, 21, dtype=np.uint8)
    for at in range(12):
        word, half = loaded(data, at)
        assert word == int.from_bytes(data[at : at + 8].tobytes(), "little")
        assert half == int.from_bytes(data[at : at + 4].tobytes(), "little")


def test_stores_touch_their_own_bytes_only():
    for at in range(5):
        data = np.full(16, 0xEE, np.uint8)
        store(data, at, np.uint64(0x0807060504030201), np.uint32(0x0C0B0A09))
        assert data.tobytes() == b"\xee" * at + bytes(range(1, 13)) + b"\xee" * (4 - at)


def test_copies_of_every_length_stay_within_it():
    source = np.arange(1, 60, dtype=np.uint8)
    for length in LENGTHS:
        target = np.full(60, 0xEE, np.uint8)
        copy_bytes(source, 3, target, 5, length)
        expected = b"\xee" * 5 + source[3 : 3 + length].tobytes() + b"\xee" * (55 - length)
        assert target.tobytes() == expected, length


def test_one_different_byte_anywhere_is_seen_and_bytes_beyond_are_not():
    for length in LENGTHS:
        left = np.arange(100, 160, dtype=np.uint8)
        right = np.full(60, 0xEE, np.uint8)
        right[7 : 7 + length] = left[2 : 2 + length]
        assert same_bytes(left, 2, right, 7, length)
        for position in range(length):
            right[7 + position] ^= 1
            assert not same_bytes(left, 2, right, 7, length), (length, position)
            right[7 + position] ^= 1
