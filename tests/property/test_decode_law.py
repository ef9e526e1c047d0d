"""The decode law: decode(batch) = concat(decode(each record alone)), bit for bit."""

from __future__ import annotations

import functools
import json
import random
import struct
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_connectors.formats.decoded import REASONS, Decoded
from headwater_connectors.formats.json import JsonCodec

SCHEMA = {
    "i": pl.Int64(),
    "small": pl.Int8(),
    "u": pl.UInt64(),
    "f": pl.Float64(),
    "f32": pl.Float32(),
    "s": pl.String(),
    "t": pl.String(),
    "b": pl.Boolean(),
    "us": pl.Datetime("us", "UTC"),
    "ns": pl.Datetime("ns"),
    "day": pl.Date(),
}
CODEC = JsonCodec(SCHEMA, value_bytes_max=100_000)

NASTY = [
    None,
    b"",
    b" ",
    b"\n",
    b"\r\n\t \x0c",
    b"{}",
    b"null",
    b"[]",
    b"1",
    b'"x"',
    b"[{}]",
    b'{"i":1}{"i":2}',
    b'{"i":1}\n{"i":2}',
    b'{"i":1}\n\n{"i":2}',
    b'\n{"i":1}\n',
    b'{"i":\r\n1}',
    b'\r{"i":1}\r',
    b'{"i":1},{"i":2}',
    b'{"s":"a\nb"}',
    b'{"s":"a\rb"}',
    b'\xef\xbb\xbf{"i":1}',
    b'{"f":NaN}',
    b'{"f":-Infinity}',
    b'{"f":1e400}',
    b'{"x":1e400}',
    b'{"f":-0.0}',
    b'{"f":-0}',
    b'{"f":5e-324}',
    b'{"f":123456789012345678}',
    b'{"f":340282366920938463463374607431768211456}',
    b'{"f32":16777217}',
    b'{"f32":1e300}',
    b'{"i":9223372036854775808}',
    b'{"i":1.0}',
    b'{"i":"1"}',
    b'{"small":128}',
    b'{"small":-128}',
    b'{"small":1e2}',
    b'{"u":-1}',
    b'{"u":18446744073709551615}',
    b'{"b":1}',
    b'{"i":true}',
    b'{"i":1,"i":"x"}',
    b'{"i":"x","i":1}',
    b'{"s":"x","s":5}',
    b'{"s":5,"s":"x"}',
    b'{"s":null,"s":5}',
    b'{"s":5}',
    b'{"s":"5"}',
    b'{"s":-1.5e-7,"t":"-1.5e-7"}',
    b'{"s":"-1.5e-7","t":-1.5e-7}',
    b'{"s":true}',
    b'{"s":"true","t":"[1]"}',
    b'{"s":"{\\"x\\":1}","t":{"x":1}}',
    b'{"s":[[1],{"x":null}]}',
    b'{"s":"\\ud800"}',
    b'{"s":"\\ud83d\\ude00"}',
    b'{"s":"\\ud800\\ud83d\\ude00"}',
    b'{"s":"\\udc00"}',
    b'{"s":"\\\\ud800"}',
    b'{"s":"\\\\\\ud800"}',
    b'{"s":"\\u0000"}',
    b'{"s":"\x00"}',
    b'{"s":"\x1f"}',
    b'{"s":"\xff"}',
    b'{"s":"\xc3\xa9"}',
    b'{"x":"\xff","i":1}',
    b'{"x":{"y":[1,2,{"i":9}]},"i":1}',
    b'{"us":1704164645000000}',
    b'{"us":"2024-01-02T03:04:05+02:00"}',
    b'{"us":"02-01-2024"}',
    b'{"us":"2024/01/02"}',
    b'{"us":"2024-13-01T00:00:00Z"}',
    b'{"us":"9999-12-31T23:59:59Z","ns":"9999-12-31T23:59:59Z"}',
    b'{"ns":"2024-01-02 03:04:05.123456789"}',
    b'{"ns":"0001-01-01"}',
    b'{"day":"2024-02-29"}',
    b'{"day":"29-02-2024"}',
    b'{"day":"2023-02-29"}',
    b'{"i":1',
    b'{"i":1}x',
    b'{"i":1}\x00',
    b"{'i':1}",
    b'{"s":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"x":' + b"[" * 1100 + b"]" * 1100 + b"}",
    b'{"s":"' + b"x" * 90_000 + b'"}',
    b'{"s":"' + b"x" * 100_000 + b'"}',
    b"\x1f\x8b\x08\x00 not gzip",
    b"\x28\xb5\x2f\xfd not zstd",
    b"/etc/hostname",
    b"hello",
]


@functools.lru_cache(maxsize=50_000)
def alone(value: bytes | None) -> Decoded:
    return CODEC.decode([value])


def concat_of_each(values: list[bytes | None]) -> Decoded:
    each = [alone(value) for value in values]
    return Decoded(
        pl.concat([pl.DataFrame(schema=SCHEMA), *(one.frame for one in each)]),
        np.array([row for row, one in enumerate(each) if one.rows.size], dtype=np.int64),
        [replace(reject, row=row) for row, one in enumerate(each) for reject in one.rejects],
    )


def bits(frame: pl.DataFrame) -> list[tuple[str, list[object]]]:
    """Every cell; floats as their bits, so that the signs of zeros count."""
    columns = []
    for column in frame:
        cells = column.to_physical().to_list()
        if column.dtype.is_float():
            cells = [None if cell is None else struct.pack("<d", cell) for cell in cells]
        columns.append((f"{column.name} {column.dtype}", cells))
    return columns


def assert_same(found: Decoded, expected: Decoded) -> None:
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.rejects == expected.rejects
    assert bits(found.frame) == bits(expected.frame)


def assert_whole(decoded: Decoded, values: list[bytes | None]) -> None:
    rows = decoded.rows.tolist()
    bad = [reject.row for reject in decoded.rejects]
    assert sorted(rows + bad) == list(range(len(values)))
    assert rows == sorted(rows)
    assert bad == sorted(bad)
    assert decoded.frame.height == len(rows)
    assert decoded.frame.schema == pl.Schema(SCHEMA)
    assert {reject.reason for reject in decoded.rejects} <= set(REASONS)


def dumps(value: object) -> bytes:
    return json.dumps(value).encode()


def maybe(values):
    return st.none() | values


int64s = st.integers(-(2**63), 2**63 - 1)
good_objects = st.fixed_dictionaries(
    {},
    optional={
        "i": maybe(int64s),
        "small": maybe(st.integers(-128, 127)),
        "u": maybe(st.integers(0, 2**64 - 1)),
        "f": maybe(st.floats(allow_nan=False, allow_infinity=False)),
        "f32": maybe(st.floats(width=32, allow_nan=False, allow_infinity=False)),
        "s": maybe(st.text(max_size=12) | st.from_regex(r"-?[0-9]{1,3}(\.5)?", fullmatch=True)),
        "t": maybe(st.sampled_from(["", "true", "[", "{}", "null", "12", "N1", "é"])),
        "b": maybe(st.booleans()),
        "us": maybe(st.datetimes().map(lambda moment: moment.isoformat() + "Z")),
        "day": maybe(st.dates().map(str)),
        # Beyond 128 bits a number is none that the reader knows.
        "other": st.lists(st.integers(-(2**127), 2**127 - 1) | st.text(max_size=3), max_size=3),
    },
)
any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["2024-01-02T03:04:05Z", "2024-01-02", "5", "-1.5", "true", "[", "{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)
any_objects = st.dictionaries(st.sampled_from([*SCHEMA, "other"]), any_json, max_size=5)


@st.composite
def damaged(draw):
    """A good record with some bytes replaced, removed or put in."""
    value = bytearray(dumps(draw(good_objects)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value) - 1)) if value else 0
        piece = draw(
            st.binary(max_size=2) | st.sampled_from(list(b'{}[]",:\\\n\r 0-.e')).map(_byte)
        )
        value[at : at + draw(st.integers(0, 2))] = piece
    return bytes(value)


def _byte(code: int) -> bytes:
    return bytes([code])


def _nasty(at: int) -> bytes | None:
    return NASTY[at]


# Drawn by place: a strategy over the values would carry all their bytes in its repr.
nasty_records = st.integers(0, len(NASTY) - 1).map(_nasty)
good_records = good_objects.map(dumps)
records = st.one_of(
    good_records,
    good_records,
    nasty_records,
    any_objects.map(dumps),
    damaged(),
    st.binary(max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(records, max_size=25))
def test_a_batch_decodes_as_its_records_alone(values):
    found = CODEC.decode(values)
    assert_whole(found, values)
    assert_same(found, concat_of_each(values))


@settings(max_examples=100, deadline=None)
@given(st.lists(good_objects, min_size=1, max_size=25))
def test_good_objects_decode_to_their_own_values(objects):
    found = CODEC.decode([dumps(each) for each in objects])
    assert found.rejects == []
    assert found.rows.tolist() == list(range(len(objects)))
    for name in ("i", "small", "u", "s", "t", "b"):
        assert found.frame[name].to_list() == [each.get(name) for each in objects]
    for name in ("f", "f32"):
        expected = pl.Series(name, [each.get(name) for each in objects], pl.Float64)
        column = found.frame.select(pl.col(name).cast(pl.Float64))
        assert bits(column) == bits(expected.to_frame())
    assert found.frame["day"].cast(pl.String).to_list() == [each.get("day") for each in objects]
    moments = found.frame["us"].dt.replace_time_zone(None).to_list()
    assert [moment and moment.isoformat() + "Z" for moment in moments] == [
        each.get("us") for each in objects
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(good_records, min_size=1, max_size=25), records, st.data())
def test_good_rows_do_not_notice_a_record_put_between_them(values, stranger, data):
    at = data.draw(st.integers(0, len(values)))
    together = CODEC.decode([*values[:at], stranger, *values[at:]])
    kept = (together.rows != at).nonzero()[0]
    assert bits(together.frame[kept]) == bits(CODEC.decode(values).frame)
    assert together.frame.height - kept.size + len(together.rejects) == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(records, max_size=25), st.randoms(use_true_random=False))
def test_rows_follow_their_records_in_any_order(values, rng):
    order = list(range(len(values)))
    rng.shuffle(order)
    shuffled = CODEC.decode([values[row] for row in order])
    assert_same(shuffled, concat_of_each([values[row] for row in order]))


@settings(max_examples=300, deadline=None)
@given(any_json)
def test_a_string_column_takes_every_text_and_nothing_else(value):
    decoded = JsonCodec({"s": pl.String()}).decode([dumps({"s": value})])
    if value is None or isinstance(value, str):
        assert decoded.frame["s"].to_list() == [value]
    else:
        assert [reject.reason for reject in decoded.rejects] in (["wrong_type"], ["not_json"])


def refused(value: bytes) -> bool:
    """Tell whether the JSON of the standard library takes no object from these bytes."""

    def constant(name: str) -> None:
        raise ValueError(name)

    try:
        return not isinstance(json.loads(value.decode(), parse_constant=constant), dict)
    except ValueError:
        return True


@settings(max_examples=500, deadline=None)
@given(damaged() | st.binary(max_size=12) | nasty_records.filter(bool))
def test_what_is_no_json_object_is_never_a_row(value):
    if refused(value):
        assert alone(value).rows.size == 0


@pytest.mark.parametrize("seed", range(4))
def test_large_batches_decode_as_their_records_alone(seed):
    """More rows and bytes than one of Polars' chunks, on all its threads."""
    rng = random.Random(seed)
    some_good = [
        b'{"i":%d,"f":%.17g,"s":"N%d","t":"%d","b":true,"us":"2024-01-%02dT00:00:00Z"}'
        % (i, rng.uniform(-1e6, 1e6), i, i, 1 + i % 28)
        for i in range(400)
    ]
    bad_share = [0.0, 0.0005, 0.02, 0.2][seed]
    values = [
        rng.choice(NASTY) if rng.random() < bad_share else rng.choice(some_good)
        for _ in range(20_000 if bad_share < 0.1 else 4_000)
    ]
    found = CODEC.decode(values)
    assert_whole(found, values)
    assert_same(found, concat_of_each(values))


@pytest.mark.parametrize("at", [0, 1, 6_000, 11_998, 11_999])
@pytest.mark.parametrize(
    "stranger",
    [b'{"i":"x"}', b'{"f":NaN}', b'{"i":1}\n{"i":2}', b'{"s":5}', b'{"small":200}', None],
)
def test_one_bad_record_anywhere_in_a_large_batch_costs_only_itself(at, stranger):
    values = [b'{"i":%d,"f":%d.5,"s":"N%d"}' % (i, i, i) for i in range(12_000)]
    expected = CODEC.decode(values).frame
    values[at] = stranger
    found = CODEC.decode(values)
    assert [reject.row for reject in found.rejects] == [at]
    rows = np.delete(np.arange(12_000), at)
    assert found.rows.tolist() == rows.tolist()
    assert found.frame.equals(expected[rows])


finite = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.tuples(st.integers(0, 10**25), st.integers(0, 10**25), st.integers(-345, 300)).map(
    lambda parts: "{}.{}e{}".format(*parts)
)
number_texts = st.one_of(
    finite.map(repr),
    finite.map("{:.16e}".format),
    finite.map("{:.25e}".format),
    st.floats(0, 1e-307).map("{:.20e}".format),
    st.integers(-(2**127), 2**127).map(str),
    decimals,
    decimals.map("-{}".format),
)
FLOATS = JsonCodec({"f": pl.Float64()})


def assert_exact(texts: list[str]) -> None:
    decoded = FLOATS.decode([f'{{"f":{text}}}'.encode() for text in texts])
    expected = [float(text) for text in texts]
    finite_rows = [row for row, value in enumerate(expected) if abs(value) != float("inf")]
    assert decoded.rows.tolist() == finite_rows
    found = decoded.frame["f"].to_numpy().view(np.uint64)
    assert (found == np.array(expected)[finite_rows].view(np.uint64)).all()


@settings(max_examples=300, deadline=None)
@given(st.lists(number_texts, min_size=1, max_size=40))
def test_floats_are_rounded_as_python_rounds_them(texts):
    assert_exact(texts)


def test_floats_of_every_exponent_are_rounded_as_python_rounds_them():
    rng = random.Random(7)
    values = [
        struct.unpack("<d", struct.pack("<Q", sign << 63 | exponent << 52 | rng.getrandbits(52)))[0]
        for sign in (0, 1)
        for exponent in range(2047)
        for _ in range(3)
    ]
    assert_exact([repr(value) for value in values])
    assert_exact([f"{value:.17e}" for value in values])
    # Half way between two doubles, and a hair above.
    halves = [f"{2**53 + 2 * k + 1}.0" for k in range(500)]
    assert_exact([*halves, *(half + "0" * 30 + "1" for half in halves)])
