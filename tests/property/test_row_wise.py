"""Rows are independent: any logic from the allow-list, on any rows, in any batching."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.definitions.expression import (
    Filter,
    WithColumns,
    apply_steps,
    check_row_wise,
    evaluate_rows,
)
from headwater.definitions.probing import identical, random_frame
from headwater.errors import DefinitionError
from headwater.plan.canonical import canonical, deserialize_steps, serialize_steps

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


def _numbers(depth: int) -> st.SearchStrategy[pl.Expr]:
    leaves = st.sampled_from([c("x"), c("y"), c("n")])
    if depth == 0:
        return leaves
    below, conditions = _numbers(depth - 1), _conditions(depth - 1)
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
        st.builds(lambda a, b, w: pl.when(w).then(a).otherwise(b), below, below, conditions),
        st.just(c("name").cast(pl.Int64)),  # raises on most rows
        st.just(c("name").str.len_chars()),
        st.just(c("at").dt.hour() + c("at").dt.weekday()),
        st.just(c("at").dt.convert_time_zone("Europe/Paris").dt.truncate("1d").dt.epoch("ms")),
    )


def _conditions(depth: int) -> st.SearchStrategy[pl.Expr]:
    leaves = st.sampled_from([c("late"), c("x").is_null(), c("name").str.contains("[0-9]")])
    if depth == 0:
        return leaves
    numbers, below = _numbers(depth - 1), _conditions(depth - 1)
    return st.one_of(
        leaves,
        st.builds(lambda a, b: a > b, numbers, st.one_of(numbers, _floats, _ints)),
        st.builds(lambda a: a.is_in([0, 1, 3]), st.just(c("n"))),
        st.builds(lambda a: a.is_between(-1, 10), numbers),
        st.builds(lambda a, b: a & b, below, below),
        st.builds(lambda a, b: a | ~b, below, below),
    )


_steps = st.lists(
    st.one_of(
        st.builds(Filter, _conditions(2)),
        st.builds(lambda a, b: WithColumns((("v", a), ("w", b))), _numbers(3), _conditions(2)),
        st.builds(lambda a: WithColumns((("k", pl.lit(a)), ("q", c("x") / 3))), _floats),
        st.just(WithColumns((("x", c("x") / 7),))),
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    steps=_steps,
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 40),
    nulls=st.booleans(),
    data=st.data(),
)
def test_any_batching_gives_the_same_rows_to_the_last_bit(steps, seed, rows, nulls, data):
    frame = random_frame(SCHEMA, rows, np.random.default_rng(seed), nulls=nulls, literals=(3, "7"))
    whole, kept, failed = apply_steps(frame, steps)
    assert whole.height == kept.size
    assert not set(kept.tolist()) & set(failed.tolist())
    cuts = data.draw(st.lists(st.integers(0, rows), max_size=4).map(sorted))
    for bounds in ([0, *cuts, rows], list(range(rows + 1))):
        pieces = [
            (start, apply_steps(frame[start:stop], steps)) for start, stop in pairwise(bounds)
        ]
        parts = [part for _, (part, _, _) in pieces] or [whole]
        assert identical(pl.concat(parts), whole)
        joined = [start + found for start, (_, found, _) in pieces]
        assert np.concatenate([*joined, []]).tolist() == kept.tolist()
        joined = [start + found for start, (_, _, found) in pieces]
        assert np.concatenate([*joined, []]).tolist() == failed.tolist()
    again, kept_again, failed_again = apply_steps(frame, deserialize_steps(serialize_steps(steps)))
    assert identical(again, whole)
    assert kept_again.tolist() == kept.tolist()
    assert failed_again.tolist() == failed.tolist()


@settings(max_examples=40, deadline=None)
@given(expr=st.one_of(_numbers(3), _conditions(3)), seed=st.integers(0, 2**32 - 1))
def test_logic_from_the_allow_list_passes_the_check_with_the_type_it_has(expr, seed):
    dtype = check_row_wise(expr.alias("v"), SCHEMA, "here", seed=seed)
    frame = random_frame(SCHEMA, 20, np.random.default_rng(seed), nulls=True)
    values, _ = evaluate_rows(frame, [expr.alias("v")])
    assert values["v"].dtype == dtype
    assert canonical(expr.alias("v")) == canonical(expr)


_LEAKS = [
    lambda e: e - e.cast(pl.Float64).mean(),
    lambda e: e + pl.len(),
    lambda e: e.shift(1),
    lambda e: e.over("late"),
    lambda e: e.cast(pl.Float64).cum_sum(),
    lambda e: pl.when(pl.len() > 1).then(e),
    lambda e: e.is_in(e),
    lambda e: e.sort(),
    lambda e: e == e.first(),
]


@settings(max_examples=40, deadline=None)
@given(expr=_numbers(2), leak=st.sampled_from(_LEAKS), outer=_numbers(1))
def test_a_leak_is_refused_however_deep_it_hides(expr, leak, outer):
    leaking = pl.max_horizontal(leak(expr).cast(pl.Float64), outer)
    with pytest.raises(DefinitionError, match="row-wise"):
        check_row_wise(leaking, SCHEMA, "here")
