"""Columns that a view reads of its stream: no more than decide about its values, and no fewer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

import headwater as hw
from headwater.definitions.expression import Filter
from headwater.plan.plan import compile_plan

SCHEMA = {
    "user": pl.String,
    "x": pl.Float64,
    "y": pl.Float64,
    "z": pl.Int64,
    "at": pl.Datetime("us", "UTC"),
}
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HALF_PAST = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)

stream = hw.stream("orders", schema=SCHEMA, event_time="at")
x, y, z = pl.col("x"), pl.col("y"), pl.col("z")

ROWS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "what is aggregated": (stream, ("x",)),
    "a filter": (stream.filter(y > 0), ("x", "y")),
    "what a column is made of": (stream.with_columns(big=z > 3), ("x", "z")),
    "a column that hides the stream's": (stream.with_columns(x=pl.lit(2.0)), ()),
    "one that is made of what it hides": (stream.with_columns(x=x * 2), ("x",)),
    "one that is made of others": (stream.with_columns(x=y + 1), ("y",)),
    "one that is made of a made one": (
        stream.with_columns(x=y + 1).with_columns(x=x * 2),
        ("y",),
    ),
    "what is read before it is hidden": (
        stream.filter(x > 0).with_columns(x=pl.lit(2.0)),
        ("x",),
    ),
    "what the step that hides it reads": (
        stream.with_columns(x=pl.lit(2.0), other=x),
        ("x",),
    ),
    "an expression that nobody uses": (
        stream.with_columns(y=z.cast(pl.Float64), x=pl.lit(1.0)),
        ("z",),
    ),
    "a filter on a made column": (stream.with_columns(y=z * 1.5).filter(y > 4), ("x", "z")),
}


def view_of(rows: Any) -> Any:
    features = rows.group_by(hw.entity("user", key="user")).window("1h")
    return hw.view("spend", features=features.agg(n=hw.count(), total=hw.sum("x")))


@pytest.mark.parametrize("name", ROWS)
def test_the_columns_read_are_those_that_decide_about_values(name: str) -> None:
    rows, columns = ROWS[name]
    (view,) = compile_plan([view_of(rows)]).views.values()
    assert view.columns == columns


@pytest.mark.parametrize("name", ROWS)
def test_values_are_the_same_online_and_offline_whatever_is_read(name: str) -> None:
    rows, _ = ROWS[name]
    (view,) = compile_plan([view_of(rows)]).views.values()
    events = [
        {"user": "a", "x": 1.0, "y": 1.5, "z": 5, "at": NOON.isoformat()},
        {"user": "a", "x": 4.0, "y": -1.0, "z": 2, "at": NOON.isoformat()},
    ]
    frame = pl.DataFrame(events).with_columns(at=pl.col("at").str.to_datetime(time_zone="UTC"))
    for step in view.steps:
        if isinstance(step, Filter):
            frame = frame.filter(step.expr)
        else:
            frame = frame.with_columns(expr.alias(name) for name, expr in step.exprs)
    with hw.local([hw.service("spending", [view.view])]) as store:
        store.push("orders", events)
        store.settle()
        online = store.online("spending", user=["a"], at=HALF_PAST)
        spine = pl.DataFrame({"user": ["a"], "t": [HALF_PAST]})
        offline = store.training_set("spending", spine, time="t").collect()
    assert online.rows() == [(frame.height, frame["x"].sum())]
    assert offline.select(online.columns).equals(online)


@pytest.mark.parametrize(
    "expr",
    [
        pl.sum_horizontal(pl.all()),
        pl.struct(pl.all()).is_null(),
        pl.sum_horizontal(pl.col(pl.Float64)),
        pl.sum_horizontal(pl.col("^x|y$")),
        pl.nth(1),
        pl.first(),
        pl.exclude("user"),
    ],
)
def test_an_expression_that_would_read_columns_to_come_is_refused(expr: pl.Expr) -> None:
    with pytest.raises(hw.DefinitionError, match="selector is not row-wise"):
        stream.with_columns(all=expr)
