"""Changes in words: what in two versions of a view can make a feature differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from registry_harness import applied, orders, plan_of, proposed, service, view

import headwater as hw
from headwater.flow.plans_topic import PlansTopic
from headwater.plan.plan import compile_plan
from headwater.registry.changes import causes, view_difference
from headwater.registry.registry import Registry
from headwater_connectors.log.memory import MemoryLog

if TYPE_CHECKING:
    from pathlib import Path


def compiled(rows: Any = None, windows: tuple[Any, ...] = ("1h", "7d"), **aggregates: Any) -> Any:
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
        (compiled(), (), ()),
        (compiled(FILTERED), ("other rows: filter",), ("other rows: filter",)),
        (
            compiled(FILTERED.with_columns(x=pl.col("x") * 2)),
            ("other rows: filter, with_columns",),
            ("other rows: filter, with_columns",),
        ),
        (compiled(orders(skew="1m")), ("other rows: event time",), ("other rows: event time",)),
        (
            compiled(windows=HOPPING),
            ("window 1h (hop 1m) -> window 1h (hop 30s)",),
            ("window 1h (hop 1m) -> window 1h (hop 30s)",),
        ),
        (compiled(total=hw.mean("x")), (), ("sum(x) -> mean(x)",)),
        (compiled(total=hw.count("x")), (), ("sum(x) -> count(x)", "Float64 -> Int64")),
        (compiled(one_more=hw.max("x")), (), ()),
    ],
)
def test_a_feature_differs_for_what_its_own_value_depends_on(new, of_n, of_total) -> None:
    old = compiled()
    assert causes(old, new, "n_1h") == of_n
    assert causes(old, new, "total_1h") == of_total


def test_the_lines_that_differ_name_both_sides() -> None:
    assert view_difference(compiled(), compiled(FILTERED)) == (
        '+ step        (filter (gt (col "x") (lit int 0)))',
    )
    assert view_difference(compiled(FILTERED), compiled(FILTERED)) == ()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(f"sqlite:///{tmp_path}/registry.db")


@pytest.fixture
def topic() -> PlansTopic:
    return PlansTopic(MemoryLog(), "shop")


def test_a_stream_may_gain_a_column_under_a_view_that_does_not_read_it(registry, topic) -> None:
    applied(registry, topic, plan_of(service()))
    wider = orders(columns={"shop": pl.String})
    wanted = plan_of(view(2, stream=wider))
    proposal = proposed(registry, topic, wanted)
    assert not proposal.refused
    (stream,) = (one for one in proposal.changes if one.kind == "stream")
    assert (stream.action, stream.details) == ("changed", ("+ column      shop String",))
    assert "becomes a dead letter" in stream.sentence
    before = registry.read("shop")
    applied(registry, topic, wanted)
    known = registry.read("shop")
    assert known.views["spend@1"] == before.views["spend@1"]
    assert known.services == before.services
    assert topic.plan().streams["orders"] == wider
    # And back again: who reads less of a stream changes nothing for the others.
    assert not proposed(registry, topic, plan_of(service())).refused


def test_a_column_that_no_view_reads_keeps_its_type(registry, topic) -> None:
    applied(registry, topic, plan_of(view(stream=orders(columns={"shop": pl.Int64}))))
    wanted = plan_of(view(2, stream=orders(columns={"shop": pl.String})))
    (refused,) = proposed(registry, topic, wanted).refused
    assert (refused.kind, refused.name) == ("stream", "orders")
    assert refused.details == ("column shop: Int64 -> String",)
