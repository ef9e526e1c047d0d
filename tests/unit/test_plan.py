"""The plan: fingerprints that follow the logic and nothing else, and definitions that agree."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import headwater as hw
from headwater.errors import DefinitionError, NotFoundError
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwater.plan.plan import Plan

SCHEMA = {"user": pl.String, "shop": pl.Int64, "x": pl.Float64, "at": pl.Int64}


def stream_of(**changes: Any) -> Any:
    chosen: dict[str, Any] = {"schema": SCHEMA, "event_time": hw.epoch("at", "ms")} | changes
    return hw.stream(chosen.pop("topic", "orders"), **chosen)


def view_of(**changes: Any) -> Any:
    """Return a view; each part of its logic, and of what is not logic, may be changed."""
    rows = changes.get("stream", stream_of()).filter(changes.get("filter", pl.col("x") > 0))
    rows = rows.with_columns(big=changes.get("big", pl.col("x") > 100))
    entity = changes.get("entity", hw.entity("user", key="user"))
    windows = changes.get("windows", ("1h", "7d"))
    aggregates = changes.get(
        "aggregates", {"n": hw.count(), "mean": hw.mean("x"), "b": hw.sum("big")}
    )
    features = rows.group_by(entity, on=changes.get("on")).window(*windows).agg(**aggregates)
    more = {
        key: changes[key] for key in ("version", "owner", "description", "tags") if key in changes
    }
    return hw.view(changes.get("name", "spend"), features=features, **more)


def fingerprint_of(view: Any) -> str:
    (plan,) = compile_plan([view]).views.values()
    return plan.fingerprint


# Pinned fingerprints below are kept by state folders: they may only change with its format.
LOGIC: dict[str, dict[str, Any]] = {
    "filter": {"filter": pl.col("x") >= 0},
    "literal": {"filter": pl.col("x") > 1},
    "expression": {"big": pl.col("x") > 101},
    "window": {"windows": ("1h", "8d")},
    "one window more": {"windows": ("1h", "7d", "lifetime")},
    "order of windows": {"windows": ("7d", "1h")},
    "hop": {"windows": (hw.window("1h", hop="30s"), "7d")},
    "exact": {"windows": (hw.window("1h", exact=True), "7d")},
    "name of a window": {"windows": (hw.window("1h", name="hour"), "7d")},
    "aggregate": {"aggregates": {"n": hw.count(), "mean": hw.sum("x"), "b": hw.sum("big")}},
    "column": {"aggregates": {"n": hw.count("x"), "mean": hw.mean("x"), "b": hw.sum("big")}},
    "name of a feature": {
        "aggregates": {"m": hw.count(), "mean": hw.mean("x"), "b": hw.sum("big")}
    },
    "ddof": {"aggregates": {"n": hw.count(), "mean": hw.var("x", ddof=0), "b": hw.sum("big")}},
    "entity": {"entity": hw.entity("customer", key="user")},
    "key": {"entity": hw.entity("user", key="shop")},
    "topic": {"stream": stream_of(topic="orders2")},
    "unit of time": {"stream": stream_of(event_time=hw.epoch("at", "s"))},
    "type of a column": {"stream": stream_of(schema={**SCHEMA, "x": pl.Float32})},
    "type of a key": {"stream": stream_of(schema={**SCHEMA, "user": pl.Int64})},
    "type of the event time": {"stream": stream_of(schema={**SCHEMA, "at": pl.Float64})},
    "skew": {"stream": stream_of(skew="1m")},
}
NOT_LOGIC: dict[str, dict[str, Any]] = {
    "name": {"name": "other"},
    "version": {"version": 7},
    "owner": {"owner": "ops@example.com"},
    "description": {"description": "what they spend"},
    "tags": {"tags": ["money"]},
    "description of the entity": {"entity": hw.entity("user", key="user", description="who pays")},
    "type said twice": {"entity": hw.entity("user", key="user", dtype=pl.String)},
    "alias inside": {"big": (pl.col("x") > 100).alias("other")},
    "window written otherwise": {"windows": (hw.window("60m", name="1h"), "7d")},
    "start": {"stream": stream_of(start="latest")},
    "one column more": {"stream": stream_of(schema={**SCHEMA, "z": pl.Int64})},
    "a column that nobody reads gone": {
        "stream": stream_of(schema={n: t for n, t in SCHEMA.items() if n != "shop"})
    },
    "type of a column that nobody reads": {"stream": stream_of(schema={**SCHEMA, "shop": pl.Date})},
    "order of columns": {"stream": stream_of(schema=dict(reversed(SCHEMA.items())))},
    "a column of the name of one that the view makes": {
        "stream": stream_of(schema={**SCHEMA, "big": pl.String})
    },
}


@pytest.mark.parametrize("name", LOGIC)
def test_a_fingerprint_changes_with_the_logic(name: str) -> None:
    assert fingerprint_of(view_of(**LOGIC[name])) != fingerprint_of(view_of())


def test_every_change_of_logic_has_a_fingerprint_of_its_own() -> None:
    found = {fingerprint_of(view_of(**changes)) for changes in LOGIC.values()}
    assert len(found) == len(LOGIC)


@pytest.mark.parametrize("name", NOT_LOGIC)
def test_a_fingerprint_stays_when_only_what_people_read_changes(name: str) -> None:
    assert fingerprint_of(view_of(**NOT_LOGIC[name])) == fingerprint_of(view_of())


def test_fingerprints_are_pinned() -> None:
    found = {
        "base": fingerprint_of(view_of()),
        "windows": fingerprint_of(
            view_of(windows=("10s", "lifetime", hw.window("1m", exact=True)))
        ),
        "on": fingerprint_of(view_of(entity=hw.entity("user", key="id"), on="shop")),
    }
    assert found == {
        "base": "42a87f9bd6f18aa5",
        "windows": "8a32b4dcf624daeb",
        "on": "234a8f2b7ab31aa4",
    }


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from test_plan import fingerprint_of, services_of, view_of
from headwater.plan.plan import compile_plan
plan = compile_plan([services_of()])
sys.stdout.write(fingerprint_of(view_of()) + " " + plan.services["spending"].revision)
"""


def services_of(**changes: Any) -> Any:
    view = changes.get("view", view_of())
    factor = changes.get("factor", 2.0)

    @hw.on_demand(inputs=[view, hw.request("amount", pl.Float64)])
    def ratio(row: pl.LazyFrame) -> pl.LazyFrame:
        return row.with_columns(ratio=pl.col("amount") * factor / pl.col("mean_1h"))

    more = {key: changes[key] for key in ("owner", "description") if key in changes}
    return hw.service(changes.get("name", "spending"), [view, ratio], **more)


def revision_of(service: Any) -> str:
    (plan,) = compile_plan([service]).services.values()
    return plan.revision


@pytest.mark.parametrize("seed", ["0", "1"])
def test_fingerprints_and_revisions_are_the_same_in_every_process(seed: str) -> None:
    here = f"{fingerprint_of(view_of())} {revision_of(services_of())}"
    folder = os.path.dirname(__file__)  # noqa: PTH120 - as the program wants it
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == here


def test_a_revision_changes_with_anything_a_service_answers() -> None:
    base = revision_of(services_of())
    assert revision_of(services_of(owner="me", description="text")) == base
    assert revision_of(services_of(factor=3.0)) != base
    assert revision_of(services_of(view=view_of(filter=pl.col("x") > 1))) != base
    assert revision_of(services_of(view=view_of(version=2))) != base
    # The state is the same; what a request must name isn't.
    renamed = view_of(entity=hw.entity("user", key="id"), on="user")
    assert fingerprint_of(renamed) == fingerprint_of(view_of())
    assert revision_of(services_of(view=renamed)) != base
    assert revision_of(hw.service("spending", [view_of()])) != base


def test_a_plan_has_one_binding_for_each_stream_and_entity() -> None:
    shop = hw.entity("shop", key="shop")
    views = [
        view_of(),
        view_of(name="second", windows=("3h",)),
        view_of(name="third", entity=shop),
        view_of(name="fourth", entity=hw.entity("client", key="id"), on="user"),
    ]
    plan = compile_plan([hw.service("s", views[:2]), *views[2:]])
    assert [binding.id for binding in plan.bindings] == [
        "orders/user/user", "orders/shop/shop", "orders/client/user",
    ]  # fmt: skip
    assert [view.id for view in plan.views_of(plan.bindings[0])] == ["spend@1", "second@1"]
    assert plan.bindings_of("orders") == plan.bindings
    assert plan.bindings_of("other") == ()
    assert list(plan.streams) == ["orders"]


def test_a_plan_cannot_be_changed() -> None:
    plan = compile_plan([services_of()])
    with pytest.raises(FrozenInstanceError):
        plan.bindings = ()  # type: ignore[misc]
    for mapping in (plan.streams, plan.views, plan.services):
        with pytest.raises(TypeError):
            mapping["x"] = None  # type: ignore[index]
    (view,) = plan.views.values()
    with pytest.raises(FrozenInstanceError):
        view.fingerprint = ""  # type: ignore[misc]


def test_versions_of_a_view_live_beside_each_other() -> None:
    plan = compile_plan([view_of(), view_of(version=2, filter=pl.col("x") > 5)])
    assert list(plan.views) == ["spend@1", "spend@2"]


def test_an_unknown_service_is_named_with_the_closest() -> None:
    plan = compile_plan([services_of()])
    with pytest.raises(NotFoundError, match=r'no service "spendin" here .*Did you mean "spending"'):
        plan.service("spendin")


def many_columns() -> Any:
    names = [f"c{n}" for n in range(65)]
    stream = stream_of(schema={"user": pl.String, "at": pl.Int64, **dict.fromkeys(names, pl.Int64)})
    grouped = stream.group_by(hw.entity("user", key="user")).window("1h")
    return hw.view("wide", features=grouped.agg(**{name: hw.sum(name) for name in names}))


CONTRADICTIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "a service twice": (
        lambda: [services_of(), services_of()],
        'service "spending" is defined twice; rename one',
    ),
    "a view in two ways": (
        lambda: [view_of(), view_of(filter=pl.col("x") > 3)],
        'view "spend" version 1 is defined in two ways; give one version=2',
    ),
    "a stream in two ways": (
        lambda: [view_of(), view_of(name="other", stream=stream_of(skew="1m"))],
        'stream "orders" is defined in two ways; define it once',
    ),
    "an entity with two keys": (
        lambda: [view_of(), view_of(name="other", entity=hw.entity("user", key="shop"))],
        'entity "user" is defined with keys',
    ),
    "an entity with two types": (
        lambda: [view_of(), view_of(name="o", entity=hw.entity("user", key="user"), on="shop")],
        'entity "user": views "spend" and "o" give its key different types',
    ),
    "neither": (lambda: ["spending"], "'spending' is neither a service nor a view"),
    "too many columns": (
        lambda: [many_columns()],
        'view "wide": aggregates 65 columns, at most 64 fit one view; split it in two',
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_definitions_that_contradict_each_other_are_refused(name: str) -> None:
    parts, wanted = CONTRADICTIONS[name]
    with pytest.raises(DefinitionError) as caught:
        compile_plan(parts())
    assert str(caught.value).startswith(wanted)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_same_view_through_two_services_is_one() -> None:
    view = view_of()
    again = replace(view, owner="someone else")
    plan: Plan = compile_plan([hw.service("a", [view]), hw.service("b", [again])])
    assert list(plan.views) == ["spend@1"]
