from __future__ import annotations

import struct
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.flow.answer import RequestError
from headwater_proto.v1.column_pb2 import Column, VarBytes
from headwater_serving.columns import (
    decode_column,
    decode_frame,
    decode_matrix,
    encode_column,
    encode_frame,
)
from headwater_serving.dtypes import dtype_from_name, dtype_name

SAMPLES: dict[str, pl.Series] = {
    "float64": pl.Series([0.0, -0.0, 1.5, 5e-324, -np.inf, 1.7976931348623157e308]),
    "float32": pl.Series([0.1, -0.0, 3e38], dtype=pl.Float32),
    "int64": pl.Series([-(2**63), 2**63 - 1, 0], dtype=pl.Int64),
    "int8": pl.Series([-128, 127], dtype=pl.Int8),
    "int16": pl.Series([-(2**15), 2**15 - 1], dtype=pl.Int16),
    "int32": pl.Series([-(2**31), 2**31 - 1], dtype=pl.Int32),
    "uint8": pl.Series([0, 255], dtype=pl.UInt8),
    "uint16": pl.Series([0, 2**16 - 1], dtype=pl.UInt16),
    "uint32": pl.Series([0, 2**32 - 1], dtype=pl.UInt32),
    "uint64": pl.Series([0, 2**64 - 1], dtype=pl.UInt64),
    "boolean": pl.Series([True, False, True, True, False, False, True, False, True]),
    "string": pl.Series(["", "N14228", "zażółć", "\x00", "🛩" * 50]),
    "binary": pl.Series([b"", b"\xff\x00", b"a" * 100]),
    "date": pl.Series([date(1, 1, 1), date(1970, 1, 1), date(9999, 12, 31)]),
    "time": pl.Series([time(0), time(23, 59, 59, 999999)]),
    "utc": pl.Series(
        [datetime(1969, 12, 31, tzinfo=UTC), datetime(2100, 1, 1, 1, 2, 3, 4, tzinfo=UTC)]
    ),
    "naive": pl.Series([1_357_016_400_000_001]).cast(pl.Datetime("us")),
    "paris": pl.Series([datetime(2013, 3, 31, 1, tzinfo=UTC)]).dt.convert_time_zone("Europe/Paris"),
    "utc_ns": pl.Series([1, -1], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC")),
    "naive_ms": pl.Series([1, -1], dtype=pl.Int64).cast(pl.Datetime("ms")),
    "duration": pl.Series([timedelta(microseconds=-1), timedelta(days=10)]),
    "duration_ns": pl.Series([1], dtype=pl.Int64).cast(pl.Duration("ns")),
}


def through_the_wire(series: pl.Series) -> pl.Series:
    message = Column.FromString(encode_column(series).SerializeToString())
    return decode_column(message)


def assert_same_bits(left: pl.Series, right: pl.Series) -> None:
    assert left.dtype == right.dtype
    assert left.name == right.name
    assert left.is_null().to_list() == right.is_null().to_list()
    assert left.to_list() == right.to_list()
    if left.dtype.is_float():
        assert np.signbit(left.drop_nulls().to_numpy()).tolist() == (
            np.signbit(right.drop_nulls().to_numpy()).tolist()
        )


@pytest.mark.parametrize("name", SAMPLES)
def test_every_type_comes_back_to_the_bit(name):
    series = SAMPLES[name].alias(name)
    assert_same_bits(series, through_the_wire(series))


@pytest.mark.parametrize("name", SAMPLES)
def test_nulls_are_kept_at_every_place(name):
    whole = SAMPLES[name].alias(name)
    missing = pl.Series(name, [None], dtype=whole.dtype)
    for series in (
        pl.concat([missing, whole]),
        pl.concat([whole, missing], rechunk=False),
        pl.concat([whole, missing, missing, whole]),
        pl.concat([missing, missing]),
        whole.clear(),
    ):
        assert_same_bits(series, through_the_wire(series))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_slice_sends_its_own_rows_only(name):
    whole = SAMPLES[name].alias(name)
    missing = pl.Series(name, [None], dtype=whole.dtype)
    long = pl.concat([whole, missing, whole, whole, missing, whole])
    for offset, length in ((1, None), (len(whole), 2), (3, len(long) - 5), (len(long) - 1, 1)):
        part = long.slice(offset, length)
        assert_same_bits(part, through_the_wire(part))


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(allow_nan=False, width=64),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.booleans(),
            st.none() | st.text(max_size=20),
            st.none() | st.binary(max_size=20),
        ),
        max_size=40,
    ),
    st.integers(0, 40),
)
def test_any_frame_comes_back_to_the_bit(rows, start):
    schema = {"f": pl.Float64, "i": pl.Int64, "b": pl.Boolean, "s": pl.String, "y": pl.Binary}
    frame = pl.DataFrame(rows, schema=schema, orient="row").slice(min(start, len(rows)))
    wired = [Column.FromString(one.SerializeToString()) for one in encode_frame(frame, named=False)]
    back = decode_frame(wired, frame.schema)
    for name in frame.columns:
        assert_same_bits(frame[name], back[name])


def test_a_frame_restores_narrow_types_in_their_order():
    frame = pl.DataFrame([series.head(1).alias(name) for name, series in SAMPLES.items()])
    back = decode_frame(encode_frame(frame, named=False), frame.schema)
    assert back.schema == frame.schema
    assert back.rows() == frame.rows()


def test_nan_stays_nan_and_is_no_null():
    back = through_the_wire(pl.Series("x", [float("nan"), None, 1.0]))
    assert back.is_nan().to_list() == [True, None, False]


def test_numbers_are_packed_little_endian():
    column = encode_column(pl.Series("x", [1.5, -2.0]))
    assert column.float64 == struct.pack("<dd", 1.5, -2.0)
    assert (column.dtype, column.validity, column.rows) == ("", b"", 2)


def test_validity_is_one_bit_a_row_lowest_first():
    column = encode_column(pl.Series("x", [None, 7, None, 7, 7, 7, 7, 7, 7]))
    assert column.validity == bytes([0b11111010, 0b1])


def test_a_column_of_nulls_sends_its_type_and_no_values():
    column = encode_column(pl.Series("x", [None, None], dtype=pl.Float64))
    assert column.WhichOneof("values") is None
    assert column.dtype == "Float64"


def test_what_lies_under_a_null_is_not_sent():
    secret = pl.Series("x", [123456789, 1])
    masked = pl.select(pl.when(pl.Series([False, True])).then(secret).alias("x")).to_series()
    assert encode_column(masked).int64 == struct.pack("<qq", 0, 1)
    text = pl.Series("x", ["a secret of more than twelve bytes", "b"])
    masked = pl.select(pl.when(pl.Series([False, True])).then(text).alias("x")).to_series()
    assert b"secret" not in encode_column(masked).SerializeToString()


def test_unused_bits_of_booleans_are_zero():
    assert encode_column(pl.Series("x", [True] * 9).slice(0, 3)).boolean == b"\x07"


@pytest.mark.parametrize("dtype", [pl.List(pl.Int8), pl.Categorical(), pl.Int128(), pl.Null()])
def test_a_type_that_cannot_travel_is_refused(dtype):
    with pytest.raises(RequestError, match="can't be sent; cast it"):
        dtype_name(dtype)


@pytest.mark.parametrize("name", SAMPLES)
def test_names_of_types_lead_back_to_them(name):
    dtype = SAMPLES[name].dtype
    assert dtype_from_name(dtype_name(dtype)) == dtype


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("float64", 'unknown type "float64". Did you mean "Float64"?'),
        ("Datetime(us, Mars/Base)", 'unknown time zone "Mars/Base"'),
        ("Datetime(s)", 'unknown type "Datetime(s)"'),
    ],
)
def test_an_unknown_type_is_refused(name, text):
    with pytest.raises(RequestError) as caught:
        dtype_from_name(name)
    assert text in str(caught.value)


def offsets(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (Column(name="x", rows=2, float64=b"1234567"), "float64 has 7 bytes where 16 are needed"),
        (Column(name="x", rows=9, boolean=b"1"), "boolean has 1 bytes where 2 are needed"),
        (Column(name="x", rows=1, int64=bytes(8), validity=b"11"), "validity has 2 bytes"),
        (Column(name="x", rows=1, dtype="Int8", float64=bytes(8)), "Int8 travels as int64"),
        (Column(name="x", rows=1, dtype="Int8", int64=offsets(128)), "lies outside of Int8"),
        (Column(name="x", rows=1), "neither a buffer nor a dtype"),
        (Column(name="x", rows=1, string=VarBytes(offsets=offsets(0), data=b"a")), "offsets has 8"),
        (Column(name="x", rows=1, string=VarBytes(offsets=offsets(0, 9), data=b"a")), ""),
        (Column(name="x", rows=1, string=VarBytes(offsets=offsets(-4, 1), data=b"a")), ""),
        (Column(name="x", rows=2, binary=VarBytes(offsets=offsets(0, 1, 0), data=b"a")), ""),
        (Column(name="x", rows=1, string=VarBytes(offsets=offsets(0, 1), data=b"\xff")), "UTF8"),
    ],
)
def test_a_malformed_column_is_refused(column, text):
    with pytest.raises(RequestError) as caught:
        decode_column(column)
    assert text in str(caught.value)
    assert 'column "x"' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_frame_of_uneven_columns_is_refused():
    columns = [encode_column(pl.Series([1])), encode_column(pl.Series([1, 2]))]
    with pytest.raises(RequestError, match="differ in their number of rows"):
        decode_frame(columns, {"a": pl.Int64(), "b": pl.Int64()})
    with pytest.raises(RequestError, match="2 columns where 1 were described"):
        decode_frame(columns, {"a": pl.Int64()})


def test_a_matrix_holds_the_numbers_of_the_frame():
    names = [
        name for name, one in SAMPLES.items() if one.dtype.is_numeric() or one.dtype == pl.Boolean
    ]
    parts = [pl.concat([SAMPLES[name].head(2), SAMPLES[name].clear(1)]) for name in names]
    frame = pl.DataFrame([part.alias(name) for part, name in zip(parts, names, strict=True)])
    frame = pl.concat([frame, frame.reverse()]).with_columns(pl.lit(None, pl.Float32).alias("gone"))
    matrix = decode_matrix(encode_frame(frame, named=False), frame.schema)
    expected = frame.select(pl.all().cast(pl.Float64)).to_numpy()
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_array_equal(np.signbit(matrix), np.signbit(expected))


def test_a_matrix_of_text_or_of_short_buffers_is_refused():
    with pytest.raises(RequestError, match='"s" is String, which a matrix of numbers'):
        decode_matrix([encode_column(pl.Series(["a"]))], {"s": pl.String()})
    with pytest.raises(RequestError, match="int64 has 1 bytes where 8 are needed"):
        decode_matrix([Column(rows=1, int64=b"1")], {"i": pl.Int64()})
