"""Refused definitions: columns, types, rows and names; each with what, where and the cure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from definition_examples import BY_USER, COUNTED, HOURLY, ORDERS, SCHEMA, VIEW, stream_of

import headwater as hw
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable


def request(name: str = "amount", dtype: Any = pl.Float64) -> Any:
    return hw.request(name, dtype)


def on_demand(function: Any, *inputs: Any, name: str = "ratio") -> Any:
    def named(row: pl.LazyFrame) -> pl.LazyFrame:
        return function(row)

    named.__name__ = name
    return hw.on_demand(inputs=inputs or (VIEW, request()))(named)


# What is written, and what the refusal must say: where it begins and the words of the cure.
REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    # --- Columns ---
    "filter on an unknown column": (
        lambda: ORDERS.filter(pl.col("sho") > 1),
        'stream "orders", filter: unknown column "sho".',
        'Did you mean "shop"? Columns: user, shop',
    ),
    "with_columns from an unknown column": (
        lambda: ORDERS.with_columns(y=pl.col("amount") + 1),
        'stream "orders", with_columns "y": unknown column "amount".',
        "Columns: user",
    ),
    "aggregate of an unknown column": (
        lambda: HOURLY.agg(n=hw.sum("notes")),
        'stream "orders", agg: n=sum(notes): no column "notes".',
        'Did you mean "note"?',
    ),
    "event time in an unknown column": (
        lambda: stream_of(event_time="att"),
        'stream "orders", event_time: no column "att" in the schema.',
        'Did you mean "at"?',
    ),
    "key in an unknown column": (
        lambda: ORDERS.group_by(hw.entity("u", key="usr")),
        'stream "orders", group_by("u"): no column "usr"',
        'Did you mean "user"? Write on=',
    ),
    "a column of the engine's own": (
        lambda: stream_of(schema={**SCHEMA, "__offset": pl.Int64}),
        'stream "orders": column "__offset"',
        "rename it",
    ),
    "a computed column of the engine's own": (
        lambda: ORDERS.with_columns(__ts=pl.col("x")),
        'stream "orders", with_columns: column "__ts"',
        "rename it",
    ),
    # --- Types ---
    "filter that isn't true or false": (
        lambda: ORDERS.filter(pl.col("x")),
        'stream "orders", filter: the predicate is Float64',
        "compare it with something",
    ),
    "filter that is no expression": (
        lambda: ORDERS.filter("x"),
        "stream \"orders\", filter: 'x' is not a Polars",
        "such as pl.col",
    ),
    "comparison of text with a number": (
        lambda: ORDERS.filter(pl.col("note") > 3),
        'stream "orders", filter: cannot compare',
        "note",
    ),
    "sum of text": (
        lambda: HOURLY.agg(n=hw.sum("note")),
        'sum(note): column "note" is String',
        "needs a numeric or Boolean column",
    ),
    "mean of a time": (
        lambda: HOURLY.agg(n=hw.mean("when")),
        'mean(when): column "when" is Datetime',
        "needs a num",
    ),
    "largest text": (
        lambda: HOURLY.agg(n=hw.max("note")),
        'max(note): column "note" is String',
        "date or datetime",
    ),
    "ddof": (
        lambda: hw.std("x", ddof=2),
        "std(x): ddof is 2",
        "1 for the sample and 0 for the population",
    ),
    "an aggregate that isn't one": (
        lambda: HOURLY.agg(n=3),
        'stream "orders", agg: n=3 is not an aggregate',
        'hw.mean("column")',
    ),
    "an aggregate not called": (
        lambda: HOURLY.agg(n=hw.count),
        'stream "orders", agg: n=hw.count is not',
        "is not an aggregate",
    ),
    "a schema of words": (
        lambda: stream_of(schema={"a": "int"}),
        'stream "orders", column "a": \'int\'',
        "pl.Float64",
    ),
    "a nested column": (
        lambda: stream_of(schema={"a": pl.List(pl.Int64)}),
        'stream "orders", column "a"',
        "flatten",
    ),
    "a column of times of day": (
        lambda: stream_of(schema={"a": pl.Time}),
        'stream "orders", column "a"',
        "leave it out",
    ),
    "no columns": (
        lambda: stream_of(schema={}),
        'stream "orders": the schema is empty',
        "name the columns",
    ),
    "a request input of a word": (
        lambda: hw.request("a", "float"),
        "request input \"a\": 'float'",
        "pl.Float64",
    ),
    # --- Rows are independent ---
    "comparison with the mean of all": (
        lambda: ORDERS.filter(pl.col("x") > pl.col("x").mean()),
        'stream "orders", filter: .mean() is not row-wise',
        "as a feature with .agg",
    ),
    "number of rows": (
        lambda: ORDERS.with_columns(r=pl.when(pl.len() > 1).then(1).otherwise(2)),
        'stream "orders", with_columns "r": pl.len() is not row-wise',
        ".agg(",
    ),
    "the row before": (
        lambda: ORDERS.with_columns(r=pl.col("x").shift()),
        'stream "orders", with_columns "r": .shift() is not row-wise',
        ".agg(",
    ),
    "Python in an expression": (
        lambda: ORDERS.with_columns(r=pl.col("x").map_elements(lambda v: v, pl.Float64)),
        'stream "orders", with_columns "r": map_elements',
        "Polars expressions",
    ),
    "the batch in an on-demand function": (
        lambda: on_demand(
            lambda row: row.with_columns(r=pl.col("amount") / pl.col("amount").mean())
        ),
        'on-demand "ratio", column "r": .mean() is not row-wise',
        ".agg(",
    ),
    "another kind of step in an on-demand function": (
        lambda: on_demand(lambda row: row.filter(pl.col("amount") > 1)),
        'on-demand "ratio"',
        "filter",
    ),
    "rows in an on-demand function": (
        lambda: on_demand(lambda row: row.collect().lazy()),
        'on-demand "ratio": .collect()',
        "stay lazy",
    ),
    "an on-demand function that adds nothing": (
        lambda: on_demand(lambda row: row),
        'on-demand "ratio": it adds no column',
        "with_columns(name",
    ),
    # --- Names ---
    "a column twice": (
        lambda: ORDERS.with_columns(pl.col("x").alias("y"), y=pl.col("x")),
        'stream "orders", with_columns: "y" is defined twice',
        "different names",
    ),
    "one expression for two columns": (
        lambda: ORDERS.with_columns(pl.col("x", "shop") + 1),
        'stream "orders", with_columns:',
        "one column each",
    ),
    "a feature twice": (
        lambda: BY_USER.window("1h", hw.window("2h", name="a_1h")).agg(
            n=hw.count(), n_a=hw.count()
        ),
        'stream "orders", agg: feature n_a_1h is defined twice',
        "rename an aggregate or a window",
    ),
    "a window twice": (
        lambda: BY_USER.window("1h", "1h"),
        'stream "orders", window: window "1h" is given twice',
        "give one of them a name=",
    ),
    "an input twice": (
        lambda: on_demand(lambda row: row, VIEW, request("n_1h")),
        'on-demand "ratio": input "n_1h" comes twice',
        "rename it",
    ),
    "a part twice": (
        lambda: hw.service("s", [VIEW, VIEW]),
        'service "s": "spend" is listed twice',
        "leave one out",
    ),
    "two versions in one service": (
        lambda: hw.service(
            "s",
            [
                hw.view("spend", features=COUNTED, version=2),
                on_demand(lambda row: row.with_columns(r=pl.col("amount"))),
            ],
        ),
        'service "s": view "spend" is used in versions 2 and 1',
        "pin one of them",
    ),
    "a name with a space": (
        lambda: hw.view("my view", features=COUNTED),
        "view name 'my view' can't be used",
        "letters",
    ),
    "a feature's name with a space": (
        lambda: HOURLY.agg(**{"a b": hw.count()}),
        'stream "orders", agg: feature name',
        "letters",
    ),
    "a window's name with a space": (
        lambda: BY_USER.window(hw.window("1h", name="an hour")).agg(n=hw.count()),
        "stream \"orders\", agg: feature name 'n_an hour'",
        "letters",
    ),
    "an entity's name with a dash": (
        lambda: hw.entity("u-v", key="a"),
        "entity name 'u-v' can't be used",
        "digits and '_'",
    ),
    "a topic with a space": (
        lambda: stream_of(topic="no topic"),
        "stream name 'no topic' can't be used",
        "letters",
    ),
    "an on-demand function without a name": (
        lambda: hw.on_demand(inputs=[VIEW])(lambda row: row),
        "on-demand name '<lambda>'",
        "letters",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_definition_that_can_mean_nothing_is_refused(name: str) -> None:
    make, begins, cure = REFUSED[name]
    with pytest.raises(DefinitionError) as caught:
        make()
    text = str(caught.value)
    assert text.startswith(begins)
    assert cure in text
    assert "\n" not in text
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 2
