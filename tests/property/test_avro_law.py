"""The decode law for Avro, and fastavro's own schema resolution as an oracle of the values."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace

import fastavro
import numpy as np
import polars as pl
from fastavro.schema import SchemaParseException
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headwater_connectors.formats.avro import AvroCodec
from headwater_connectors.formats.confluent_framing import framed
from headwater_connectors.formats.decoded import REASONS, Decoded
from headwater_connectors.formats.options import CodecOptions
from headwater_connectors.formats.schema_registry import RegistrySettings

COLUMNS = {
    "i": pl.Int64(),
    "small": pl.Int8(),
    "u": pl.UInt64(),
    "f": pl.Float64(),
    "f32": pl.Float32(),
    "s": pl.String(),
    "b": pl.Boolean(),
    "us": pl.Datetime("us", "UTC"),
    "ns": pl.Datetime("ns"),
    "day": pl.Date(),
}
# What Avro's own rules say of these columns is what fastavro does with this reader's schema.
BY_THE_RULES = {"i": "long", "f": "double", "s": "string", "b": "boolean"}
READER = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Writer",
        "fields": [
            {"name": name, "type": ["null", kind], "default": None}
            for name, kind in BY_THE_RULES.items()
        ],
    }
)

PLAIN = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"]
LOGICAL = [
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "long", "logicalType": "local-timestamp-nanos"},
    {"type": "int", "logicalType": "date"},
    {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2},
]


class Schemas:
    """Stands in for a registry."""

    def __init__(self, schemas):
        self.schemas = schemas

    def schema(self, schema_id):
        return (json.dumps(self.schemas[schema_id]),) if schema_id in self.schemas else None


def codec_of(schemas, columns=COLUMNS):
    settings = RegistrySettings("http://not.asked")
    codec = AvroCodec(columns, 10_000, CodecOptions({}, settings), clock_s=lambda: 0.0)
    codec._registry = Schemas(schemas)
    return codec


def number(n):
    n = (n << 1) ^ (n >> 63)
    found = bytearray()
    while n > 0x7F:
        found.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*found, n])


def _kinds(inner):
    return st.one_of(
        inner.map(lambda items: {"type": "array", "items": items}),
        inner.map(lambda values: {"type": "map", "values": values}),
        st.lists(inner, max_size=3).map(
            lambda kinds: {
                "type": "record",
                "fields": [{"name": f"x{n}", "type": kind} for n, kind in enumerate(kinds)],
            }
        ),
        st.lists(inner.filter(lambda kind: not isinstance(kind, list)), min_size=1, max_size=3),
    )


leaves = st.one_of(
    st.sampled_from(PLAIN),
    st.sampled_from(LOGICAL),
    st.lists(st.sampled_from("ABC"), min_size=1, unique=True).map(
        lambda symbols: {"type": "enum", "symbols": symbols}
    ),
    st.integers(0, 4).map(lambda size: {"type": "fixed", "size": size}),
    st.lists(st.sampled_from([*PLAIN, LOGICAL[0]]), min_size=1, max_size=4, unique_by=str),
)
kinds = leaves | st.recursive(leaves, _kinds, max_leaves=4)


def _named(kind, path="N"):
    """Give each record, enum and fixed a name of its own."""
    if isinstance(kind, list):
        return [_named(one, f"{path}_{n}") for n, one in enumerate(kind)]
    if not isinstance(kind, dict):
        return kind
    found = {key: _named(kind[key], f"{path}_v") for key in ("items", "values") if key in kind}
    if "fields" in kind:
        found["fields"] = [
            {**one, "type": _named(one["type"], f"{path}_{one['name']}")} for one in kind["fields"]
        ]
    if kind["type"] in {"record", "enum", "fixed"}:
        found["name"] = path
    return {**kind, **found}


fields = st.lists(
    st.tuples(st.sampled_from([*COLUMNS, "other", "more"]), kinds),
    max_size=5,
    unique_by=lambda field: field[0],
)


@st.composite
def writers(draw):
    """A writer's schema that fastavro takes."""
    schema = {
        "type": "record",
        "name": "Writer",
        "fields": [{"name": n, "type": _named(k, f"N_{n}")} for n, k in draw(fields)],
    }
    try:
        fastavro.parse_schema(json.loads(json.dumps(schema)))
    except SchemaParseException:
        assume(False)
    return schema


def joined(parts):
    return st.tuples(*parts).map(b"".join)


def blocks(items):
    """Items in one block, with or without its size in bytes, or in no block at all."""
    body, count = b"".join(items), len(items)
    sized = number(-count) + number(len(body)) + body
    plain = number(count) + body
    return st.sampled_from([plain, sized] if count else [b""]).map(lambda part: part + b"\0")


def encoded(kind):
    """The bytes of any value of a type."""
    if isinstance(kind, list):
        return st.integers(0, len(kind) - 1).flatmap(
            lambda at: encoded(kind[at]).map(lambda body: number(at) + body)
        )
    match kind["type"] if isinstance(kind, dict) else kind:
        case "null":
            return st.just(b"")
        case "boolean":
            return st.sampled_from([b"\0", b"\1"])
        case "int":
            whole = st.integers(-(2**31), 2**31 - 1)
            return (st.integers(-200, 200) | st.integers(10_000, 20_000) | whole).map(number)
        case "long":
            whole = st.integers(-(2**63), 2**63 - 1)
            return (st.integers(-200, 200) | st.integers(0, 2**51) | whole).map(number)
        case "float":
            return st.floats(width=32).map(lambda x: struct.pack("<f", x))
        case "double":
            return st.floats().map(lambda x: struct.pack("<d", x))
        case "bytes":
            return st.binary(max_size=9).map(lambda data: number(len(data)) + data)
        case "string":
            texts = st.text(max_size=5).map(str.encode)
            return texts.map(lambda data: number(len(data)) + data)
        case "enum":
            return st.integers(0, len(kind["symbols"]) - 1).map(number)
        case "fixed":
            return st.binary(min_size=kind["size"], max_size=kind["size"])
        case "array":
            return st.lists(encoded(kind["items"]), max_size=3).flatmap(blocks)
        case "map":
            member = joined([encoded("string"), encoded(kind["values"])])
            return st.lists(member, max_size=3).flatmap(blocks)
        case _:
            return joined([encoded(one["type"]) for one in kind["fields"]])


@st.composite
def damaged(draw, schema):
    """A record with some bytes replaced, removed or put in."""
    value = bytearray(draw(encoded(schema)))
    pieces = st.binary(max_size=2) | st.sampled_from(
        [number(n) for n in (-1, -(2**63), 2**62, 2**31, 40, -40)]
    )
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value)))
        value[at : at + draw(st.integers(0, 3))] = draw(pieces)
    return bytes(value)


@st.composite
def batches(draw):
    """Some writers' schemas by id, and values of them and of nobody."""
    schemas = dict(enumerate(draw(st.lists(writers(), min_size=1, max_size=3))))
    ids = st.sampled_from(sorted(schemas))
    good = ids.flatmap(lambda n: encoded(schemas[n]).map(lambda body: framed(n, body)))
    bad = ids.flatmap(lambda n: damaged(schemas[n]).map(lambda body: framed(n, body)))
    strange = st.one_of(
        st.none(),
        st.binary(max_size=8),
        st.binary(max_size=8).map(lambda body: framed(99, body)),
        st.just(framed(0, b"x" * 10_000)),
    )
    return schemas, draw(st.lists(st.one_of(good, good, bad, strange), max_size=12))


def bits(frame):
    """Every cell; floats as their bits, so that NaN equals itself and zeros have signs."""
    cells = []
    for column in frame:
        found = column.to_physical().to_list()
        if column.dtype.is_float():
            found = [None if cell is None else struct.pack("<d", cell) for cell in found]
        cells.append((column.name, str(column.dtype), found))
    return cells


@settings(max_examples=400, deadline=None)
@given(batches())
def test_a_batch_decodes_as_its_records_alone(batch):
    schemas, values = batch
    codec = codec_of(schemas)
    found = codec.decode(values)
    each = [codec.decode([value]) for value in values]
    expected = Decoded(
        pl.concat([pl.DataFrame(schema=COLUMNS), *(one.frame for one in each)]),
        np.array([row for row, one in enumerate(each) if one.rows.size], dtype=np.int64),
        [replace(reject, row=row) for row, one in enumerate(each) for reject in one.rejects],
    )
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.rejects == expected.rejects
    assert bits(found.frame) == bits(expected.frame)
    bad = [reject.row for reject in found.rejects]
    assert sorted([*found.rows.tolist(), *bad]) == list(range(len(values)))
    assert bad == sorted(bad)
    assert found.frame.schema == pl.Schema(COLUMNS)
    assert {reject.reason for reject in found.rejects} <= set(REASONS)
    assert "decoder_failed" not in {reject.reason for reject in found.rejects}


def without_logical_types(node):
    if isinstance(node, dict):
        return {k: without_logical_types(v) for k, v in node.items() if k != "logicalType"}
    return [without_logical_types(one) for one in node] if isinstance(node, list) else node


def by_the_rules(schema, body):
    """The row that fastavro's resolution gives, or None."""
    try:
        return fastavro.schemaless_reader(io.BytesIO(body), without_logical_types(schema), READER)
    except (fastavro.schema.SchemaParseException, fastavro.read.SchemaResolutionError):
        return None
    except UnicodeDecodeError:
        return None


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_rows_are_those_of_avros_schema_resolution(data):
    schema = data.draw(writers())
    body = data.draw(encoded(schema))
    columns = {name: COLUMNS[name] for name in BY_THE_RULES}
    found = codec_of({1: schema}, columns).decode([framed(1, body)])
    expected = by_the_rules(schema, body)
    if expected is not None and '"decimal"' not in json.dumps(schema):
        refused = [reject.reason for reject in found.rejects]
        # An array of what takes no bytes: fastavro makes as many as a record says.
        assert refused in ([], ["not_avro"])
        if refused:
            assert "next to no bytes" in found.rejects[0].message
        else:
            row = pl.DataFrame([expected], schema=columns)
            assert bits(found.frame) == bits(row)
    elif expected is None and found.rows.size:
        # We take a little more than the rules: symbols of enums as text, decimals as numbers
        # (and so not as text).
        text = json.dumps(schema)
        assert '"enum"' in text or '"decimal"' in text


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_record_cut_short_or_grown_is_never_a_row(data):
    schema = data.draw(writers())
    body = data.draw(encoded(schema))
    codec = codec_of({1: schema})
    cuts = [framed(1, body[:length]) for length in range(len(body))]
    for value in [*cuts, framed(1, body + b"\0")]:
        assert codec.decode([value]).rows.size == 0
