"""Rows are independent: any logic from the allow-list, on any rows, in any batching."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import row_logic
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.definitions.expression import apply_steps, check_row_wise, evaluate_rows
from headwater.definitions.probing import identical, random_frame
from headwater.errors import DefinitionError
from headwater.plan.canonical import canonical, deserialize_steps, serialize_steps


@settings(max_examples=60, deadline=None)
@given(
    steps=row_logic.steps,
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 40),
    nulls=st.booleans(),
    data=st.data(),
)
def test_any_batching_gives_the_same_rows_to_the_last_bit(steps, seed, rows, nulls, data):
    frame = random_frame(
        row_logic.SCHEMA, rows, np.random.default_rng(seed), nulls=nulls, literals=(3, "7")
    )
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
@given(
    expr=st.one_of(row_logic.numbers(3), row_logic.conditions(3)), seed=st.integers(0, 2**32 - 1)
)
def test_logic_from_the_allow_list_passes_the_check_with_the_type_it_has(expr, seed):
    dtype = check_row_wise(expr.alias("v"), row_logic.SCHEMA, "here", seed=seed)
    frame = random_frame(row_logic.SCHEMA, 20, np.random.default_rng(seed), nulls=True)
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
@given(expr=row_logic.numbers(2), leak=st.sampled_from(_LEAKS), outer=row_logic.numbers(1))
def test_a_leak_is_refused_however_deep_it_hides(expr, leak, outer):
    leaking = pl.max_horizontal(leak(expr).cast(pl.Float64), outer)
    with pytest.raises(DefinitionError, match="row-wise"):
        check_row_wise(leaking, row_logic.SCHEMA, "here")
