from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction

import fastavro
import polars as pl
import pytest
from schema_registry_server import avro_bytes

from headwater.errors import DefinitionError
from headwater_connectors.formats.avro import VALUE_BYTES_MAX, AvroCodec
from headwater_connectors.formats.codec import CODECS, REASONS
from headwater_connectors.formats.json import JsonCodec
from headwater_connectors.formats.options import CodecOptions

FLIGHT = {
    "type": "record",
    "name": "Flight",
    "namespace": "air",
    "fields": [
        {"name": "tail", "type": "string"},
        {"name": "delay", "type": ["null", "double"], "default": None},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
COLUMNS = {"tail": pl.String(), "delay": pl.Float64(), "ts": pl.Int64()}


def record_of(*fields, name="R", **more):
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(kind, name="a", **more):
    return {"name": name, "type": kind, **more}


def bare(schema, columns, **options):
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return AvroCodec(columns, options=CodecOptions({"schema": text, "framing": "bare", **options}))


def number(n):
    """A zigzag varint, for records that no writer would write."""
    n = (n << 1) ^ (n >> 63)
    found = bytearray()
    while n > 0x7F:
        found.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*found, n])


def cell(kind, value, dtype, **options):
    """Write and read one value; the cell, or the reason why there is none."""
    schema = record_of(field(kind))
    return read(schema, avro_bytes(schema, {"a": value}), dtype, **options)


def read(schema, data, dtype, **options):
    try:
        codec = bare(schema, {"a": pl.Schema({"a": dtype})["a"]}, **options)
    except DefinitionError:
        return "refused"
    decoded = codec.decode([data])
    if decoded.rejects:
        assert decoded.rows.size == 0
        return decoded.rejects[0].reason
    assert decoded.frame["a"].dtype == dtype
    return decoded.frame["a"][0]


def reject_of(schema, data, columns=None):
    (reject,) = bare(schema, columns or {"a": pl.Int64()}).decode([data]).rejects
    assert reject.reason in REASONS
    assert len(reject.message) <= 400
    return reject


# --- Rows ---


def test_columns_are_the_schemas_in_its_order():
    codec = CODECS["avro"](
        {"ts": pl.Int64(), "delay": pl.Float64(), "tail": pl.String()},
        options=CodecOptions({"schema": json.dumps(FLIGHT), "framing": "bare"}),
    )
    values = [
        avro_bytes(FLIGHT, {"tail": "N1", "delay": 1.5, "ts": 7}),
        avro_bytes(FLIGHT, {"tail": "é", "delay": None, "ts": 8}),
    ]
    decoded = codec.decode(values)
    assert decoded.frame.columns == ["ts", "delay", "tail"]
    assert decoded.frame.rows() == [(7, 1.5, "N1"), (8, None, "é")]
    assert decoded.rows.tolist() == [0, 1]
    assert decoded.frame.n_chunks() == 1
    assert decoded.rejects == []


def test_an_empty_batch_is_an_empty_frame():
    for values in ([], [None], [b""]):
        decoded = bare(FLIGHT, COLUMNS).decode(values)
        assert decoded.frame.schema == pl.Schema(COLUMNS)
        assert decoded.frame.height == 0
        assert decoded.rows.dtype == "int64"


def test_good_rows_go_through_and_bad_ones_name_their_row():
    good = avro_bytes(FLIGHT, {"tail": "N1", "delay": 1.5, "ts": 7})
    values = [None, good, b"", good[:-1], good + b"\0", good, b" ", b"x" * 101]
    codec = AvroCodec(COLUMNS, 100, CodecOptions({"schema": json.dumps(FLIGHT), "framing": "bare"}))
    decoded = codec.decode(values)
    assert decoded.rows.tolist() == [1, 5]
    assert [(reject.row, reject.reason) for reject in decoded.rejects] == [
        (0, "tombstone"),
        (2, "empty"),
        (3, "not_avro"),
        (4, "not_avro"),
        (6, "not_avro"),
        (7, "oversized"),
    ]


def test_fields_that_are_no_columns_are_read_over():
    schema = record_of(
        field({"type": "array", "items": ["null", "string"]}, "list"),
        field({"type": "map", "values": "double"}, "map"),
        field(record_of(field("int", "x"), name="Inner"), "inner"),
        field("Inner", "again"),
        field({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "enum"),
        field({"type": "fixed", "name": "F", "size": 3}, "fixed"),
        field("null", "nothing"),
        field("long"),
    )
    record = {
        "list": ["x", None], "map": {"k": 1.5}, "inner": {"x": 1}, "again": {"x": 2},
        "enum": "B", "fixed": b"abc", "nothing": None, "a": 42,
    }  # fmt: skip
    assert read(schema, avro_bytes(schema, record), pl.Int64) == 42


# --- Types ---


def naive(*parts):
    return datetime(*parts, tzinfo=UTC).replace(tzinfo=None)


MICROS = {"type": "long", "logicalType": "timestamp-micros"}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
NANOS = {"type": "long", "logicalType": "timestamp-nanos"}
NOON = datetime(2025, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
CELLS = [
    ("boolean", True, pl.Boolean, True),
    ("int", 127, pl.Int8, 127),
    ("int", 128, pl.Int8, "wrong_type"),
    ("long", -1, pl.UInt64, "wrong_type"),
    ("long", 2**63 - 1, pl.UInt64, 2**63 - 1),
    ("long", -(2**63), pl.Int64, -(2**63)),
    ("long", 2**31, pl.Int32, "wrong_type"),
    ("int", 7, pl.Float64, 7.0),
    ("long", 2**53 + 1, pl.Float64, 2.0**53),
    ("float", 1.5, pl.Float64, 1.5),
    ("double", 0.1, pl.Float32, 0.10000000149011612),
    ("double", 1e39, pl.Float32, "wrong_type"),
    ("double", float("inf"), pl.Float32, float("inf")),
    ("double", -0.0, pl.Float64, -0.0),
    ("double", 1.0, pl.Int64, "refused"),
    ("boolean", True, pl.Int64, "refused"),
    ("long", 1, pl.Boolean, "refused"),
    ("long", 1, pl.String, "refused"),
    ("string", "x\0é", pl.String, "x\0é"),
    ("string", "5", pl.Int64, "refused"),
    ("bytes", b"caf\xc3\xa9", pl.String, "café"),
    ("bytes", b"\xff", pl.String, "wrong_type"),
    ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B", pl.String, "B"),
    ({"type": "string", "logicalType": "uuid"}, "no uuid at all", pl.String, "no uuid at all"),
    ({"type": "int", "logicalType": "date"}, -1, pl.Date, date(1969, 12, 31)),
    ({"type": "int", "logicalType": "date"}, 2_932_896, pl.Date, date(9999, 12, 31)),
    ({"type": "int", "logicalType": "date"}, 2_932_897, pl.Date, "wrong_type"),
    ({"type": "int", "logicalType": "date"}, -719_163, pl.Date, "wrong_type"),
    ({"type": "int", "logicalType": "date"}, 5, pl.Int32, 5),
    ("int", 5, pl.Date, "refused"),
    ("string", "2025-03-01", pl.Date, "refused"),
    (MICROS, NOON, pl.Datetime("us", "UTC"), NOON),
    (MICROS, NOON, pl.Datetime("ns", "UTC"), NOON),
    (MICROS, NOON, pl.Datetime("ms", "UTC"), NOON.replace(microsecond=123000)),
    (MICROS, -1, pl.Datetime("ms", "UTC"), datetime(1969, 12, 31, 23, 59, 59, 999000, UTC)),
    (MILLIS, 7, pl.Datetime("us"), naive(1970, 1, 1, 0, 0, 0, 7000)),
    (NANOS, 7_999, pl.Datetime("us", "UTC"), datetime(1970, 1, 1, 0, 0, 0, 7, UTC)),
    ({"type": "long", "logicalType": "local-timestamp-millis"}, 7, pl.Datetime("ms", "UTC"),
     datetime(1970, 1, 1, 0, 0, 0, 7000, UTC)),
    (MILLIS, 253_402_300_799_999, pl.Datetime("us"), naive(9999, 12, 31, 23, 59, 59, 999000)),
    (MILLIS, 253_402_300_800_000, pl.Datetime("us"), "wrong_type"),
    (MILLIS, 253_402_300_800_000, pl.Datetime("ms"), "wrong_type"),
    (MILLIS, -(2**63), pl.Datetime("us"), "wrong_type"),
    (MICROS, 2**63 - 1, pl.Datetime("ns"), "wrong_type"),
    (MILLIS, 9_223_372_036_855, pl.Datetime("ns"), "wrong_type"),
    (MILLIS, 5, pl.Int64, 5),
    ("long", 5, pl.Datetime("us"), "refused"),
    (MILLIS, 5, pl.Date, "refused"),
    (["null", "long"], None, pl.Int64, None),
    (["null", "long"], 5, pl.Int64, 5),
    (["null", "int", "double"], 5, pl.Float64, 5.0),
    (["null", "int", "double"], 5.5, pl.Float64, 5.5),
    (["string", "long"], 5, pl.Int64, 5),
    (["string", "long"], "5", pl.Int64, "wrong_type"),
    ([MILLIS, "null"], 5, pl.Datetime("ms"), naive(1970, 1, 1, 0, 0, 0, 5000)),
    (["null"], None, pl.Int64, None),
    ({"type": "array", "items": "long"}, [1], pl.Int64, "refused"),
    (["null", "string"], None, pl.Int64, "refused"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "dtype", "expected"), CELLS, ids=str)
def test_a_value_becomes_the_columns_or_a_dead_letter(kind, value, dtype, expected):
    # Logical types are written as the numbers they are, unless they are given as datetimes.
    found = cell(kind, value, dtype)
    assert found == expected
    assert str(found) == str(expected)  # the sign of a zero


@pytest.mark.parametrize("text", ["12.34", "-0.05", "99999999999999999.99", "0.10", "0"])
@pytest.mark.parametrize("underlying", ["bytes", "fixed"])
def test_decimals_become_the_nearest_double(text, underlying):
    kind = {"type": underlying, "logicalType": "decimal", "precision": 20, "scale": 2}
    if underlying == "fixed":
        kind |= {"name": "D", "size": 9}
    found = cell(kind, Decimal(text).quantize(Decimal("0.01")), pl.Float64)
    assert found == float(Fraction(text))


def test_decimals_that_are_no_numbers_here_are_refused():
    wide = {"type": "bytes", "logicalType": "decimal", "precision": 10**6, "scale": 10**6}
    assert read(record_of(field(wide)), number(1) + b"\x01", pl.Float64) == "refused"
    long = {"type": "bytes", "logicalType": "decimal", "precision": 76, "scale": 2}
    assert read(record_of(field(long)), number(33) + b"\x01" * 33, pl.Float64) == "wrong_type"
    kind = {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2}
    assert read(record_of(field(kind)), number(1) + b"\x01", pl.Int64) == "refused"
    assert read(record_of(field(kind)), number(1) + b"\x01", pl.String) == "refused"


def test_a_symbol_of_a_byte_does_not_become_a_text_of_kilobytes():
    def symbols(length):
        return {"type": "enum", "name": "E", "symbols": ["A", "B" * length]}

    assert cell(symbols(512), "B" * 512, pl.String) == "B" * 512
    assert cell(symbols(513), "A", pl.String) == "refused"


def test_types_of_a_union_that_look_alike_are_not_mixed_up():
    kind = [MILLIS, {"type": "long", "logicalType": "timestamp-micros"}]
    schema = record_of(field(kind))
    assert read(schema, number(0) + number(5), pl.Datetime("ms")).microsecond == 5000
    assert read(schema, number(1) + number(5), pl.Datetime("ms")) == "wrong_type"
    assert (
        "can't be told from"
        in reject_of(schema, number(1) + number(5), {"a": pl.Datetime("ms")}).message
    )


@pytest.mark.parametrize(
    "dtype", [pl.Duration("us"), pl.Time(), pl.Decimal(10, 2), pl.Binary(), pl.List(pl.Int64)]
)
def test_types_that_avro_cannot_fill_are_refused(dtype):
    with pytest.raises(DefinitionError, match=r'column "a": type .* leave it out'):
        bare(record_of(field("long")), {"a": dtype})


# --- Evolution ---


def test_writers_that_add_remove_widen_and_reorder_fields_still_decode():
    columns = {"a": pl.Float64(), "b": pl.String(), "c": pl.Int64()}
    old = record_of(field("int", "a"), field("string", "b"))
    new = record_of(field("int", "c"), field(["null", "double"], "a"), field("bytes", "z"))
    assert bare(old, columns).decode([avro_bytes(old, {"a": 1, "b": "x"})]).frame.rows() == [
        (1.0, "x", None)
    ]
    data = avro_bytes(new, {"c": 3, "a": 2.5, "z": b"."})
    assert bare(new, columns).decode([data]).frame.rows() == [(2.5, None, 3)]


def test_names_of_records_and_namespaces_do_not_matter():
    schema = record_of(field("long"), name="Other", namespace="elsewhere")
    assert read(schema, number(5), pl.Int64) == 5


def test_an_alias_stands_in_where_the_writer_has_no_field_of_the_name():
    old, new = record_of(field("long", "was")), record_of(field("long", "a"))
    both = record_of(field("long", "was"), field("long", "a"))
    aliases = {"a": ["older", "was"]}
    assert read(old, number(1), pl.Int64, aliases=aliases) == 1
    assert read(new, number(2), pl.Int64, aliases=aliases) == 2
    assert read(both, number(1) + number(2), pl.Int64, aliases=aliases) == 2
    assert read(old, number(1), pl.Int64) is None


def test_a_writers_wrong_default_changes_nothing():
    schema = record_of(field(["null", "long"], default="x"), field("int", "b", default="y"))
    assert read(schema, number(1) + number(5) + number(0), pl.Int64) == 5


def test_definitions_of_java_that_nest_a_type_in_a_type_are_read():
    schema = record_of(field({"type": {"type": "string", "avro.java.string": "String"}}))
    assert read(schema, number(1) + b"x", pl.String) == "x"
    inner = record_of(field("int", "x"), name="Inner")
    schema = record_of(field(inner, "first"), field({"type": "Inner"}, "second"), field("int"))
    assert read(schema, number(1) + number(2) + number(3), pl.Int64) == 3


def test_the_same_rows_in_avro_and_json_are_equal():
    rows = [{"tail": f"N{n}", "delay": n / 7 if n % 3 else None, "ts": n} for n in range(500)]
    from_avro = bare(FLIGHT, COLUMNS).decode([avro_bytes(FLIGHT, row) for row in rows])
    from_json = JsonCodec(COLUMNS).decode([json.dumps(row).encode() for row in rows])
    assert from_avro.frame.equals(from_json.frame)


# --- Bytes that no writer wrote ---

UNION = ["null", "long"]
ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
DAMAGED = {
    "a union's branch before the first": (UNION, number(-1) + number(5)),
    "a union's branch after the last": (UNION, number(2) + number(5)),
    "a union's branch far away": (UNION, number(2**62)),
    "a symbol before the first": (ENUM, number(-1)),
    "a symbol after the last": (ENUM, number(2)),
    "a text of a negative length": ("string", number(-1) + b"abc"),
    "a text longer than the record": ("string", number(5) + b"abc"),
    "a text of 4 EiB": ("string", number(2**62) + b"abc"),
    "bytes of the greatest length": ("bytes", number(2**63 - 1)),
    "a number without an end": ("long", b"\xff" * 30),
    "half a double": ("double", b"\0" * 4),
    "half a fixed": ({"type": "fixed", "name": "F", "size": 8}, b"abc"),
    "a fixed of 2 TiB": ({"type": "fixed", "name": "F", "size": 2**41}, b"abc"),
    "a fixed beyond all memory": ({"type": "fixed", "name": "F", "size": 2**70}, b"abc"),
    "2⁶² numbers": ({"type": "array", "items": "double"}, number(2**62)),
    "2⁶² numbers in a block of one byte": (
        {"type": "array", "items": "long"},
        number(-(2**62)) + number(1) + b"\0",
    ),
    "the least of all counts": ({"type": "array", "items": "long"}, number(-(2**63)) + number(0)),
    "2⁶² nulls": ({"type": "array", "items": "null"}, number(2**62) + number(0)),
    "2⁶² records of nothing": ({"type": "array", "items": record_of(name="N")}, number(2**62)),
    "2⁶² fixed of nothing": (
        {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}},
        number(2**62),
    ),
    "2⁶² members": ({"type": "map", "values": "null"}, number(2**62)),
    "too little": ("long", b""),
    "too much": ("null", b"\0"),
}


TAKEN_AS = {
    repr(UNION): pl.Int64(),
    repr(ENUM): pl.String(),
    repr("string"): pl.String(),
    repr("bytes"): pl.String(),
    repr("long"): pl.Float64(),
    repr("double"): pl.Float64(),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_records_are_dead_letters(name):
    kind, data = DAMAGED[name]
    schema = record_of(field("long", "x"), field(kind))
    assert reject_of(schema, number(1) + data, {"x": pl.Int64()}).reason == "not_avro"


@pytest.mark.parametrize("name", [name for name in DAMAGED if repr(DAMAGED[name][0]) in TAKEN_AS])
def test_damaged_records_are_dead_letters_where_the_field_is_a_column_too(name):
    kind, data = DAMAGED[name]
    schema = record_of(field("long", "x"), field(kind))
    columns = {"x": pl.Int64(), "a": TAKEN_AS[repr(kind)]}
    assert reject_of(schema, number(1) + data, columns).reason == "not_avro"


def test_text_that_is_not_utf8_is_a_dead_letter():
    text = record_of(field("string"))
    assert reject_of(text, number(1) + b"\xff", {"a": pl.String()}).reason == "not_utf8"
    schema = record_of(field("string", "other"), field("long"))
    assert reject_of(schema, number(1) + b"\xff" + number(1)).reason == "not_utf8"


LIST = record_of(field(["null", "List"], "next"), name="List")


def test_records_nest_as_deep_as_is_safe_and_no_deeper():
    schema = record_of(field(LIST, "list"), field("long"))
    for depth in (0, 5, 20):
        assert read(schema, number(1) * depth + number(0) + number(7), pl.Int64) == 7
    for depth in (100, 5_000, 190_000):
        reject = reject_of(schema, number(1) * depth + number(0) + number(7))
        assert reject.reason == "not_avro"
        assert "nests deeper than" in reject.message


def test_trees_and_direct_recursion_end():
    tree = record_of(field(["null", "Tree"], "l"), field(["null", "Tree"], "r"), name="Tree")
    schema = record_of(field(tree, "tree"), field("long"))
    leaf = number(0) * 2
    assert read(schema, number(1) + leaf + number(1) + leaf + number(7), pl.Int64) == 7
    loop = record_of(field("Loop", "loop"), name="Loop")
    assert reject_of(record_of(field(loop, "x"), field("long")), number(7)).reason == "not_avro"


def test_items_of_many_values_in_few_bytes_are_dead_letters():
    nulls = record_of(*(field("null", f"n{n}") for n in range(100)), field("int", "i"), name="N")
    schema = record_of(field({"type": "array", "items": nulls}, "list"), field("long"))
    assert read(schema, number(0) + number(7), pl.Int64) == 7
    bomb = number(150_000) + number(1) * 150_000 + number(0) + number(7)
    assert "next to no bytes" in reject_of(schema, bomb).message


UNUSABLE = {
    "not JSON": ("{", "not JSON"),
    "deep JSON": ("[" * 100_000, "not JSON|nests deeper"),
    "nested JSON": (json.dumps(json.loads('{"type":"array","items":' * 300 + '"int"' + "}" * 300)),
                    "nests deeper"),
    "a primitive": ('"string"', "it is string"),
    "a union": (json.dumps(["null", LIST]), "it is a union"),
    "an enum": (json.dumps(ENUM), "it is enum"),
    "an unknown type": (json.dumps(record_of(field("Nope"))), 'unknown type "Nope"'),
    "a field without a type": (json.dumps(record_of({"name": "a"})), "no Avro schema"),
    "a record without a name": ('{"type":"record","fields":[]}', "no Avro schema"),
    "a number": ("5", "no Avro schema"),
    "a fixed without a size": (
        json.dumps(record_of(field({"type": "fixed", "name": "F"}))),
        "no Avro schema",
    ),
    "a fixed of a negative size": (
        json.dumps(record_of(field({"type": "fixed", "name": "F", "size": -1}, "z"))),
        "size -1",
    ),
    "values that double": (
        json.dumps(record_of(*(
            [field(record_of(name="R0"), "f0")]
            + [field(record_of(field(f"R{n}", "l"), field(f"R{n}", "r"), name=f"R{n + 1}"),
                     f"f{n + 1}") for n in range(40)]
        ), name="Top")),
        "more than 10000 values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSABLE)
def test_schemas_that_describe_no_record_are_refused(name):
    text, message = UNUSABLE[name]
    with pytest.raises(DefinitionError, match=message):
        bare(text, {"a": pl.Int64()})


def test_options_that_are_none_are_refused():
    with pytest.raises(DefinitionError, match="skema"):
        AvroCodec({"a": pl.Int64()}, options=CodecOptions({"skema": "x"}))
    with pytest.raises(DefinitionError, match="JSON takes no options"):
        JsonCodec({"a": pl.Int64()}, options=CodecOptions({"schema": "x"}))
    with pytest.raises(DefinitionError, match="schema is empty"):
        AvroCodec({})


def test_the_largest_record_is_read():
    schema = record_of(field("string"))
    text = "x" * (VALUE_BYTES_MAX - 3)
    assert read(schema, avro_bytes(schema, {"a": text}), pl.String) == text
    assert read(schema, avro_bytes(schema, {"a": text + "x"}), pl.String) == "oversized"


def test_fastavro_alone_would_take_what_is_refused_here():
    """If this fails, fastavro has become stricter: see which dead ends are still needed."""
    import io

    schema = record_of(field(UNION))
    wild = fastavro.schemaless_reader(io.BytesIO(number(-1) + number(5)), schema, None)
    assert wild == {"a": 5}
