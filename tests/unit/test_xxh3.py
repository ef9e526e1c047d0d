from __future__ import annotations

import numpy as np
import pytest
import xxhash

from headwater.kernels.xxh3 import hash_ragged, xxh3_64

# bytes(i * 7 % 251 for i in range(length)); one length at each border of the algorithm.
PINNED = [
    (0, 0x2D06800538D394C2),
    (1, 0xC44BDFF4074EECDB),
    (3, 0xC3489259E968AD9E),
    (4, 0xD3D60C1519014E89),
    (8, 0xB88DEE77F6BF6980),
    (9, 0x03688DCAD730D826),
    (16, 0x9DA23836ADF2BE1E),
    (17, 0xF34C3C9CF5A112D1),
    (128, 0x4C659B745F435148),
    (129, 0xB85222B83902B6E5),
    (240, 0xD6DFBF67B0675B54),
    (241, 0xC614C8C3575348C1),
    (1024, 0xF22EF3DC84FF47EA),
    (1025, 0x43F869A83769A435),
    (2000, 0x0BAC51E19D95C6C9),
]


@pytest.mark.parametrize(("length", "expected"), PINNED)
def test_pinned_vectors_never_change(length, expected):
    data = np.array([i * 7 % 251 for i in range(length)], np.uint8)
    assert int(xxh3_64(data, 0, length)) == expected


def test_every_length_to_2000_at_any_alignment_agrees_with_the_c_library():
    data = np.random.default_rng(3).integers(0, 256, 2100, np.uint8)
    for length in range(2001):
        at = length % 67
        expected = xxhash.xxh3_64_intdigest(data[at : at + length].tobytes())
        assert int(xxh3_64(data, at, length)) == expected, length


def test_ragged_rows_are_hashed_each_alone():
    data = np.frombuffer(bytearray(b"xabcdef"), np.uint8)
    hashes = np.empty(3, np.uint64)
    hash_ragged(data, np.array([1, 3, 3, 7]), hashes)
    assert hashes.tolist() == [xxhash.xxh3_64_intdigest(key) for key in (b"ab", b"", b"cdef")]
