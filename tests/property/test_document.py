"""A plan as a document: whatever can be defined is read back as it was written."""

from __future__ import annotations

import datetime as dt

import polars as pl
import row_logic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headwater as hw
from headwater.definitions.expression import Filter
from headwater.plan.document import read_document, write_document
from headwater.plan.plan import compile_plan

NAMES = st.sampled_from(["a", "b1", "self", "Zz_9"])
TEXTS = st.text(max_size=12)
STARTS = st.sampled_from(
    ["earliest", "latest", dt.datetime(2024, 3, 31, 1, 30, 0, 7, tzinfo=dt.UTC)]
)
FORMATS = st.sampled_from(
    ["json", "avro", hw.avro(registry="http://schemas:8081", aliases={"x": ("old", "older")})]
)
WINDOWS = st.lists(
    st.one_of(
        st.sampled_from(["1h", "7d", "lifetime", "90s"]).map(hw.window),
        st.just(hw.window("1h", exact=True, name="exactly")),
        st.just(hw.window("24h", hop="1h", name="a_day")),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda one: one.name,
)
AGGREGATES = st.dictionaries(
    NAMES,
    st.sampled_from(
        [
            hw.count(), hw.count("name"), hw.sum("x"), hw.mean("n"), hw.min("at"), hw.max("y"),
            hw.var("x", ddof=0), hw.std("x"), hw.first("n"), hw.last("late"),
        ]
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip
KEYS = st.sampled_from(
    [("name", None, None), (["name", "n"], [pl.String, pl.Int64], None), ("id", pl.Int64, "n")]
)


@st.composite
def streams(draw, topic):
    return hw.stream(
        topic,
        schema=row_logic.SCHEMA,
        event_time="at",
        start=draw(STARTS),
        format=draw(FORMATS),
        skew=draw(st.sampled_from(["5m", "10ms", "3d"])),
    )


@st.composite
def views(draw, name, stream, entity, on):
    rows = stream.group_by(entity, on=on).rows
    for step in draw(row_logic.steps):
        if isinstance(step, Filter):
            rows = stream.filter(step.expr) if rows is stream else rows.filter(step.expr)
        else:
            # Named by keyword and by alias: both are how users write them.
            (first, expr), *more = step.exprs
            rows = rows.with_columns(expr.alias(first), **dict(more))
    return hw.view(
        name,
        features=rows.group_by(entity, on=on).window(*draw(WINDOWS)).agg(**draw(AGGREGATES)),
        version=draw(st.integers(1, 10**6)),
        owner=draw(TEXTS),
        description=draw(TEXTS),
        tags=draw(st.lists(TEXTS, max_size=2)),
    )


def on_demand_of(view, steps):
    numeric = next((f.name for f in view.features.features if f.dtype.is_numeric()), None)
    source = "amount" if numeric is None else numeric

    @hw.on_demand(
        inputs=[view, hw.request("amount", pl.Float64), hw.request("l", pl.List(pl.Int8))]
    )
    def derived(row):
        """What it is for."""
        for number, kind in enumerate(steps):
            match kind:
                case "columns":
                    row = row.with_columns(
                        (pl.col(source) / pl.col("amount")).alias(f"r{number}"),
                        **{f"q{number}": pl.col("l").list.len() + number},
                    )
                case "rename":
                    row = row.rename({"r0": f"renamed{number}"}, strict=False)
                case "drop":
                    row = row.drop("q0", strict=False)
                case "select":
                    row = row.select(pl.all(), (pl.col("amount") + 0.1).alias(f"s{number}"))
        return row

    return derived


@st.composite
def definitions(draw):
    made = []
    for topic in draw(st.lists(st.sampled_from(["t1", "t.2"]), min_size=1, unique=True)):
        stream = draw(streams(topic))
        key, dtype, on = draw(KEYS)
        entity = hw.entity(f"e{len(made)}", key=key, dtype=dtype, description=draw(TEXTS))
        names = draw(st.lists(NAMES, min_size=1, max_size=2, unique=True))
        made += [draw(views(f"v_{name}_{len(made)}", stream, entity, on)) for name in names]
    parts = list({(one.name, one.version): one for one in made}.values())
    chosen = draw(st.lists(st.sampled_from(parts), max_size=2, unique_by=lambda one: one.name))
    if chosen:
        steps = draw(st.lists(st.sampled_from(["columns", "select", "rename", "drop"]), max_size=3))
        extra = on_demand_of(chosen[0], ["columns", *steps])
        both = draw(st.permutations([*chosen, extra]))
        parts.append(hw.service("served", both, owner=draw(TEXTS), description=draw(TEXTS)))
    return draw(st.permutations(parts))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=definitions())
def test_whatever_is_defined_is_read_back_as_it_was_written(parts):
    plan = compile_plan(parts)
    content = write_document(plan, "shop")
    found = read_document(content, "shop")
    assert write_document(found, "shop") == content
    assert repr(found) == repr(plan)
    assert found.bindings == plan.bindings
    assert list(found.streams.values()) == list(plan.streams.values())
    for name, view in plan.views.items():
        again = found.views[name]
        assert (again.fingerprint, again.columns, again.key_dtypes, again.layout.inputs) == (
            view.fingerprint, view.columns, view.key_dtypes, view.layout.inputs,
        )  # fmt: skip
        for mine, theirs in zip(view.layout.table, again.layout.table, strict=True):
            assert (mine == theirs).all()
            assert mine.dtype == theirs.dtype
        assert again.view.features.rows.schema == view.view.features.rows.schema
    for name, service in plan.services.items():
        again = found.services[name]
        assert again.revision == service.revision
        assert again.service.columns == service.service.columns
        assert again.service.description == service.service.description
        captured = [(one.name, one.description, one.captured.canonical, one.captured.inputs)
                    for one in service.service.on_demands]  # fmt: skip
        assert captured == [
            (one.name, one.description, one.captured.canonical, one.captured.inputs)
            for one in again.service.on_demands
        ]
