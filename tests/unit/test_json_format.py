from __future__ import annotations

import gzip
import zlib
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from headwater.errors import DefinitionError
from headwater_connectors.formats.codec import CODECS, REASONS, Reject
from headwater_connectors.formats.json import VALUE_BYTES_MAX, JsonCodec


def one(value, dtype=pl.Int64, column="a"):
    """Decode one value; the cell, or the reason why there is none."""
    decoded = JsonCodec({column: pl.Schema({column: dtype})[column]}).decode([value])
    if decoded.rejects:
        assert decoded.rows.size == 0
        return decoded.rejects[0].reason
    assert decoded.rows.tolist() == [0]
    return decoded.frame.rows()[0][0]


def cell(text, dtype):
    return one(b'{"a":' + text.encode() + b"}", dtype)


def test_columns_are_the_schemas_in_its_order():
    schema = {"ts": pl.Int64(), "tail": pl.String(), "delay": pl.Float64(), "late": pl.Boolean()}
    values = [
        b'{"late":true,"delay":1.5,"tail":"N1","ts":7}',
        b'{"tail":"N2","other":[{"ts":1}],"ts":8,"delay":null}',
    ]
    decoded = CODECS["json"](schema).decode(values)
    assert decoded.frame.schema == pl.Schema(schema)
    assert decoded.frame.rows() == [(7, "N1", 1.5, True), (8, "N2", None, None)]
    assert decoded.rows.tolist() == [0, 1]
    assert decoded.rows.dtype == np.int64
    assert decoded.rejects == []
    assert decoded.frame.n_chunks() == 1


def test_good_rows_go_through_and_bad_ones_name_their_row():
    values = [b'{"a":1}', None, b"", b" \t", b'{"a":2}', b"{", b"[1]", b'{"a":"x"}', b'{"a":3}']
    decoded = JsonCodec({"a": pl.Int64()}).decode(values)
    assert decoded.frame["a"].to_list() == [1, 2, 3]
    assert decoded.rows.tolist() == [0, 4, 8]
    assert [(reject.row, reject.reason) for reject in decoded.rejects] == [
        (1, "tombstone"),
        (2, "empty"),
        (3, "empty"),
        (5, "not_json"),
        (6, "not_an_object"),
        (7, "wrong_type"),
    ]
    assert decoded.frame.n_chunks() == 1


def test_unusual_column_names_are_read():
    schema = dict.fromkeys(["", "a b", "é", "^a", "**"], pl.String())
    decoded = JsonCodec(schema).decode([b'{"":"1","a b":"2","\\u00e9":"3","^a":"4","**":"5"}'])
    assert decoded.frame.rows() == [("1", "2", "3", "4", "5")]


@pytest.mark.parametrize("name", ["*", "^a.*$"])
def test_names_that_are_patterns_are_refused(name):
    with pytest.raises(DefinitionError, match="takes this name for a pattern"):
        JsonCodec({name: pl.String()})


def test_an_empty_batch_is_an_empty_frame():
    decoded = JsonCodec({"a": pl.Int8(), "s": pl.String()}).decode([])
    assert decoded.frame.schema == pl.Schema({"a": pl.Int8, "s": pl.String})
    assert decoded.frame.height == 0
    assert decoded.rows.dtype == np.int64
    assert decoded.rejects == []


@pytest.mark.parametrize("values", [[None], [b"{"], [b'{"a":"x"}']])
def test_a_batch_of_bad_records_is_an_empty_frame(values):
    decoded = JsonCodec({"a": pl.Int8()}).decode(values)
    assert decoded.frame.schema == pl.Schema({"a": pl.Int8})
    assert decoded.rows.dtype == np.int64
    assert decoded.rows.size == 0
    assert len(decoded.rejects) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"a":1}', 1),
        (b"{}", None),
        (b'{"a":null}', None),
        (b' \t{ "a" : 1 } ', 1),
        (b'\r\n{"a"\n:\r\n1}\n', 1),
        (b'{"a":1,"a":2}', 1),
        (b'{"\\u0061":1}', 1),
        (b'{"b":"{\\"a\\":2}","a":1}', 1),
        (None, "tombstone"),
        (b"", "empty"),
        (b" \r\n\t\x0c\x0b", "empty"),
        (b'{"a":1}{"a":2}', "not_json"),
        (b'{"a":1}\n{"a":2}', "not_json"),
        (b'{"a":1}\n\n{"a":2}\n', "not_json"),
        (b'{"a":1},', "not_json"),
        (b'{"a":1,}', "not_json"),
        (b'{"a":1', "not_json"),
        (b'{"a":01}', "not_json"),
        (b'{"a":+1}', "not_json"),
        (b"{'a':1}", "not_json"),
        (b"{a:1}", "not_json"),
        (b'{"a":1}//', "not_json"),
        (b'{"a":1}\x00', "not_json"),
        (b"hello", "not_json"),
        (b"{]", "not_json"),
        (b'\xef\xbb\xbf{"a":1}', "not_json"),
        (b'{"b":NaN,"a":1}', "not_json"),
        (b'{"b":Infinity,"a":1}', "not_json"),
        (b'{"b":-Infinity,"a":1}', "not_json"),
        (b'{"b":1e400,"a":1}', "not_json"),
        (b'{"b":"\x01","a":1}', "not_json"),
        (b'{"b":"x\ny","a":1}', "not_json"),
        (b'{"b":"x\ry","a":1}', "not_json"),
        (b'{"b":"\\x","a":1}', "not_json"),
        (b'{"b":' + b"[" * 2000 + b"]" * 2000 + b',"a":1}', "not_json"),
        (b'{"b":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001, "not_json"),
        (b"null", "not_an_object"),
        (b"[]", "not_an_object"),
        (b'[{"a":1}]', "not_an_object"),
        (b'"{}"', "not_an_object"),
        (b"1", "not_an_object"),
        (b'{"b":"\xff","a":1}', "not_utf8"),
        (b'\xff{"a":1}', "not_utf8"),
        (b'{"b":"\xed\xa0\x80","a":1}', "not_utf8"),
        (b'{"b":"\\ud800","a":1}', "not_utf8"),
        (b'{"b":"\\uDBFFx","a":1}', "not_utf8"),
        (b'{"b":"\\ud800\\ud800\\udc00","a":1}', "not_utf8"),
        (b'{"b":"\\udc00","a":1}', "not_utf8"),
        (b'{"\\ud800":0,"a":1}', "not_utf8"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_one_record(value, expected):
    assert one(value) == expected


def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, zstd])
def test_a_compressed_object_is_not_unpacked(pack):
    assert one(pack(b'{"a":1}')) == "not_utf8"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"x"', "x"),
        ('""', ""),
        ("null", None),
        ('"5"', "5"),
        ('"-1.5e3"', "-1.5e3"),
        ('"true"', "true"),
        ('"[1]"', "[1]"),
        ('"{}"', "{}"),
        ('"null"', "null"),
        ('"\\u0000"', "\x00"),
        ('"\\ud83d\\ude00 \\\\ud800"', "😀 \\ud800"),
        ('"é😀"', "é😀"),
        ("5", "wrong_type"),
        ("-0", "wrong_type"),
        ("5.50", "wrong_type"),
        ("1e300", "wrong_type"),
        ("340282366920938463463374607431768211455", "wrong_type"),
        ("true", "wrong_type"),
        ("false", "wrong_type"),
        ("[]", "wrong_type"),
        ('["x"]', "wrong_type"),
        ("{}", "wrong_type"),
        ('{"x":1}', "wrong_type"),
        ('{"":1}', "wrong_type"),
        ('{"":null}', "wrong_type"),
        ("[null]", "wrong_type"),
    ],
)
def test_string_columns_take_texts_only(text, expected):
    assert cell(text, pl.String) == expected


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [
        (pl.Int64, "9223372036854775807", 2**63 - 1),
        (pl.Int64, "-9223372036854775808", -(2**63)),
        (pl.Int64, "9223372036854775808", "wrong_type"),
        (pl.Int64, "-9223372036854775809", "wrong_type"),
        (pl.Int64, "1.0", "wrong_type"),
        (pl.Int64, "1e3", "wrong_type"),
        (pl.Int64, "true", "wrong_type"),
        (pl.Int64, '"1"', "wrong_type"),
        (pl.Int64, "[1]", "wrong_type"),
        (pl.Int64, "-0", 0),
        (pl.UInt64, "18446744073709551615", 2**64 - 1),
        (pl.UInt64, "18446744073709551616", "wrong_type"),
        (pl.UInt64, "-1", "wrong_type"),
        (pl.Int8, "-128", -128),
        (pl.Int8, "128", "wrong_type"),
        (pl.Int16, "-32769", "wrong_type"),
        (pl.Int16, "32767", 32767),
        (pl.Int32, "2147483647", 2**31 - 1),
        (pl.Int32, "2147483648", "wrong_type"),
        (pl.UInt8, "255", 255),
        (pl.UInt8, "-1", "wrong_type"),
        (pl.UInt16, "65536", "wrong_type"),
        (pl.UInt32, "4294967295", 2**32 - 1),
        (pl.UInt32, "4294967296", "wrong_type"),
        (pl.Boolean, "true", True),
        (pl.Boolean, "1", "wrong_type"),
        (pl.Boolean, '"true"', "wrong_type"),
        (pl.Float64, "7", 7.0),
        (pl.Float64, "5e-324", 5e-324),
        (pl.Float64, "2.4703282292062327e-324", 0.0),
        (pl.Float64, "1e-400", 0.0),
        (pl.Float64, "1.7976931348623157e308", 1.7976931348623157e308),
        (pl.Float64, "1e309", "not_json"),
        (pl.Float64, '"1.5"', "wrong_type"),
        (pl.Float64, "true", "wrong_type"),
        (pl.Float64, "{}", "wrong_type"),
        (pl.Float32, "0.1", float(np.float32(0.1))),
        (pl.Float32, "3.4028235e38", float(np.float32(3.4028235e38))),
        (pl.Float32, "1e39", "wrong_type"),
        (pl.Float32, "-1e39", "wrong_type"),
        (pl.Date, '"2024-02-29"', date(2024, 2, 29)),
        (pl.Date, '"2023-02-29"', "wrong_type"),
        (pl.Date, "19724", "wrong_type"),
    ],
)
def test_numbers_and_dates(dtype, text, expected):
    found = cell(text, dtype)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("2024-01-02T03:04:05Z", 1_704_164_645_000_000),
        ("2024-01-02T03:04:05+02:00", 1_704_157_445_000_000),
        ("2024-01-02T03:04:05.123456-00:30", 1_704_166_445_123_456),
        ("2024-01-02T03:04:05.1234567899Z", 1_704_164_645_123_456),
        ("2024-01-02T03:04:05", 1_704_164_645_000_000),
        ("2024-01-02", 1_704_153_600_000_000),
        ("1969-12-31T23:59:59.9999999Z", -1),
    ],
)
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Paris"])
def test_datetimes_are_kept_as_utc(unit, text, us, zone):
    codec = JsonCodec({"a": pl.Datetime(unit, zone)})
    decoded = codec.decode([f'{{"a":"{text}"}}'.encode()])
    assert decoded.frame.schema["a"] == pl.Datetime(unit, zone)
    expected = us // 1000 if unit == "ms" else us * (1000 if unit == "ns" else 1)
    assert decoded.frame["a"].to_physical().to_list() == [expected]


@pytest.mark.parametrize(
    "text", ["5", "1704164645000", "true", '""', '"now"', '"2024-13-01T00:00:00Z"', '"20240101"']
)
def test_a_datetime_column_takes_no_numbers_and_no_other_texts(text):
    assert cell(text, pl.Datetime("us", "UTC")) == "wrong_type"


def test_a_datetime_beyond_nanoseconds_is_refused_and_not_wrapped_around():
    ns = pl.Datetime("ns", "UTC")
    assert cell('"2262-04-11T23:47:16Z"', ns) == datetime(2262, 4, 11, 23, 47, 16, tzinfo=UTC)
    assert cell('"2262-04-11T23:47:17Z"', ns) == "wrong_type"
    assert cell('"1677-09-21T00:12:44Z"', ns) == datetime(1677, 9, 21, 0, 12, 44, tzinfo=UTC)
    assert cell('"1677-09-21T00:12:43Z"', ns) == "wrong_type"
    assert cell('"9999-12-31T23:59:59Z"', pl.Datetime("us", "UTC")).year == 9999


def test_a_raw_newline_inside_a_text_is_not_repaired():
    values = [b'{"s":"a"}', b'{"s":"b\nc"}', b'{"s":\n"d"}']
    decoded = JsonCodec({"s": pl.String()}).decode(values)
    assert decoded.frame["s"].to_list() == ["a", "d"]
    assert decoded.rows.tolist() == [0, 2]


def test_rows_that_keep_the_count_by_splitting_and_vanishing_do_not_pass():
    values = [b'{"a":1}\n{"a":2}', b"", b'{"a":3}']
    decoded = JsonCodec({"a": pl.Int64()}).decode(values)
    assert decoded.frame["a"].to_list() == [3]
    assert decoded.rows.tolist() == [2]
    assert [reject.reason for reject in decoded.rejects] == ["not_json", "empty"]


def test_a_value_over_the_maximum_is_oversized():
    codec = JsonCodec({"a": pl.Int64()}, value_bytes_max=10)
    decoded = codec.decode([b'{"a":  12}', b'{"a":   12}'])
    assert decoded.frame["a"].to_list() == [12]
    assert decoded.rejects == [
        Reject(1, "oversized", "the value has 11 bytes; at most 10 are taken")
    ]


def test_the_largest_value_by_default_decodes():
    text = "x" * (VALUE_BYTES_MAX - len(b'{"a":""}'))
    assert one(f'{{"a":"{text}"}}'.encode(), pl.String) == text
    assert one(f'{{"a":"{text}y"}}'.encode(), pl.String) == "oversized"


def test_the_first_wrong_column_is_named_with_its_value():
    codec = JsonCodec({"a": pl.Int64(), "s": pl.String()})
    decoded = codec.decode([b'{"a":1,"s":5}', b'{"a":2.5,"s":5}', b'{"s":"' + b"x" * 500 + b'"}'])
    assert [reject.message for reject in decoded.rejects] == [
        "column \"s\": '5' is not String (JSON type, format or range)",
        "column \"a\": '2.5' is not Int64 (JSON type, format or range)",
    ]


def test_messages_are_short():
    long = b"[" + b'"x",' * 5_000 + b"1]"
    values = [long, b'{"a":"' + b"y" * 5_000 + b'"}', b"{" + long]
    decoded = JsonCodec({"a": pl.Int64()}).decode(values)
    assert [len(reject.message) <= 300 for reject in decoded.rejects] == [True] * 3
    assert all(reject.reason in REASONS for reject in decoded.rejects)


def test_a_panic_of_the_reader_costs_only_its_own_record(monkeypatch):
    read = pl.read_ndjson

    def panicking(lines, **options):
        if b"boom" in lines:
            raise pl.exceptions.PanicException("called `Option::unwrap()` on a `None` value")
        return read(lines, **options)

    monkeypatch.setattr(pl, "read_ndjson", panicking)
    values = [b'{"a":1}', b'{"a":2}', b'{"boom":0}', b'{"a":3}']
    decoded = JsonCodec({"a": pl.Int64()}).decode(values)
    assert decoded.frame["a"].to_list() == [1, 2, 3]
    assert [(reject.row, reject.reason) for reject in decoded.rejects] == [(2, "decoder_failed")]


def test_other_errors_come_through(monkeypatch):
    def interrupted(lines, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pl, "read_ndjson", interrupted)
    with pytest.raises(KeyboardInterrupt):
        JsonCodec({"a": pl.Int64()}).decode([b'{"a":1}'])


def test_isolating_a_bad_record_takes_few_parses(monkeypatch):
    read, calls = pl.read_ndjson, []

    def counted(lines, **options):
        calls.append(len(lines))
        return read(lines, **options)

    monkeypatch.setattr(pl, "read_ndjson", counted)
    values = [b'{"a":%d}' % i for i in range(4096)]
    # msgspec reads numbers of any size, so nothing hints at this one.
    values[1234] = b'{"a":1,"b":1e999}'
    decoded = JsonCodec({"a": pl.Int64()}).decode(values)
    assert [reject.row for reject in decoded.rejects] == [1234]
    assert len(calls) <= 5 * 12
    calls.clear()
    values[1234] = b'{"a":NaN}'
    decoded = JsonCodec({"a": pl.Int64()}).decode(values)
    assert [reject.row for reject in decoded.rejects] == [1234]
    assert len(calls) <= 6


def test_a_wrong_hint_about_what_looks_bad_changes_nothing(monkeypatch):
    values = [b'{"a":%d}' % i for i in range(20)]
    values[3] = values[11] = b"{"
    codec = JsonCodec({"a": pl.Int64()})
    expected = codec.decode(values)
    assert expected.rows.size == 18
    for hint in (lambda record: record[5] % 2, lambda record: True, lambda record: False):
        monkeypatch.setattr(
            "headwater_connectors.formats.json._looks_good",
            lambda record, hint=hint: len(record) > 5 and bool(hint(record)),
        )
        found = codec.decode(values)
        assert found.frame.equals(expected.frame)
        assert found.rows.tolist() == expected.rows.tolist()
        assert found.rejects == expected.rejects


@pytest.mark.parametrize(
    "dtype",
    [pl.Duration("us"), pl.Time(), pl.Decimal(10, 2), pl.Binary(), pl.List(pl.Int64), pl.Int128()],
)
def test_types_that_json_cannot_carry_are_refused(dtype):
    with pytest.raises(DefinitionError, match=r'column "x": type .* leave it out'):
        JsonCodec({"x": dtype})


def test_an_empty_schema_is_refused():
    with pytest.raises(DefinitionError, match="schema is empty"):
        JsonCodec({})
