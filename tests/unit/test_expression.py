"""What is row-wise, what is refused and in which words, and how rows run through steps."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import polars as pl
import pytest

from headwater.definitions.expression import (
    Filter,
    Select,
    WithColumns,
    apply_steps,
    check_row_wise,
    evaluate_rows,
    step_text,
)
from headwater.definitions.expression_tree import DEPTH_MAX
from headwater.definitions.probing import find_leak, identical, random_frame
from headwater.errors import DefinitionError

SCHEMA = {
    "x": pl.Float64(),
    "y": pl.Float64(),
    "f32": pl.Float32(),
    "n": pl.Int64(),
    "m": pl.Int64(),
    "u": pl.UInt8(),
    "late": pl.Boolean(),
    "name": pl.String(),
    "other": pl.String(),
    "at": pl.Datetime("us", "UTC"),
    "local": pl.Datetime("us"),
    "day": pl.Date(),
    "gap": pl.Duration("us"),
    "bytes": pl.Binary(),
    "list": pl.List(pl.Int64()),
    "names": pl.List(pl.String()),
    "pair": pl.Struct({"a": pl.Int64(), "b": pl.String()}),
}
c = pl.col

ROW_WISE = [
    (c("x") > 15, pl.Boolean),
    (c("x") / 3 + c("n") * 2 - c("y") // 7 % 5, pl.Float64),
    (c("n") // 3, pl.Int64),
    (-c("n").abs(), pl.Int64),
    (c("x") ** 2, pl.Float64),
    (c("x").sqrt() + c("x").log() + c("x").log1p() + c("x").exp() + c("x").sin(), pl.Float64),
    (c("x").round(2), pl.Float64),
    (c("x").floor() + c("x").ceil() + c("x").sign(), pl.Float64),
    (c("x").clip(0, 10), pl.Float64),
    (c("x").fill_null(0).fill_nan(1.5), pl.Float64),
    (c("x").is_nan() | c("x").is_finite() & ~c("late"), pl.Boolean),
    (c("x").is_null() ^ c("y").is_not_null(), pl.Boolean),
    (c("n").is_between(1, 5, closed="left"), pl.Boolean),
    (c("n").is_in([1, 2, None]), pl.Boolean),
    (c("name").is_in(["a", "b"]), pl.Boolean),
    (c("n").is_in(c("list")), pl.Boolean),
    (c("n").eq_missing(c("m")), pl.Boolean),
    (c("n").cast(pl.Int8, strict=False), pl.Int8),
    (c("n").cast(pl.Int8), pl.Int8),
    (c("name").cast(pl.Float64, strict=False), pl.Float64),
    (c("n").replace({1: 2, 3: 4}), pl.Int64),
    (c("name").replace_strict({"a": 1}, default=0), pl.Int64),
    (c("name").replace_strict({"a": 1}), pl.Int64),
    (pl.coalesce("x", "y", 0.0), pl.Float64),
    (pl.when(c("x") > 0).then(c("y")).when(c("n") > 0).then(1.0).otherwise(None), pl.Float64),
    (pl.when(c("late")).then(pl.lit("late")), pl.String),
    (pl.max_horizontal("x", "y", "n"), pl.Float64),
    (pl.sum_horizontal("x", "y"), pl.Float64),
    (pl.mean_horizontal("n", "m"), pl.Float64),
    (pl.any_horizontal("late", c("x") > 0), pl.Boolean),
    (c("f32") / 3, pl.Float32),
    (c("u") + 250, pl.UInt8),
    (c("name").str.to_lowercase().str.strip_chars().str.len_chars(), pl.UInt32),
    (c("name").str.contains("^N[0-9]+$") & c("name").str.starts_with("N"), pl.Boolean),
    (c("name").str.replace_all("a", "b").str.slice(0, 2), pl.String),
    (c("name").str.extract(r"(\d+)", 1), pl.String),
    (c("name").str.split(",").list.len(), pl.UInt32),
    (c("name").str.split(",").list.get(0, null_on_oob=True), pl.String),
    (c("name").str.to_datetime("%Y-%m-%d %H:%M:%S", time_zone="UTC"), pl.Datetime("us", "UTC")),
    (c("name").str.to_date("%Y-%m-%d", strict=False), pl.Date),
    (c("name").str.to_integer(strict=False), pl.Int64),
    (c("name").str.json_path_match("$.a"), pl.String),
    (c("name").str.contains_any(["a", "b"]), pl.Boolean),
    (pl.concat_str("name", "other", separator="-"), pl.String),
    (pl.format("{}-{}", "name", "n"), pl.String),
    (c("name") + "!" + c("other"), pl.String),
    (c("at").dt.hour() * 60 + c("at").dt.weekday(), pl.Int8),
    (c("at").dt.convert_time_zone("Europe/Paris").dt.truncate("1h"), None),
    (c("local").dt.replace_time_zone("Europe/Paris"), pl.Datetime("us", "Europe/Paris")),
    (c("at").dt.offset_by("1mo").dt.date(), pl.Date),
    (c("at").dt.epoch("s"), pl.Int64),
    (c("at").dt.strftime("%A"), pl.String),
    ((c("at") - datetime(2024, 1, 1, tzinfo=UTC)).dt.total_hours(), pl.Int64),
    (c("day") > date(2024, 1, 1), pl.Boolean),
    (c("gap") > timedelta(hours=1), pl.Boolean),
    (c("at").dt.time() < time(12), pl.Boolean),
    (c("bytes").bin.size(), pl.UInt32),
    (c("list").list.contains(3), pl.Boolean),
    (c("names").list.join("-"), pl.String),
    (c("pair").struct.field("b"), pl.String),
    (pl.struct(c("x"), z=c("n") + 1).struct.field("z"), pl.Int64),
    (pl.lit(1.5), pl.Float64),
    (c("x").alias("another"), pl.Float64),
]

REFUSED = [
    (c("x").mean(), r"\.mean\(\) is not row-wise: it needs all rows; compute it as a feature"),
    (c("x") / c("x").mean(), "needs all rows"),
    (pl.len(), r"pl\.len\(\)"),
    (c("n") + pl.len(), r"pl\.len\(\) is not row-wise: it counts the rows of a batch"),
    (pl.when(pl.len() > 1).then(c("x")), r"pl\.len"),
    (pl.max("x"), r"\.max\(\)"),
    (c("x").sum().over("name"), r"\.over\(\.\.\.\)"),
    (c("x").over("name"), r"\.over\(\.\.\.\)"),
    (c("x").rolling("at", period="1d"), r"\.rolling\(\.\.\.\)"),
    (c("x").shift(), r"\.shift\(\) is not row-wise: it needs other rows"),
    (c("x").diff(), r"\.diff\(\)"),
    (c("x").pct_change(), r"\.pct_change\(\)"),
    (c("x").cum_sum(), r"\.cum_sum\(\)"),
    (c("x").cum_max(), r"\.cum_max\(\)"),
    (c("x").rolling_mean(3), r"\.rolling_mean\(\)"),
    (c("x").ewm_mean(alpha=0.5), r"\.ewm_mean\(\)"),
    (c("x").rank(), r"\.rank\(\)"),
    (c("x").sort(), r"\.sort\(\)"),
    (c("x").sort_by("n"), r"\.sort_by\(\)"),
    (c("x").arg_sort(), r"\.arg_sort\(\)"),
    (c("x").reverse(), r"\.reverse\(\)"),
    (c("x").unique(), r"\.unique\(\)"),
    (c("x").is_duplicated(), r"\.is_duplicated\(\)"),
    (c("x").is_first_distinct(), r"\.is_first_distinct\(\)"),
    (c("x").value_counts(), r"\.value_counts\(\)"),
    (c("x").head(1), r"\.head\(\)"),
    (c("x").slice(1), r"\.slice\(\)"),
    (c("x").gather([0]), r"\.gather\(\)"),
    (c("x").get(0), r"\.get\(\)"),
    (c("x").filter(c("n") > 0), r"\.filter\(\)"),
    (c("list").explode(), r"\.explode\(\)"),
    (c("list").list.explode(), r"\.explode\(\)"),
    (c("x").implode(), r"\.implode\(\)"),
    (c("x").forward_fill(), "copies from other rows; give fill_null a value"),
    (c("x").fill_null(strategy="backward"), "give fill_null a value"),
    (c("x").fill_null(strategy="mean"), "give fill_null a value"),
    (c("x").interpolate(), r"\.interpolate\(\)"),
    (c("x").rle_id(), r"\.rle_id\(\)"),
    (c("x").hash(), "changes between Polars versions"),
    (c("x").shuffle(), "other values each time"),
    (c("x").sample(1), "other values each time"),
    (c("list").list.sample(1), "other values each time"),
    (c("list").list.eval(pl.element() * 2), r"list\.eval"),
    (pl.element() + 1, r"pl\.element\(\)"),
    (pl.int_range(pl.len()), "needs other rows"),
    (c("n") + pl.lit(pl.Series([1, 2])), "write a list or one value"),
    (c("n").is_in(pl.Series([1, 2])), "write a list or one value"),
    (c("n").is_in(c("m")), "looks in all rows of the column"),
    (c("n").replace(c("m"), c("n")), "would take them from all rows"),
    (c("name").str.join("-"), "use pl.concat_str"),
    (c("name").str.to_datetime(), "without a format"),
    (c("name").str.json_decode(pl.Struct({"a": pl.Int64})), "parses all rows as one text"),
    (c("name").cast(pl.Categorical), "keep the string"),
    (c("name").cast(pl.Enum(["a"])), "keep the string"),
    (c("name").cast(pl.Date), "with a format"),
    (c("x").set_sorted(), "promises something about all rows"),
    (c("x").map_batches(lambda one: one, return_dtype=pl.Float64), "Python"),
    (pl.all(), "name one column"),
    (c("x", "y"), "name one column"),
    (c("^x.*$"), "name one column"),
    (pl.exclude("x"), "name one column"),
    (c("x").name.suffix("_2"), "."),
]


@pytest.mark.parametrize(("expr", "dtype"), ROW_WISE, ids=[str(one)[:60] for one, _ in ROW_WISE])
def test_row_wise_logic_is_accepted_with_its_type(expr, dtype):
    found = check_row_wise(expr, SCHEMA, "here")
    assert dtype is None or found == dtype


@pytest.mark.parametrize(("expr", "reason"), REFUSED, ids=[str(one)[:60] for one, _ in REFUSED])
def test_logic_that_looks_beyond_its_row_is_refused_with_the_way_out(expr, reason):
    with pytest.raises(DefinitionError, match=reason) as error:
        check_row_wise(expr, SCHEMA, 'view "v", filter')
    assert str(error.value).startswith('view "v", filter: ')
    assert "\n" not in str(error.value)


def test_an_unknown_column_is_named_with_the_one_that_was_meant():
    schema = {"dep_delay": pl.Float64(), "ts": pl.Int64()}
    with pytest.raises(DefinitionError) as error:
        check_row_wise(c("dep_dely") > 15, schema, 'view "plane_delays", filter')
    assert str(error.value) == (
        'view "plane_delays", filter: unknown column "dep_dely". Did you mean "dep_delay"?'
        " Columns: dep_delay, ts"
    )


@pytest.mark.parametrize(
    "expr",
    [c("name") > 15, c("name") + 1, c("name").dt.hour(), c("x").str.len_chars(), c("late").abs()],
)
def test_wrong_types_are_refused_on_one_line(expr):
    with pytest.raises(DefinitionError, match=r"^here: .+, in ") as error:
        check_row_wise(expr, SCHEMA, "here")
    assert "\n" not in str(error.value)


def test_a_broken_pattern_is_refused_where_it_is_written():
    with pytest.raises(DefinitionError, match="regex"):
        check_row_wise(c("name").str.contains("("), SCHEMA, "here")


def test_something_else_than_an_expression_is_refused():
    with pytest.raises(DefinitionError, match=r"^here: 'x' is not a Polars expression"):
        check_row_wise("x", SCHEMA, "here")


def test_nesting_has_a_bound():
    expr = c("n")
    for _ in range(DEPTH_MAX + 1):
        expr = expr + 1
    with pytest.raises(DefinitionError, match="nested"):
        check_row_wise(expr, SCHEMA, "here")


def test_the_probe_finds_what_reads_other_rows():
    rng = np.random.default_rng(1)
    frame = random_frame({"x": pl.Float64(), "n": pl.Int64()}, 40, rng, nulls=True)
    none = np.empty(0, np.int64)
    leaks = [
        c("n").shift(),
        c("x").rank(),
        c("n") + pl.len(),
        c("x") == c("x").max(),
        c("x").reverse(),
    ]
    for expr in leaks:
        leak = find_leak(lambda rows, expr=expr: (rows.with_columns(v=expr), none), frame, rng)
        assert leak is not None, str(expr)
    assert find_leak(lambda rows: (rows.with_columns(v=c("n") * 2), none), frame, rng) is None


def test_the_probe_finds_a_row_that_only_raises_in_company():
    rng = np.random.default_rng(1)
    frame = pl.DataFrame({"n": range(40)})

    def evaluate(rows):
        bad = (
            np.flatnonzero(rows["n"].to_numpy() == 39) if rows.height > 1 else np.empty(0, np.int64)
        )
        good = np.setdiff1d(np.arange(rows.height), bad)
        return rows[good], bad

    assert "raises" in find_leak(evaluate, frame[::-1], rng)


def test_random_frames_are_typed_awkward_and_repeatable():
    frames = [
        random_frame(SCHEMA, 200, np.random.default_rng(7), nulls=True, literals=("JFK", 15))
        for _ in range(2)
    ]
    assert identical(*frames)
    frame = frames[0]
    assert frame.schema == pl.Schema(SCHEMA)
    assert all(frame[name].null_count() for name in frame.columns)
    assert {"", "JFK"} <= set(frame["name"])
    assert {15, -(2**63), 2**63 - 1} <= set(frame["n"])
    assert frame["x"].is_nan().any()
    assert frame["x"].is_infinite().any()
    whole = random_frame(SCHEMA, 50, np.random.default_rng(7), nulls=False)
    assert not any(whole[name].null_count() for name in whole.columns)


def test_identical_means_every_bit():
    def one(value, dtype=pl.Float64):
        return pl.DataFrame({"v": [value]}, schema={"v": dtype})

    assert identical(one(float("nan")), one(float("nan")))
    assert not identical(one(0.0), one(-0.0))
    assert not identical(one(None), one(0.0))
    assert not identical(one(1.0), one(1.0, pl.Float32))
    nested = pl.List(pl.Float64)
    assert identical(one([0.0, None], nested), one([0.0, None], nested))
    assert not identical(one([0.0], nested), one([-0.0], nested))
    assert not identical(one([], nested), one(None, nested))
    assert not identical(
        one({"a": 0.0}, pl.Struct({"a": pl.Float64})),
        one({"a": -0.0}, pl.Struct({"a": pl.Float64})),
    )


def test_rows_that_raise_are_left_out_and_counted_and_stop_no_other():
    frame = pl.DataFrame({"name": ["1", "x", "3", None, "y"], "n": [1, 2, 3, 4, 5]})
    values, failed = evaluate_rows(frame, [c("name").cast(pl.Int64).alias("v"), c("n") * 2])
    assert values.to_dict(as_series=False) == {"v": [1, 3, None], "n": [2, 6, 8]}
    assert failed.tolist() == [1, 4]
    assert failed.dtype == np.int64


def test_a_panic_in_polars_is_the_fault_of_its_row():
    frame = pl.DataFrame({"us": [0, 2**63 - 1, 86_400_000_000]})
    logic = c("us").cast(pl.Datetime("us")).dt.offset_by("1mo").dt.day()
    values, failed = evaluate_rows(frame, [logic])
    assert values["us"].to_list() == [1, 2]
    assert failed.tolist() == [1]


def test_all_rows_may_raise():
    values, failed = evaluate_rows(pl.DataFrame({"name": ["x", "y"]}), [c("name").cast(pl.Int64)])
    assert values.schema == {"name": pl.Int64}
    assert values.height == 0
    assert failed.tolist() == [0, 1]


def test_a_fault_that_is_no_rows_is_raised():
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        evaluate_rows(pl.DataFrame({"n": [1, 2]}), [c("nn")])


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_a_literal_has_a_value_for_each_row(rows):
    frame = pl.DataFrame({"n": range(rows)}, schema={"n": pl.Int64})
    for exprs in ([pl.lit(7).alias("v")], [pl.lit(7).alias("v"), c("n")]):
        values, failed = evaluate_rows(frame, exprs)
        assert values["v"].to_list() == [7] * rows
        assert failed.size == 0


def _bits(frame: pl.DataFrame, name: str) -> list[int]:
    return frame[name].to_numpy().view(np.uint64).tolist()


def test_a_lone_row_divides_by_a_literal_to_the_same_bits_as_a_batch():
    # Polars: a / 3 is a * (1 / 3) in a batch, but an exact division for a lone row or chunk.
    numbers = np.random.default_rng(3).normal(size=50) * 100
    frame = pl.DataFrame({"x": numbers})
    steps = [
        WithColumns((("k", pl.lit(7.0)),)),
        WithColumns((("v", c("x") / 3), ("w", c("x") / c("k")))),
    ]
    whole, _, _ = apply_steps(frame, steps)
    alone = pl.concat([apply_steps(frame[row : row + 1], steps)[0] for row in range(50)])
    chunked, _, _ = apply_steps(pl.concat([frame[row : row + 1] for row in range(50)]), steps)
    repeated, _, _ = apply_steps(frame[:1].with_columns(x=pl.lit(numbers[0])), steps)
    for name in ("v", "w"):
        assert _bits(alone, name) == _bits(whole, name)
        assert _bits(chunked, name) == _bits(whole, name)
        assert _bits(repeated, name) == _bits(whole, name)[:1]
    # The trap is still there: otherwise the care in apply_steps could go.
    naive = pl.concat([frame[row : row + 1].select(c("x") / 3) for row in range(50)])
    assert _bits(naive, "x") != _bits(whole, "v")


def test_a_row_that_is_filtered_out_never_reaches_a_step_that_would_raise():
    frame = pl.DataFrame({"n": [1, 2, 3, 4], "name": ["x", "7", "y", "8"]})
    steps = [Filter(c("n") != 1), WithColumns((("v", c("name").cast(pl.Int64)),))]
    kept_frame, kept, failed = apply_steps(frame, steps)
    assert kept_frame["v"].to_list() == [7, 8]
    assert kept.tolist() == [1, 3]
    assert failed.tolist() == [2]


def test_a_null_predicate_keeps_no_row():
    frame = pl.DataFrame({"n": [1, None, 3]})
    kept_frame, kept, failed = apply_steps(frame, [Filter(c("n") > 0), Filter(c("n") < 3)])
    assert kept_frame["n"].to_list() == [1]
    assert kept.tolist() == [0]
    assert failed.size == 0


def test_a_filter_that_leaves_one_row_leaves_one_row():
    frame = pl.DataFrame({"x": [1.0, 2.0, 5.0]})
    steps = [Filter(c("x") > 2), WithColumns((("v", c("x") / 3),)), Filter(c("v") > 0)]
    kept_frame, kept, _ = apply_steps(frame, steps)
    assert kept_frame.height == 1
    assert kept.tolist() == [2]
    assert _bits(kept_frame, "v") == _bits(frame.with_columns(v=c("x") / 3)[2:], "v")


def test_a_filter_may_be_a_literal():
    frame = pl.DataFrame({"n": [1, 2]})
    assert apply_steps(frame, [Filter(pl.lit(value=True))])[1].tolist() == [0, 1]
    assert apply_steps(frame, [Filter(pl.lit(value=False))])[1].tolist() == []


def test_columns_of_a_step_read_the_columns_before_it():
    frame = pl.DataFrame({"a": [1, 2], "b": [10, 20]})
    swapped, _, _ = apply_steps(frame, [WithColumns((("a", c("b")), ("b", c("a"))))])
    assert swapped.to_dict(as_series=False) == {"a": [10, 20], "b": [1, 2]}
    selected, _, _ = apply_steps(frame, [Select((("b", c("a") + c("b")),))])
    assert selected.to_dict(as_series=False) == {"b": [11, 22]}


def test_no_rows_and_no_steps_are_fine():
    frame = pl.DataFrame(schema={"n": pl.Int64})
    kept_frame, kept, failed = apply_steps(
        frame, [Filter(c("n") > 0), WithColumns((("v", c("n") / 2),))]
    )
    assert kept_frame.schema == {"n": pl.Int64, "v": pl.Float64}
    assert kept.size == failed.size == 0
    same, kept, _ = apply_steps(pl.DataFrame({"n": [5]}), [])
    assert same["n"].to_list() == [5]
    assert kept.tolist() == [0]


def test_a_step_has_a_canonical_text():
    assert step_text(Filter(c("n") > 0)) == '(filter (gt (col "n") (lit int 0)))'
    step = WithColumns((("v", c("n").alias("w")), ("é", c("x"))))
    assert step_text(step) == '(with_columns ("v" (col "n")) ("\\u00e9" (col "x")))'
