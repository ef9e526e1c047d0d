from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from headwater.errors import DefinitionError, StateError
from headwater.kernels.keys import counting_sort_by_slot, partition_rows, shard_of
from headwater.state.keys import Keys, canonical_keys, check_key_dtype, decode_key
from headwater.state.keys_reference import reference_key

NOON = dt.datetime(2013, 1, 1, 12, tzinfo=dt.UTC)

# Part types, parts, key bytes, hash: a wire and disk format, so never to be changed.
PINNED = [
    ([pl.String], ("N14228",), "01060000004e3134323238", 0x1D2E81B4B1264438),
    ([pl.String] * 2, ("a", "bc"), "01010000006101020000006263", 0x9443D2C6E6C215B0),
    ([pl.String] * 2, ("ab", "c"), "01020000006162010100000063", 0x2391563197CC14F0),
    ([pl.String], ("é",), "0102000000c3a9", 0x1ED16F9EC8C19D6C),
    ([pl.String], ("",), "0100000000", 0xD1DD927ED529F768),
    ([pl.Int64], (5,), "020500000000000000", 0xF4BB4FAEE1B8237A),
    ([pl.Int64], (-1,), "02ffffffffffffffff", 0x51957C455B8E6C65),
    ([pl.UInt64], ((1 << 63) - 1,), "02ffffffffffffff7f", 0xE043660FB5B7A3DB),
    ([pl.Int64], (-(1 << 63),), "020000000000000080", 0x0982FC13C6EAC8CB),
    ([pl.UInt64], (1 << 63,), "030000000000000080", 0xD1B2D1C12E987EC5),
    ([pl.UInt64], ((1 << 64) - 1,), "03ffffffffffffffff", 0x461F577B67B45767),
    ([pl.Boolean], (True,), "0401", 0x3BD631E4A5582D1F),
    ([pl.Boolean], (False,), "0400", 0xBF99A53001E4F61C),
    ([pl.Binary], (b"\x00\xff",), "050200000000ff", 0xBE4107BD15A49FAF),
    ([pl.Date], (dt.date(2013, 1, 1),), "065a3d0000", 0x6AC2273C589D0548),
    ([pl.Date], (dt.date(1969, 12, 31),), "06ffffffff", 0x632D791F9748BA90),
    ([pl.Datetime("us", "UTC")], (NOON,), "07007083de38d20400", 0x91F745B52A880FF9),
    (
        [pl.String, pl.Int32, pl.Boolean],
        ("JFK", 7, True),
        "01030000004a464b0207000000000000000401",
        0xE09803823D55D6C2,
    ),
]
INTEGERS = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64]


def keys_of(values, dtype):
    return canonical_keys(pl.DataFrame({"k": pl.Series(values, dtype=dtype)}), ["k"])


@pytest.mark.parametrize(("dtypes", "parts", "key", "key_hash"), PINNED)
def test_pinned_vectors_never_change(dtypes, parts, key, key_hash):
    columns = [
        pl.Series(str(i), [part], dtype)
        for i, (dtype, part) in enumerate(zip(dtypes, parts, strict=True))
    ]
    keys = canonical_keys(pl.DataFrame(columns), [column.name for column in columns])
    assert keys.to_list() == [bytes.fromhex(key)]
    assert keys.hashes.tolist() == [key_hash]
    assert reference_key(parts) == bytes.fromhex(key)
    assert decode_key(bytes.fromhex(key)) == parts


def test_a_number_is_the_same_key_in_any_integer_type():
    assert {keys_of([5], dtype).to_list()[0] for dtype in INTEGERS} == {reference_key((5,))}


def test_an_instant_is_the_same_key_in_any_unit_and_time_zone():
    dtypes = [pl.Datetime(unit, zone) for unit in ("ms", "us", "ns") for zone in (None, "UTC")]
    keys = [keys_of([NOON.replace(tzinfo=None)], pl.Datetime).to_list()[0]]
    for dtype in dtypes:
        series = pl.Series([NOON]).dt.replace_time_zone(dtype.time_zone).cast(dtype)
        keys += canonical_keys(pl.DataFrame({"k": series}), ["k"]).to_list()
    paris = pl.Series([NOON]).dt.convert_time_zone("Europe/Paris")
    keys += canonical_keys(pl.DataFrame({"k": paris}), ["k"]).to_list()
    assert set(keys) == {reference_key((NOON,))}


def test_nanoseconds_are_cut_to_the_microsecond_below():
    keys = canonical_keys(
        pl.DataFrame({"k": pl.Series([-1, 1_999]).cast(pl.Datetime("ns"))}), ["k"]
    )
    micros = pl.DataFrame({"k": pl.Series([-1, 1]).cast(pl.Datetime("us"))})
    assert keys.to_list() == canonical_keys(micros, ["k"]).to_list()


def test_milliseconds_beyond_microseconds_make_a_null_key_and_not_another_instant():
    limit = ((1 << 63) - 1) // 1000
    times = pl.Series([limit + 1, limit, -limit, -limit - 1]).cast(pl.Datetime("ms"))
    keys = canonical_keys(pl.DataFrame({"k": times}), ["k"])
    assert keys.valid.tolist() == [False, True, True, False]
    assert decode_key(keys.to_list()[1]) == (limit * 1000,)


def test_a_row_with_a_null_part_has_no_bytes_and_is_not_valid():
    frame = pl.DataFrame({"a": ["x", None, "z", "w"], "b": [1, 2, None, 4]})
    keys = canonical_keys(frame, ["a", "b"])
    assert keys.valid.tolist() == [True, False, False, True]
    assert keys.to_list() == [reference_key(("x", 1)), b"", b"", reference_key(("w", 4))]
    assert keys.lengths.tolist() == [15, 0, 0, 15]


def test_parts_follow_the_order_asked_for_and_not_that_of_the_frame():
    frame = pl.DataFrame({"dest": ["LAX"], "origin": ["JFK"]})
    keys = canonical_keys(frame, ["origin", "dest"])
    assert keys.to_list() == [reference_key(("JFK", "LAX"))]


@pytest.mark.parametrize("text", ["", "a" * 12, "a" * 13, "é" * 600, "x" * 5000])
def test_strings_of_any_length_come_out_whole(text):
    # Polars keeps up to 12 bytes in place and longer ones in buffers of their own.
    values = [text, None, text + "!", "abc"]
    expected = [reference_key((value,)) or b"" for value in values]
    assert keys_of(values, pl.String).to_list() == expected


def test_no_rows_make_no_keys():
    for dtype in (pl.String, pl.Int64, pl.Boolean, pl.Date):
        keys = keys_of([], dtype)
        assert len(keys) == 0
        assert keys.to_list() == []
        assert len(keys.take(np.array([], np.int64))) == 0
        assert len(Keys.from_arrow(keys.to_arrow())) == 0


@pytest.mark.parametrize(
    "dtype",
    [pl.Float64, pl.Float32, pl.Decimal(10, 2), pl.Time, pl.Duration, pl.List(pl.Int8),
     pl.Categorical, pl.Enum(["a"]), pl.Int128, pl.Null],
)  # fmt: skip
def test_other_types_are_refused_by_column_with_the_types_allowed(dtype):
    frame = pl.DataFrame({"fine": ["a"], "fare": pl.Series([None], dtype=dtype)})
    with pytest.raises(DefinitionError, match=r'key column "fare" is .*String, Int8, .*Datetime'):
        canonical_keys(frame, ["fine", "fare"])
    with pytest.raises(DefinitionError, match="can't be part of a key"):
        check_key_dtype(dtype)


def test_allowed_types_are_accepted_as_class_and_instance():
    for dtype in [*INTEGERS, pl.String, pl.Boolean, pl.Binary, pl.Date, pl.Datetime]:
        check_key_dtype(dtype)
        check_key_dtype(dtype())


def test_a_missing_column_is_named_with_the_closest_one():
    with pytest.raises(DefinitionError, match=r'"tailnun".*Did you mean "tailnum"\?'):
        canonical_keys(pl.DataFrame({"tailnum": ["N1"]}), ["tailnun"])


def test_dates_beyond_pythons_calendar_decode_to_numbers():
    assert decode_key(b"\x06" + (10**8).to_bytes(4, "little")) == (10**8,)
    assert decode_key(b"\x07" + (1 << 62).to_bytes(8, "little")) == (1 << 62,)


@pytest.mark.parametrize("damaged", ["09", "00", "0205", "0103000000", "01020000", "0101000000ff"])
def test_bytes_that_are_no_key_are_refused_with_their_place(damaged):
    with pytest.raises(StateError, match=f"key 0401{damaged} is damaged at byte 2"):
        decode_key(bytes.fromhex("0401" + damaged))


def test_take_and_slice_refuse_rows_that_are_not_there():
    keys = Keys.from_list([b"a", b"b"])
    for rows in ([2], [-1]):
        with pytest.raises(IndexError):
            keys.take(np.array(rows))
    for start, stop in ((0, 3), (-1, 1), (2, 1)):
        with pytest.raises(IndexError):
            keys.slice(start, stop)


def test_arrow_and_slices_share_memory():
    keys = keys_of(["a", "bc", "def"], pl.String)
    part = keys.slice(1, 3)
    assert np.shares_memory(part.data, keys.data)
    back = Keys.from_arrow(part.to_arrow())
    assert back.to_list() == part.to_list()
    assert np.shares_memory(back.data, keys.data)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("values", [[b"a", b"bc", b"def", b"g"], [b"a", None, b"def", None]])
def test_a_slice_of_an_arrow_array_gives_its_own_keys_only(values, kind):
    keys = Keys.from_arrow(pa.array(values, kind)[1:3])
    assert keys.to_list() == [value or b"" for value in values[1:3]]


def test_keys_from_arrow_outlive_the_array_they_came_from():
    array = pa.array([b"N%d" % i * 50 for i in range(1000)], pa.large_binary())
    keys = Keys.from_arrow(array)
    expected = array.to_pylist()
    del array
    pa.array([b"\xff" * 100] * 1000, pa.large_binary())
    assert keys.to_list() == expected


def test_every_source_gives_arrays_of_one_kind_so_that_kernels_compile_once():
    sources = [
        keys_of(["a", "b"], pl.String),
        keys_of([1, 2], pl.Int64),
        Keys.from_list([b"a", b"b"]),
        Keys.from_arrow(pa.array([b"a", b"b"], pa.large_binary())),
        Keys.from_arrow(pa.array([b"a", None], pa.binary())),
    ]
    for keys in [*sources, *(one.slice(1, 2) for one in sources), sources[0].take(np.array([1]))]:
        for array in (keys.data, keys.offsets, keys.valid, keys.hashes):
            assert array.flags.writeable
            assert array.flags.c_contiguous
            assert array.flags.aligned


def test_offsets_that_are_not_aligned_are_read_all_the_same():
    array = pa.array([b"a", b"bc"], pa.large_binary())
    _, offsets, data = array.buffers()
    shifted = pa.py_buffer(b"\x00" + offsets.to_pybytes()).slice(1)
    odd = pa.Array.from_buffers(pa.large_binary(), 2, [None, shifted, data])
    assert Keys.from_arrow(odd).to_list() == [b"a", b"bc"]


def test_bytes_under_an_arrow_null_are_not_part_of_the_keys():
    validity = pa.py_buffer(b"\x05")
    offsets = pa.py_buffer(np.array([0, 1, 3, 4], np.int64))
    array = pa.Array.from_buffers(pa.large_binary(), 3, [validity, offsets, pa.py_buffer(b"axxb")])
    keys = Keys.from_arrow(array)
    assert keys.to_list() == [b"a", b"", b"b"]
    assert keys.valid.tolist() == [True, False, True]
    assert keys.to_arrow().to_pylist() == [b"a", None, b"b"]


def test_shards_are_pinned():
    hashes = np.array([0, 16, 17, (1 << 64) - 1], np.uint64)
    out = np.empty(4, np.int32)
    shard_of(hashes, 16, out)
    assert out.tolist() == [0, 0, 1, 15]


def test_rows_of_a_shard_keep_their_order():
    order, starts = partition_rows(np.array([2, 0, 2, 0, 2], np.int32), 4)
    assert order.tolist() == [1, 3, 0, 2, 4]
    assert starts.tolist() == [0, 2, 2, 5, 5]


def test_rows_without_a_slot_are_in_no_group():
    order, starts = counting_sort_by_slot(np.array([-1, 1, -1, 0, 1], np.int32), 2)
    assert order.tolist() == [3, 1, 4]
    assert starts.tolist() == [0, 1, 3]


def test_a_group_beyond_the_last_is_refused_before_memory_is_touched():
    with pytest.raises(AssertionError):
        partition_rows(np.array([0, 4], np.int32), 4)
