"""XXH3-64 with seed 0, for inputs of any length.

After the reference implementation, xxhash.h 0.8 by Yann Collet (BSD-2-Clause), whose output is
fixed for good since 0.8.0: https://github.com/Cyan4973/xxHash/blob/v0.8.3/doc/xxhash_spec.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.borrowed import borrowed
from headwater.kernels.compiled import kernel
from headwater.kernels.limbs import multiply_add
from headwater.kernels.unaligned import load_half, load_word, swap_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Lanes = tuple[
        np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64
    ]

__all__ = ["hash_ragged", "xxh3_64"]

_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
        "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
        "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    ),
    dtype=np.uint8,
)


def _secret_word(at: int) -> np.uint64:
    return np.uint64(int.from_bytes(_SECRET[at : at + 8].tobytes(), "little"))


_PRIME32_1 = np.uint64(0x9E3779B1)
_PRIME32_2 = np.uint64(0x85EBCA77)
_PRIME32_3 = np.uint64(0xC2B2AE3D)
_PRIME64_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME64_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME64_3 = np.uint64(0x165667B19E3779F9)
_PRIME64_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME64_5 = np.uint64(0x27D4EB2F165667C5)
_MIX_1 = np.uint64(0x165667919E3779F9)
_MIX_2 = np.uint64(0x9FB21C651E98DF25)

# What the short inputs are mixed with: pairs of secret words, at the offsets of the reference.
_FLIP_1 = _secret_word(0) & np.uint64(0xFFFFFFFF) ^ _secret_word(4) & np.uint64(0xFFFFFFFF)
_FLIP_4 = _secret_word(8) ^ _secret_word(16)
_FLIP_9_LOW = _secret_word(24) ^ _secret_word(32)
_FLIP_9_HIGH = _secret_word(40) ^ _secret_word(48)
_HASH_EMPTY = np.uint64(0x2D06800538D394C2)

_STRIPE = 64
_STRIPES_PER_BLOCK = 16
_SECRET_LAST = 192 - _STRIPE
_LOW_32 = np.uint64(0xFFFFFFFF)
_ZERO = np.uint64(0)


@kernel
def _fold(a: np.uint64, b: np.uint64) -> np.uint64:
    """Return both halves of a·b, joined by exclusive or."""
    low, high = multiply_add(a, b, _ZERO, _ZERO)
    return low ^ high


@kernel
def _avalanche(h: np.uint64) -> np.uint64:
    h ^= h >> np.uint64(37)
    h *= _MIX_1
    return h ^ (h >> np.uint64(32))


@kernel
def _rotated(h: np.uint64, bits: int) -> np.uint64:
    return (h << np.uint64(bits)) | (h >> np.uint64(64 - bits))


@kernel
def _hash_to_3(data: NDArray[np.uint8], at: int, length: int) -> np.uint64:
    first, middle = np.uint64(data[at]), np.uint64(data[at + length // 2])
    last = np.uint64(data[at + length - 1])
    h = (first << np.uint64(16)) | (middle << np.uint64(24)) | last
    h = (h | np.uint64(length << 8)) ^ _FLIP_1
    # The finish of XXH64, not the one above.
    h = (h ^ (h >> np.uint64(33))) * _PRIME64_2
    h = (h ^ (h >> np.uint64(29))) * _PRIME64_3
    return h ^ (h >> np.uint64(32))


@kernel
def _hash_to_8(data: NDArray[np.uint8], at: int, length: int) -> np.uint64:
    first = np.uint64(load_half(data, at))
    last = np.uint64(load_half(data, at + length - 4))
    h = (last + (first << np.uint64(32))) ^ _FLIP_4
    h ^= _rotated(h, 49) ^ _rotated(h, 24)
    h *= _MIX_2
    h ^= (h >> np.uint64(35)) + np.uint64(length)
    h *= _MIX_2
    return h ^ (h >> np.uint64(28))


@kernel
def _hash_to_16(data: NDArray[np.uint8], at: int, length: int) -> np.uint64:
    low = load_word(data, at) ^ _FLIP_9_LOW
    high = load_word(data, at + length - 8) ^ _FLIP_9_HIGH
    return _avalanche(np.uint64(length) + swap_bytes(low) + high + _fold(low, high))


@kernel
def _mixed(data: NDArray[np.uint8], at: int, secret_at: int) -> np.uint64:
    """Return 16 bytes mixed with 16 of the secret."""
    return _fold(
        load_word(data, at) ^ load_word(_SECRET, secret_at),
        load_word(data, at + 8) ^ load_word(_SECRET, secret_at + 8),
    )


@kernel
def _hash_to_128(data: NDArray[np.uint8], at: int, length: int) -> np.uint64:
    h = np.uint64(length) * _PRIME64_1
    for i in range((length - 1) // 32, -1, -1):
        h += _mixed(data, at + 16 * i, 32 * i)
        h += _mixed(data, at + length - 16 * (i + 1), 32 * i + 16)
    return _avalanche(h)


@kernel
def _hash_to_240(data: NDArray[np.uint8], at: int, length: int) -> np.uint64:
    h = np.uint64(length) * _PRIME64_1
    for i in range(8):
        h += _mixed(data, at + 16 * i, 16 * i)
    h = _avalanche(h)
    for i in range(8, length // 16):
        h += _mixed(data, at + 16 * i, 16 * (i - 8) + 3)
    return _avalanche(h + _mixed(data, at + length - 16, 136 - 17))


@kernel
def _product(a: np.uint64, key: np.uint64) -> np.uint64:
    """Return the product of both halves of a ^ key."""
    keyed = a ^ key
    return (keyed & _LOW_32) * (keyed >> np.uint64(32))


@kernel
def _add_stripe(lanes: _Lanes, data: NDArray[np.uint8], at: int, secret_at: int) -> _Lanes:
    """Return the lanes after 64 more bytes: each takes its product and its neighbour's word."""
    w0, w1 = load_word(data, at), load_word(data, at + 8)
    w2, w3 = load_word(data, at + 16), load_word(data, at + 24)
    w4, w5 = load_word(data, at + 32), load_word(data, at + 40)
    w6, w7 = load_word(data, at + 48), load_word(data, at + 56)
    return (
        lanes[0] + w1 + _product(w0, load_word(_SECRET, secret_at)),
        lanes[1] + w0 + _product(w1, load_word(_SECRET, secret_at + 8)),
        lanes[2] + w3 + _product(w2, load_word(_SECRET, secret_at + 16)),
        lanes[3] + w2 + _product(w3, load_word(_SECRET, secret_at + 24)),
        lanes[4] + w5 + _product(w4, load_word(_SECRET, secret_at + 32)),
        lanes[5] + w4 + _product(w5, load_word(_SECRET, secret_at + 40)),
        lanes[6] + w7 + _product(w6, load_word(_SECRET, secret_at + 48)),
        lanes[7] + w6 + _product(w7, load_word(_SECRET, secret_at + 56)),
    )


@kernel
def _scrambled_lane(lane: np.uint64, secret_at: int) -> np.uint64:
    lane ^= lane >> np.uint64(47)
    return (lane ^ load_word(_SECRET, secret_at)) * _PRIME32_1


@kernel
def _scrambled(lanes: _Lanes) -> _Lanes:
    return (
        _scrambled_lane(lanes[0], _SECRET_LAST),
        _scrambled_lane(lanes[1], _SECRET_LAST + 8),
        _scrambled_lane(lanes[2], _SECRET_LAST + 16),
        _scrambled_lane(lanes[3], _SECRET_LAST + 24),
        _scrambled_lane(lanes[4], _SECRET_LAST + 32),
        _scrambled_lane(lanes[5], _SECRET_LAST + 40),
        _scrambled_lane(lanes[6], _SECRET_LAST + 48),
        _scrambled_lane(lanes[7], _SECRET_LAST + 56),
    )


@kernel
def _folded(a: np.uint64, b: np.uint64, secret_at: int) -> np.uint64:
    return _fold(a ^ load_word(_SECRET, secret_at), b ^ load_word(_SECRET, secret_at + 8))


@kernel
def _hash_long(data: NDArray[np.uint8], at: int, length: int) -> np.uint64:
    """Hash more than 240 bytes: eight lanes, scrambled after each KiB."""
    lanes = (
        _PRIME32_3, _PRIME64_1, _PRIME64_2, _PRIME64_3,
        _PRIME64_4, _PRIME32_2, _PRIME64_5, _PRIME32_1,
    )  # fmt: skip
    # The last stripe, even a whole one, is added at the end, with its own part of the secret.
    for stripe in range((length - 1) // _STRIPE):
        in_block = stripe % _STRIPES_PER_BLOCK
        lanes = _add_stripe(lanes, data, at + stripe * _STRIPE, 8 * in_block)
        if in_block == _STRIPES_PER_BLOCK - 1:
            lanes = _scrambled(lanes)
    lanes = _add_stripe(lanes, data, at + length - _STRIPE, _SECRET_LAST - 7)
    h = np.uint64(length) * _PRIME64_1
    h += _folded(lanes[0], lanes[1], 11)
    h += _folded(lanes[2], lanes[3], 11 + 16)
    h += _folded(lanes[4], lanes[5], 11 + 32)
    h += _folded(lanes[6], lanes[7], 11 + 48)
    return _avalanche(h)


@kernel
def xxh3_64(data: NDArray[np.uint8], at: int, length: int) -> np.uint64:
    """Return the hash of `length` bytes of `data` from `at`; the caller answers for the bounds."""
    if length > 16:
        if length <= 128:
            return _hash_to_128(data, at, length)
        if length <= 240:
            return _hash_to_240(data, at, length)
        return _hash_long(data, at, length)
    if length > 8:
        return _hash_to_16(data, at, length)
    if length > 3:
        return _hash_to_8(data, at, length)
    if length > 0:
        return _hash_to_3(data, at, length)
    return _HASH_EMPTY


@kernel
def hash_ragged(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], hashes: NDArray[np.uint64]
) -> None:
    """Fill `hashes` (n) with the hash of data[offsets[i]:offsets[i + 1]]; `offsets` has n + 1."""
    data, offsets, hashes = borrowed(data), borrowed(offsets), borrowed(hashes)
    for i in range(hashes.shape[0]):
        hashes[i] = xxh3_64(data, offsets[i], offsets[i + 1] - offsets[i])
