"""Canonical text: the same for the same logic, another for other logic, and pinned for good."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import msgspec
import polars as pl
import pytest

from headwater.definitions.expression import Filter, Select, WithColumns
from headwater.errors import DefinitionError
from headwater.plan.canonical import (
    canonical,
    canonical_steps,
    deserialize_expression,
    deserialize_steps,
    serialize_expression,
    serialize_steps,
)

c = pl.col

# Never change a line: a fingerprint hangs on every character.
PINNED = [
    (c("dep_delay") > 15, '(gt (col "dep_delay") (lit int 15))'),
    (c("a").is_not_null(), '(is_not_null (col "a"))'),
    (c("x") - c("y") / 2, '(sub (col "x") (truediv (col "y") (lit int 2)))'),
    (c("x") * 0.1, '(mul (col "x") (lit float 0x1.999999999999ap-4))'),
    (c("x") + float("nan"), '(add (col "x") (lit float nan))'),
    (c("x") + float("-inf"), '(add (col "x") (lit float -inf))'),
    (c("x") * -0.0, '(mul (col "x") (lit float -0x0.0p+0))'),
    (c("n") + 2**100, f'(add (col "n") (lit int {2**100}))'),
    (c("n") - -(2**70), f'(sub (col "n") (lit int {-(2**70)}))'),
    (~(c("a") & c("b")) | c("c"), '(or (not (and (col "a") (col "b"))) (col "c"))'),
    (c("s") == 'é"\n', '(eq (col "s") (lit String "\\u00e9\\"\\n"))'),
    (c('odd "name"'), '(col "odd \\"name\\"")'),
    (c("s").is_in(["b", "a"]), '(is_in nulls_equal=false (col "s") (lit List(String) ["b" "a"]))'),
    (c("n").is_in([1, None]), '(is_in nulls_equal=false (col "n") (lit List(Int64) [1 null]))'),
    (
        pl.when(c("x") > 0).then(1).otherwise(None),
        '(when (gt (col "x") (lit int 0)) (lit int 1) (lit Null null))',
    ),
    (c("x").cast(pl.Int8), '(cast Int8 strict (col "x"))'),
    (
        c("t").cast(pl.Datetime("ms", "Europe/Paris"), strict=False),
        '(cast Datetime(ms,Europe/Paris) nonstrict (col "t"))',
    ),
    (c("x").cast(pl.Decimal(10, 2)), '(cast Decimal(10,2) strict (col "x"))'),
    (
        c("p").cast(pl.Struct({"a": pl.List(pl.Int8), "b": pl.Duration("us")})),
        '(cast Struct("a":List(Int8),"b":Duration(us)) strict (col "p"))',
    ),
    (c("x").round(2), '(round decimals=2 mode="HalfToEven" (col "x"))'),
    (c("s").str.to_lowercase(), '(str.lowercase (col "s"))'),
    (
        c("s").str.to_date("%Y"),
        '(str.strptime Date exact=true format="%Y" strict=true (col "s") (lit String "raise"))',
    ),
    (c("t").dt.truncate("1h"), '(dt.truncate (col "t") (lit String "1h"))'),
    (c("t").dt.convert_time_zone("UTC"), '(dt.convert_time_zone "UTC" (col "t"))'),
    (c("t") > datetime(2024, 1, 1, tzinfo=UTC), None),
    (c("d") > date(1970, 1, 3), '(gt (col "d") (lit Date 2))'),
    (c("g") > timedelta(seconds=1), '(gt (col "g") (lit Duration(us) 1000000))'),
    (c("b") == b"\x00\xff", '(eq (col "b") (lit Binary 00ff))'),
    (c("x") == Decimal("1.50"), '(eq (col "x") (lit Decimal(38,2) 1.50))'),
    (
        pl.struct(c("x"), z=c("n") + 1).struct.field("z"),
        '(struct.field "z" (struct (field "x" (col "x")) (field "z" (add (col "n") (lit int 1)))))',
    ),
    (pl.sum_horizontal("a", "b"), '(sum_horizontal ignore_nulls=true (col "a") (col "b"))'),
    (c("x").fill_null(0), '(fill_null (col "x") (lit int 0))'),
    (c("l").list.get(0), '(list.get false (col "l") (lit int 0))'),
]


@pytest.mark.parametrize(("expr", "text"), PINNED, ids=[str(one)[:60] for one, _ in PINNED])
def test_the_text_is_pinned_and_survives_the_bytes(expr, text):
    found = canonical(expr)
    assert text is None or found == text
    assert canonical(deserialize_expression(serialize_expression(expr))) == found


def test_texts_differ_where_logic_does():
    texts = [canonical(expr) for expr, _ in PINNED]
    assert len(set(texts)) == len(texts)
    pairs = [
        (c("x") > 1, c("x") > 1.0),
        (c("x") + 0.0, c("x") + -0.0),
        (c("x") / c("y"), c("y") / c("x")),
        (c("s").is_in(["a b"]), c("s").is_in(["a", "b"])),
        (c("s").str.contains("a"), c("s").str.contains("a", literal=True)),
        (c("x").cast(pl.Int8), c("x").cast(pl.Int8, strict=False)),
        (pl.lit(1, pl.Int8), pl.lit(1, pl.Int16)),
        (c("x").round(2), c("x").round(2, mode="half_away_from_zero")),
        (pl.struct(a=c("x")), pl.struct(b=c("x"))),
    ]
    for left, right in pairs:
        assert canonical(left) != canonical(right)


def test_a_name_is_no_part_of_logic():
    assert canonical((c("x") > 1).alias("late")) == canonical(c("x") > 1)
    assert canonical(c("x").alias("a").alias("b") + 1) == canonical(c("x") + 1)


def test_the_same_logic_built_twice_has_the_same_text():
    def build():
        return pl.when(c("s").is_in(["a", "b"])).then(c("x") * 0.1).otherwise(pl.lit(None))

    assert canonical(build()) == canonical(build())


@pytest.mark.parametrize("expr", [c("x").sum(), c("x").hash(), pl.all(), pl.lit(pl.Series([1, 2]))])
def test_what_has_no_name_of_ours_cant_be_fingerprinted(expr):
    with pytest.raises(DefinitionError, match="can't be fingerprinted: "):
        canonical(expr)
    with pytest.raises(DefinitionError, match="can't be fingerprinted: "):
        serialize_expression(expr)


def test_bytes_that_hold_pickled_python_never_reach_polars():
    pickled = msgspec.msgpack.encode(
        {
            "AnonymousFunction": {
                "input": [{"Column": "x"}],
                "function": b"PLPYFN" + b"cos\nsystem\n(S'exit 1'\ntR.",
                "options": {},
                "fmt_str": "map",
            }
        }
    )
    with pytest.raises(DefinitionError, match="Python"):
        deserialize_expression(pickled)


@pytest.mark.parametrize(
    "content", [b"", b"\xc1", b"\x80", b"\x81\xa8Function\x80", b"\x93\x01\x02\x03"]
)
def test_damaged_bytes_are_refused_with_the_cure(content):
    with pytest.raises(DefinitionError, match="apply the definitions again"):
        deserialize_expression(content)


def test_steps_survive_their_bytes():
    steps = (
        Filter(c("n") > 0),
        WithColumns((("v", c("x") / 3), ("é", c("n").is_in([1, 2])))),
        Select((("v", c("v")),)),
    )
    again = deserialize_steps(serialize_steps(steps))
    assert [type(step) for step in again] == [Filter, WithColumns, Select]
    assert canonical_steps(again) == canonical_steps(steps)
    lines = canonical_steps(steps).splitlines()
    assert lines[0] == '(filter (gt (col "n") (lit int 0)))'
    assert lines[1] == (
        '(with_columns ("v" (truediv (col "x") (lit int 3)))'
        ' ("\\u00e9" (is_in nulls_equal=false (col "n") (lit List(Int64) [1 2]))))'
    )
    assert lines[2:] == ['(select ("v" (col "v")))']


@pytest.mark.parametrize("packed", [["filter"], [["group_by", []]], [["filter", []]]])
def test_unknown_steps_are_refused(packed):
    with pytest.raises(DefinitionError, match="apply the definitions again"):
        deserialize_steps(msgspec.msgpack.encode(packed))
