from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from headwater.kernels.keys import counting_sort_by_slot, partition_rows, shard_of
from headwater.state.key_index import KeyIndex
from headwater.state.keys import Keys, canonical_keys, decode_key
from headwater.state.keys_reference import reference_key

INSTANTS = st.datetimes(timezones=st.just(dt.UTC))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def integers(bits, *, signed):
    low = -(1 << (bits - 1)) if signed else 0
    return st.integers(low, low + (1 << bits) - 1)


PARTS = [
    (pl.String, TEXT),
    (pl.Binary, st.binary(max_size=40)),
    (pl.Boolean, st.booleans()),
    (pl.Date, st.dates()),
    (pl.Datetime("us", "UTC"), INSTANTS),
    (pl.Int8, integers(8, signed=True)),
    (pl.Int16, integers(16, signed=True)),
    (pl.Int32, integers(32, signed=True)),
    (pl.Int64, integers(64, signed=True)),
    (pl.UInt8, integers(8, signed=False)),
    (pl.UInt16, integers(16, signed=False)),
    (pl.UInt32, integers(32, signed=False)),
    (pl.UInt64, integers(64, signed=False)),
]
BYTES = st.binary(min_size=1, max_size=20)


@st.composite
def tables(draw):
    """Rows of 1 to 4 parts, and the same rows as a frame that is a slice of several chunks."""
    kinds = draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4))
    rows = draw(st.lists(st.tuples(*(st.none() | values for _, values in kinds)), max_size=30))
    schema = {str(i): dtype for i, (dtype, _) in enumerate(kinds)}
    cut = draw(st.integers(0, len(rows)))
    chunks = [pl.DataFrame(part, schema, orient="row") for part in (rows[:cut], rows[cut:])]
    frame = pl.concat(chunks, rechunk=draw(st.booleans()))
    start = draw(st.integers(0, len(rows)))
    stop = draw(st.integers(start, len(rows)))
    return rows[start:stop], frame[start:stop]


@given(tables())
def test_keys_of_any_frame_agree_with_the_reference(table):
    rows, frame = table
    keys = canonical_keys(frame, frame.columns)
    expected = [reference_key(row) for row in rows]
    assert keys.to_list() == [key or b"" for key in expected]
    assert keys.valid.tolist() == [key is not None for key in expected]
    assert keys.hashes.tolist() == [xxhash.xxh3_64_intdigest(key or b"") for key in expected]


@given(tables())
def test_a_key_decodes_to_its_parts(table):
    rows, frame = table
    keys = canonical_keys(frame, frame.columns)
    for row, key in zip(rows, keys.to_list(), strict=True):
        assert key == b"" or decode_key(key) == row


@given(st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=2, unique=True))
def test_different_parts_make_different_keys(rows):
    first, second = canonical_keys(
        pl.DataFrame(rows, ["a", "b"], orient="row"), ["a", "b"]
    ).to_list()
    assert first != second


@given(st.lists(st.binary(max_size=30), max_size=20), st.data())
def test_taking_and_slicing_is_what_lists_do(values, data):
    keys = Keys.from_list(values)
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    part = keys.slice(start, stop)
    assert part.to_list() == values[start:stop]
    rows = data.draw(st.lists(st.integers(0, stop - start - 1))) if stop > start else []
    taken = part.take(np.array(rows, np.int64))
    assert taken.to_list() == [values[start + row] for row in rows]
    assert taken.hashes.tolist() == [xxhash.xxh3_64_intdigest(key) for key in taken.to_list()]
    assert taken.valid.tolist() == [key != b"" for key in taken.to_list()]


@given(
    st.lists(st.none() | st.binary(max_size=30), max_size=20),
    st.sampled_from([pa.binary(), pa.large_binary()]),
    st.integers(0, 20),
    st.booleans(),
)
def test_arrow_gives_back_what_it_was_given(values, kind, start, chunked):
    array = pa.array(values, kind)[start:]
    values = values[start:]
    keys = Keys.from_arrow(pa.chunked_array([array, array[:0]]) if chunked else array)
    assert keys.to_list() == [value or b"" for value in values]
    assert keys.to_arrow().to_pylist() == [value or None for value in values]
    keys.to_arrow().validate(full=True)
    assert keys.hashes.tolist() == [xxhash.xxh3_64_intdigest(value or b"") for value in values]


@given(st.lists(integers(64, signed=False), max_size=30), st.integers(1, 64), st.integers(1, 8))
def test_multiplying_the_shards_moves_no_key_between_old_shards(hashes, shards, factor):
    few, many = np.empty(len(hashes), np.int32), np.empty(len(hashes), np.int32)
    shard_of(np.array(hashes, np.uint64), shards, few)
    shard_of(np.array(hashes, np.uint64), shards * factor, many)
    assert many.tolist() == [one % (shards * factor) for one in hashes]
    assert few.tolist() == (many % shards).tolist()


@given(st.lists(st.integers(-1, 9), max_size=60))
def test_counting_sorts_are_stable(groups):
    array = np.array(groups, np.int32)
    for sort in (partition_rows, counting_sort_by_slot):
        order, starts = sort(array, 10)
        found = [order[starts[g] : starts[g + 1]].tolist() for g in range(10)]
        assert found == [np.flatnonzero(array == g).tolist() for g in range(10)]


@st.composite
def hashed_keys(draw):
    """Keys from a small pool, with hashes of our choosing: a few values, so that many collide."""
    values = draw(st.lists(st.one_of(BYTES, st.sampled_from([b"", b"a", b"ab"])), max_size=30))
    keys = Keys.from_list(values)
    kinds = draw(st.sampled_from(["real", "same", "last"]))
    if kinds == "real":
        return "real", keys
    # One position for all, or two at the end of the index, where probing wraps around.
    top = {"same": 0, "last": (1 << 64) - 2}[kinds]
    hashes = [top + (sum(value) % 2 if kinds == "last" else 0) for value in values]
    return kinds, replace(keys, hashes=np.array(hashes, np.uint64))


@given(
    st.lists(st.tuples(st.sampled_from(["add", "find", "keep"]), hashed_keys()), max_size=12),
    st.integers(0, 40),
    st.randoms(use_true_random=False),
)
def test_an_index_does_what_a_dict_does(steps, capacity, chance):
    index = KeyIndex(capacity)
    model: dict[tuple[str, bytes], int] = {}
    for action, (kind, keys) in steps:
        # The same bytes under another hash are another key, to the index as to the model.
        names = [(kind, key) for key in keys.to_list()]
        if action == "add":
            for name in names:
                if name[1]:
                    model.setdefault(name, len(model))
            assert index.find_or_add(keys).tolist() == [model.get(name, -1) for name in names]
        elif action == "find":
            assert index.find(keys).tolist() == [model.get(name, -1) for name in names]
        else:
            kept = [chance.random() < 0.7 for _ in model]
            remap = index.keep(np.array(kept, np.bool_))
            left = [name for name, slot in model.items() if kept[slot]]
            moved = {model[name]: slot for slot, name in enumerate(left)}
            assert remap.tolist() == [moved.get(slot, -1) for slot in range(len(model))]
            model = {name: slot for slot, name in enumerate(left)}
        assert len(index) == len(model)
        assert [index.key(slot) for slot in model.values()] == [name[1] for name in model]
