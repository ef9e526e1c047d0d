"""On-demand functions: captured once as a plan, and run row by row from then on."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from headwater.definitions.capture import capture
from headwater.definitions.expression import Select, WithColumns
from headwater.definitions.probing import find_leak, identical, random_frame
from headwater.errors import DefinitionError

SCHEMA = {"delay": pl.Float64(), "mean": pl.Float64(), "n": pl.Int64(), "name": pl.String()}
WHERE = 'on-demand "unusual"'


def captured(function):
    return capture(function, SCHEMA, WHERE)


def refusal(function) -> str:
    with pytest.raises(DefinitionError) as error:
        captured(function)
    text = str(error.value)
    assert text.startswith(WHERE)
    assert "\n" not in text
    return text


def test_a_function_becomes_steps_outputs_and_text():
    calls = []

    def unusual(row: pl.LazyFrame) -> pl.LazyFrame:
        calls.append(row.collect_schema())
        return row.with_columns(vs_day=pl.col("delay") - pl.col("mean"))

    found = captured(unusual)
    assert calls == [SCHEMA]
    assert found.inputs == tuple(SCHEMA)
    assert found.outputs == {"vs_day": pl.Float64()}
    assert [type(step) for step in found.steps] == [WithColumns]
    assert found.canonical == (
        '(with_columns ("vs_day" (sub (col "delay") (col "mean"))))\n(outputs vs_day)'
    )


def test_a_chain_of_calls_runs_like_polars_runs_it():
    def chain(row):
        row = row.with_columns(third=pl.col("delay") / 3, k=pl.lit(2.0)).drop("k")
        row = row.rename({"mean": "average"}).with_columns(
            (pl.col("third") - pl.col("average")).alias("gap"),
            pair=pl.struct("n", d=pl.col("delay")),
        )
        return (
            row.select(
                pl.all().exclude("pair"), pl.col("n") * 2 + 1, d=pl.col("pair").struct.field("d")
            ).drop("n")
            if False
            else row.select("delay", "gap", d=pl.col("pair").struct.field("d"), big=pl.col("n") > 5)
        )

    found = captured(chain)
    frame = random_frame(SCHEMA, 100, np.random.default_rng(5), nulls=True)
    values, failed = found.run(frame)
    expected = chain(frame.lazy()).collect().select("gap", "d", "big")
    assert found.outputs == {"gap": pl.Float64(), "d": pl.Float64(), "big": pl.Boolean()}
    assert identical(values, expected)
    assert failed.size == 0


def test_selectors_that_stand_alone_pass_their_columns_through():
    found = captured(lambda row: row.select(pl.all(), double=pl.col("n") * 2))
    assert found.outputs == {"double": pl.Int64()}
    assert isinstance(found.steps[0], Select)
    assert [name for name, _ in found.steps[0].exprs] == [*SCHEMA, "double"]
    dropped = captured(lambda row: row.with_columns(x=pl.lit(1)).drop("delay", "mean"))
    assert dropped.outputs == {"x": pl.Int32()}


def test_rows_are_independent():
    def function(row):
        return row.with_columns(k=pl.lit(3.0)).with_columns(
            a=pl.col("delay") / 7, b=pl.col("delay") / pl.col("k"), c=pl.col("name").cast(pl.Int64)
        )

    found = captured(function)
    rng = np.random.default_rng(5)
    frame = random_frame(SCHEMA, 60, rng, nulls=True)

    def evaluate(rows):
        values, failed = found.run(rows)
        good = np.setdiff1d(np.arange(rows.height), failed)
        return values[good], failed

    assert find_leak(evaluate, frame, rng) is None


def test_a_row_that_raises_is_null_and_counted_and_stops_no_other():
    found = captured(lambda row: row.with_columns(v=pl.col("name").cast(pl.Int64), w=pl.col("n")))
    frame = pl.DataFrame(
        {"delay": [0.0] * 4, "mean": [0.0] * 4, "n": [1, 2, 3, 4], "name": ["1", "x", None, "4"]}
    )
    values, failed = found.run(frame.with_columns(extra=pl.lit("unread")))
    assert values.to_dict(as_series=False) == {"v": [1, None, None, 4], "w": [1, None, 3, 4]}
    assert values.schema == {"v": pl.Int64, "w": pl.Int64}
    assert failed.tolist() == [1]
    alone, failed = found.run(frame[1:2])
    assert alone.to_dict(as_series=False) == {"v": [None], "w": [None]}
    assert failed.tolist() == [0]
    nothing, failed = found.run(frame[:0])
    assert nothing.shape == (0, 2)
    assert failed.size == 0


def test_a_frame_of_literals_has_a_value_for_each_row():
    found = captured(lambda row: row.select(one=pl.lit(1), two=pl.lit("b")))
    frame = random_frame(SCHEMA, 3, np.random.default_rng(5), nulls=False)
    values, _ = found.run(frame)
    assert values.to_dict(as_series=False) == {"one": [1, 1, 1], "two": ["b", "b", "b"]}


def test_a_refused_operation_is_named_with_its_line():
    def filtered(row):
        row = row.with_columns(x=pl.col("n") + 1)
        return row.filter(pl.col("x") > 0)

    line = filtered.__code__.co_firstlineno + 2
    assert refusal(filtered) == (
        f"{WHERE}: .filter() (test_capture.py, line {line}) is not row-wise; an on-demand "
        "function may only use with_columns, select, rename and drop"
    )


OTHER = pl.LazyFrame({"n": [1, 2], "z": [1, 2]})


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda row: row.sort("n"), ".sort()"),
        (lambda row: row.drop_nulls(), ".drop_nulls()"),
        (lambda row: row.group_by("n").agg(pl.len()), ".group_by()"),
        (lambda row: row.join(OTHER, on="n"), ".join()"),
        (lambda row: pl.concat([row, row]), "pl.concat()"),
        (lambda row: row.limit(1), ".limit()"),
        (lambda row: row.tail(1), ".tail()"),
        (lambda row: row.unique(), ".unique()"),
        (lambda row: row.explode("n"), ".explode()"),
        (lambda row: row.with_row_index(), ".with_row_index()"),
        (lambda row: row.unpivot("n"), ".unpivot()"),
        (lambda row: row.shift(1), ".shift()"),
        (lambda row: row.reverse(), ".reverse()"),
        (lambda row: row.sum(), ".sum()"),
        (lambda row: row.cache(), ".cache()"),
        (lambda row: row.with_columns(x=pl.col("n") / pl.col("n").sum()), '"x": .sum() is not'),
        (lambda row: row.with_columns(x=pl.len()), '"x": pl.len() is not'),
        (lambda row: row.with_columns(x=pl.col("n").is_in(pl.col("n"))), '"x": .is_in(column)'),
        (lambda row: row.fill_null(0), "name one column with pl.col"),
        (lambda row: row.map_batches(lambda rows: rows), "map_batches"),
        (
            lambda row: row.with_columns(
                x=pl.col("n").map_batches(lambda one: one, return_dtype=pl.Int64)
            ),
            "map_batches",
        ),
    ],
)
def test_whatever_needs_other_rows_is_refused_by_name(function, name):
    assert name in refusal(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda row: row.collect(),
        lambda row: row.collect().with_columns(delay=pl.col("delay") * 2).lazy(),
        lambda row: row.collect().with_columns(x=1).lazy(),
        lambda row: row.describe(),
    ],
)
def test_collecting_is_refused_while_it_happens(function):
    text = refusal(function)
    assert "asks for rows" in text
    assert "(test_capture.py, line " in text


@pytest.mark.parametrize(
    "function",
    [
        lambda row: pl.LazyFrame({"n": [1]}).with_columns(x=1),
        lambda row: pl.collect_all([row])[0].with_columns(delay=pl.col("delay") * 2).lazy(),
        lambda row: OTHER,
    ],
)
def test_another_frame_than_the_one_given_is_refused(function):
    assert "another frame" in refusal(function)


def test_something_else_than_a_lazy_frame_is_refused():
    assert "it returns DataFrame, not a lazy frame" in refusal(lambda row: pl.DataFrame({"n": [1]}))
    assert "it returns NoneType, not a lazy frame" in refusal(lambda row: None)
    assert "it returns Expr, not a lazy frame" in refusal(lambda row: pl.col("n"))


def test_a_mistake_in_the_function_is_told_with_its_line():
    def broken(row):
        return row.with_columnz(x=1)

    text = refusal(broken)
    assert (
        f"the function raises (test_capture.py, line {broken.__code__.co_firstlineno + 1})" in text
    )
    assert "the function raises: " in refusal(lambda: None)


def test_an_error_that_is_not_a_mistake_passes_as_it_is():
    def leaving(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        captured(leaving)


def test_an_input_cant_be_replaced():
    cure = "is an input and can't be replaced; give the result a name of its own"
    assert f'column "n" {cure}' in refusal(lambda row: row.with_columns(n=pl.col("n") + 1))
    assert f'column "n" {cure}' in refusal(lambda row: row.cast({"n": pl.Int8}))
    swap = {"delay": "mean", "mean": "delay"}
    assert cure in refusal(lambda row: row.rename(swap))
    assert cure in refusal(lambda row: row.drop("n").with_columns(n=pl.lit(1)))
    kept = captured(lambda row: row.with_columns(pl.col("n"), x=pl.col("n")))
    assert kept.outputs == {"x": pl.Int64()}


def test_a_function_must_add_a_column_and_read_one():
    assert "adds no column" in refusal(lambda row: row)
    assert "adds no column" in refusal(lambda row: row.select("n"))
    with pytest.raises(DefinitionError, match="no inputs"):
        capture(lambda row: row.with_columns(x=pl.lit(1)), {}, WHERE)


def test_an_unknown_column_is_named_with_the_output_that_reads_it():
    text = refusal(lambda row: row.with_columns(x=pl.col("delayy")))
    assert text.startswith(f'{WHERE}, column "x": unknown column "delayy". Did you mean "delay"?')
    gone = refusal(lambda row: row.drop("n").with_columns(x=pl.col("n")))
    assert 'unknown column "n"' in gone


def test_a_name_may_not_be_given_twice_in_a_step():
    text = refusal(lambda row: row.with_columns(pl.col("n").alias("x"), x=pl.col("mean")))
    assert '"x" is defined twice' in text
