"""Changes in words: what in two versions of a view can make a feature differ."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from registry_harness import orders

import headwater as hw
from headwater.plan.plan import compile_plan
from headwater.registry.changes import causes, view_difference


def plan_of(rows: Any = None, windows: tuple[Any, ...] = ("1h", "7d"), **aggregates: Any) -> Any:
    grouped = (orders() if rows is None else rows).group_by(hw.entity("user", key="user"))
    aggregates = {"n": hw.count(), "total": hw.sum("x"), **aggregates}
    view = hw.view("spend", features=grouped.window(*windows).agg(**aggregates))
    (found,) = compile_plan([view]).views.values()
    return found


FILTERED = orders().filter(pl.col("x") > 0)
HOPPING = (hw.window("1h", hop="30s"), "7d")


@pytest.mark.parametrize(
    ("new", "of_n", "of_total"),
    [
        (plan_of(), (), ()),
        (plan_of(FILTERED), ("other rows: step",), ("other rows: step",)),
        (plan_of(orders(skew="1m")), ("other rows: event time",), ("other rows: event time",)),
        (
            plan_of(windows=HOPPING),
            ("window 1h (hop 1m) -> window 1h (hop 30s)",),
            ("window 1h (hop 1m) -> window 1h (hop 30s)",),
        ),
        (plan_of(total=hw.mean("x")), (), ("sum(x) -> mean(x)",)),
        (plan_of(total=hw.count("x")), (), ("sum(x) -> count(x)", "Float64 -> Int64")),
        (plan_of(one_more=hw.max("x")), (), ()),
    ],
)
def test_a_feature_differs_for_what_its_own_value_depends_on(new, of_n, of_total) -> None:
    old = plan_of()
    assert causes(old, new, "n_1h") == of_n
    assert causes(old, new, "total_1h") == of_total


def test_the_lines_that_differ_name_both_sides() -> None:
    assert view_difference(plan_of(), plan_of(FILTERED)) == (
        '+ step        (filter (gt (col "x") (lit int 0)))',
    )
    assert view_difference(plan_of(FILTERED), plan_of(FILTERED)) == ()
