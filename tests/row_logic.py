"""Row logic from the allow-list, drawn at random: numbers, conditions and chains of steps."""

from __future__ import annotations

import polars as pl
from hypothesis import strategies as st

from headwater.definitions.expression import Filter, WithColumns

__all__ = ["SCHEMA", "conditions", "numbers", "steps"]

SCHEMA = {
    "x": pl.Float64(),
    "y": pl.Float64(),
    "n": pl.Int64(),
    "name": pl.String(),
    "late": pl.Boolean(),
    "at": pl.Datetime("us", "UTC"),
}
c = pl.col
_floats = st.sampled_from([0.1, 3.0, 7.0, -0.0, 1e-3, 1e300, float("nan"), float("inf")])
_ints = st.sampled_from([0, 1, 3, 10, -7])


def numbers(depth: int) -> st.SearchStrategy[pl.Expr]:
    leaves = st.sampled_from([c("x"), c("y"), c("n")])
    if depth == 0:
        return leaves
    below, wheres = numbers(depth - 1), conditions(depth - 1)
    operand = st.one_of(below, _floats, _ints)
    return st.one_of(
        leaves,
        st.builds(lambda a, b: a + b, below, operand),
        st.builds(lambda a, b: a * b, below, operand),
        st.builds(lambda a, b: a / b, below, operand),
        st.builds(lambda a, b: b / a, below, operand),
        st.builds(lambda a, b: a // b, below, operand),
        st.builds(lambda a, b: a % b, below, operand),
        st.builds(lambda a: a.cast(pl.Float64).round(1), below),
        st.builds(lambda a: a.cast(pl.Float64).abs().sqrt(), below),
        st.builds(lambda a: a.cast(pl.Float64).abs().log(), below),
        st.builds(lambda a: a.cast(pl.Float64) ** 3, below),
        st.builds(lambda a, b: a.fill_null(b), below, _ints),
        st.builds(pl.max_horizontal, below, below),
        st.builds(pl.sum_horizontal, below, below),
        st.builds(lambda a, b, w: pl.when(w).then(a).otherwise(b), below, below, wheres),
        st.just(c("name").cast(pl.Int64)),  # raises on most rows
        st.just(c("name").str.len_chars()),
        st.just(c("at").dt.hour() + c("at").dt.weekday()),
        st.just(c("at").dt.convert_time_zone("Europe/Paris").dt.truncate("1d").dt.epoch("ms")),
    )


def conditions(depth: int) -> st.SearchStrategy[pl.Expr]:
    leaves = st.sampled_from([c("late"), c("x").is_null(), c("name").str.contains("[0-9]")])
    if depth == 0:
        return leaves
    values, below = numbers(depth - 1), conditions(depth - 1)
    return st.one_of(
        leaves,
        st.builds(lambda a, b: a > b, values, st.one_of(values, _floats, _ints)),
        st.builds(lambda a: a.is_in([0, 1, 3]), st.just(c("n"))),
        st.builds(lambda a: a.is_between(-1, 10), values),
        st.builds(lambda a, b: a & b, below, below),
        st.builds(lambda a, b: a | ~b, below, below),
    )


steps = st.lists(
    st.one_of(
        st.builds(Filter, conditions(2)),
        st.builds(lambda a, b: WithColumns((("v", a), ("w", b))), numbers(3), conditions(2)),
        st.builds(lambda a: WithColumns((("k", pl.lit(a)), ("q", c("x") / 3))), _floats),
        st.just(WithColumns((("x", c("x") / 7),))),
    ),
    max_size=4,
)
