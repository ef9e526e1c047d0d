from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headwater.errors import StateError
from headwater.kernels import key_index as kernels
from headwater.state.key_index import KeyIndex
from headwater.state.keys import Keys


def numbered(begin, end):
    return Keys.from_list([b"key %d" % i for i in range(begin, end)])


def test_the_slots_of_some_keys_are_found_in_the_order_they_are_named() -> None:
    index = KeyIndex(4)
    index.find_or_add(numbered(0, 100_000))
    keys = numbered(99_990, 100_010)
    rows = np.array([19, 3, 3, 0, 12], np.int64)
    assert index.find(keys, rows).tolist() == [-1, 99_993, 99_993, 99_990, -1]
    assert index.find(keys, rows[:0]).tolist() == []
    many = np.random.default_rng(1).integers(0, 100_000, 50_000)
    assert index.find(numbered(0, 100_000), many).tolist() == many.tolist()


def test_slots_are_numbered_by_first_appearance():
    index = KeyIndex()
    assert index.find_or_add(Keys.from_list([b"b", b"a", b"b", b"c"])).tolist() == [0, 1, 0, 2]
    assert index.find(Keys.from_list([b"c", b"x", b"a"])).tolist() == [2, -1, 1]
    assert [index.key(slot) for slot in range(len(index))] == [b"b", b"a", b"c"]


def test_null_keys_have_no_slot():
    index = KeyIndex()
    assert index.find_or_add(Keys.from_list([b"", b"a", b""])).tolist() == [-1, 0, -1]
    assert index.find(Keys.from_list([b""])).tolist() == [-1]
    assert len(index) == 1


def test_every_array_grows_while_one_batch_is_added():
    index = KeyIndex(1)
    slots = index.find_or_add(numbered(0, 10_000))
    assert slots.tolist() == list(range(10_000))
    assert index.find(numbered(0, 10_001)).tolist() == [*range(10_000), -1]
    assert index.key(9_999) == b"key 9999"


def test_a_key_far_longer_than_the_heap_fits():
    index = KeyIndex(1)
    keys = Keys.from_list([b"a", b"x" * 100_000, b"b"])
    assert index.find_or_add(keys).tolist() == [0, 1, 2]
    assert index.keys(np.array([2, 1], np.int32)).to_list() == [b"b", b"x" * 100_000]


def test_equal_hashes_are_told_apart_by_length_and_bytes():
    keys = Keys.from_list([b"aaaaaaaaa", b"aaaaaaaab", b"baaaaaaaa", b"aaaaaaaa", b"aaaa", b"aaab"])
    for same in (0, (1 << 64) - 1):
        alike = replace(keys, hashes=np.full(len(keys), same, np.uint64))
        index = KeyIndex(2)
        assert index.find_or_add(alike.slice(0, 5)).tolist() == [0, 1, 2, 3, 4]
        assert index.find(alike).tolist() == [0, 1, 2, 3, 4, -1]


@pytest.mark.parametrize(
    ("index_size", "slots", "heap_bytes", "code", "handled"),
    [
        (16, 16, 100, kernels.INDEX_FULL, 9),
        (64, 5, 100, kernels.SLOTS_FULL, 5),
        (64, 16, 7, kernels.HEAP_FULL, 3),
        (64, 16, 24, kernels.ALL_ADDED, 12),
    ],
)
def test_a_full_array_stops_the_batch_with_its_code(index_size, slots, heap_bytes, code, handled):
    keys = Keys.from_list([b"%02d" % i for i in range(12)])
    out = np.full(12, -9, np.int32)
    result = kernels.find_or_add(
        np.full(index_size, -1, np.int32), np.empty(slots, np.uint64),
        np.zeros(slots + 1, np.int64), np.empty(heap_bytes, np.uint8), 0,
        keys.data, keys.offsets, keys.hashes, 0, out,
    )  # fmt: skip
    assert result == (code, handled, handled)
    assert out.tolist() == [*range(handled)] + [-9] * (12 - handled)


def test_keep_closes_the_gaps_and_gives_memory_back():
    index = KeyIndex()
    index.find_or_add(numbered(0, 10_000))
    before = index.nbytes
    kept = np.zeros(10_000, np.bool_)
    kept[[7, 4_000, 9_999]] = True
    remap = index.keep(kept)
    assert np.flatnonzero(remap >= 0).tolist() == [7, 4_000, 9_999]
    assert remap[kept].tolist() == [0, 1, 2]
    assert len(index) == 3
    assert index.find(Keys.from_list([b"key 4000", b"key 8"])).tolist() == [1, -1]
    assert index.find_or_add(Keys.from_list([b"key 8"])).tolist() == [3]
    assert index.nbytes < before / 100


def test_keeping_nothing_leaves_a_working_index():
    index = KeyIndex()
    index.find_or_add(numbered(0, 10))
    assert index.keep(np.zeros(10, np.bool_)).tolist() == [-1] * 10
    assert index.find_or_add(numbered(5, 7)).tolist() == [0, 1]


def test_keys_of_one_shard_spread_over_the_index():
    # Their hashes agree modulo 16; probing from the low bits would need hundreds of steps a key.
    hashes = np.arange(20_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    hashes = (hashes >> np.uint64(4)) << np.uint64(4)
    index = np.empty(65_536, np.int32)
    kernels.rebuild(index, hashes, 20_000)
    at = np.empty(20_000, np.int64)
    at[index[index >= 0]] = np.flatnonzero(index >= 0)
    steps = at - (hashes >> np.uint64(48)).astype(np.int64)
    assert steps.max() < 100


def test_a_mask_of_another_length_and_an_unknown_slot_are_refused():
    index = KeyIndex()
    index.find_or_add(numbered(0, 3))
    with pytest.raises(ValueError, match="mask of 2 for 3 slots"):
        index.keep(np.ones(2, np.bool_))
    for slot in (3, -1):
        with pytest.raises(IndexError):
            index.key(slot)


def test_more_keys_than_slot_numbers_are_refused_with_the_cure():
    with pytest.raises(StateError, match="use more shards"):
        KeyIndex(1 << 31)
