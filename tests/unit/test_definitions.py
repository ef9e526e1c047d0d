"""Definitions: refused where they are written, with what, where and the cure; plain data else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from definition_examples import BY_USER, COUNTED, HOURLY, ORDERS, SCHEMA, USER, VIEW, stream_of

import headwater as hw
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable


NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001 - that is the mistake


def request(name: str = "amount", dtype: Any = pl.Float64) -> Any:
    return hw.request(name, dtype)


def on_demand(function: Any, *inputs: Any, name: str = "ratio") -> Any:
    def named(row: pl.LazyFrame) -> pl.LazyFrame:
        return function(row)

    named.__name__ = name
    return hw.on_demand(inputs=inputs or (VIEW, request()))(named)


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    # --- Windows ---
    "no window": (
        BY_USER.window,
        'stream "orders", window: names no window',
        'window("1h", "7d")',
    ),
    "an unknown unit": (
        lambda: BY_USER.window("1 fortnight"),
        "window: '1 fortnight' is not a duration",
        '"7d"',
    ),
    "a window of a number": (
        lambda: BY_USER.window(3600),
        "window: 3600 is not a duration",
        '"30m"',
    ),
    "a window of nothing": (
        lambda: hw.window("0h"),
        "window: '0h' must be longer than zero",
        "100 y",
    ),
    "a window of less than nothing": (
        lambda: hw.window(timedelta(seconds=-1)),
        "window: datetime.timedelta",
        "longer than zero",
    ),
    "a window of ages": (lambda: hw.window("9999w"), "window: '9999w'", "at most 100 years"),
    "a hop between the rungs": (
        lambda: BY_USER.window("1h", hop="7m"),
        'window "1h": hop 7m is not one of 1s, 5s',
        "12h, 1d",
    ),
    "a hop longer than the window": (
        lambda: BY_USER.window("30s", hop="1m"),
        'window "30s": shorter than its hop of 1m',
        "widen the window, choose a smaller hop, or",
    ),
    "a window below the finest hop": (
        lambda: BY_USER.window("500ms"),
        'window "500ms": shorter than its hop of 1s',
        "exact=True",
    ),
    "an exact window with a hop": (
        lambda: hw.window("1h", hop="1m", exact=True),
        'window "1h": exact=True has no hop',
        "one of",
    ),
    "a lifetime with a hop": (
        lambda: hw.window("lifetime", hop="1m"),
        'window "lifetime": has no left edge',
        "leave them",
    ),
    # --- Event time, start, skew ---
    "a number without its unit": (
        lambda: stream_of(event_time="at"),
        'stream "orders", event_time: column "at" is Int64',
        'write hw.epoch("at", "ms")',
    ),
    "an epoch of text": (
        lambda: stream_of(event_time=hw.epoch("note")),
        'stream "orders", event_time: epoch("note") needs a number',
        "the column is String",
    ),
    "an unknown unit of time": (
        lambda: hw.epoch("at", "min"),
        "epoch(\"at\"): unit 'min'",
        "s, ms, us, ns",
    ),
    "a time without a zone": (
        lambda: stream_of(schema={"at": pl.Datetime("us")}, event_time="at"),
        'stream "orders", event_time: column "at" is Datetime',
        'pl.Datetime("us", "UTC")',
    ),
    "an event time that is no column": (
        lambda: stream_of(event_time=3),
        'stream "orders", event_time: 3 is neither',
        "hw.epoch(",
    ),
    "a computed event time": (
        lambda: ORDERS.with_columns(at=pl.col("at") + 1),
        'stream "orders", with_columns: "at" is the event time',
        "use another name",
    ),
    "an unknown start": (
        lambda: stream_of(start="yesterday"),
        'stream "orders": start "yesterday"',
        '"latest"',
    ),
    "a naive start": (
        lambda: stream_of(start=NAIVE),
        'stream "orders": start 2024',
        "datetime.UTC",
    ),
    "an unknown format": (
        lambda: stream_of(format="jsn"),
        'stream "orders": format "jsn"',
        'Did you mean "json"?',
    ),
    "an unknown skew": (
        lambda: stream_of(skew="soon"),
        "stream \"orders\", skew: 'soon' is not a duration",
        '"30m"',
    ),
    # --- Keys ---
    "no key": (lambda: hw.entity("u", key=[]), 'entity "u": key [] must name', "one or more"),
    "a key column twice": (
        lambda: hw.entity("u", key=["a", "a"]),
        "entity \"u\": key ['a', 'a']",
        "different columns",
    ),
    "a key that is a number": (lambda: hw.entity("u", key=3), 'entity "u": key 3 must', "columns"),
    "types that don't match the key": (
        lambda: hw.entity("u", key=["a", "b"], dtype=pl.String),
        'entity "u": 2 key columns but 1 types',
        "give one each",
    ),
    "a key type of a word": (
        lambda: hw.entity("u", key="a", dtype="str"),
        "entity \"u\": 'str' is not a Polars",
        "pl.String",
    ),
    "a float for a key": (
        lambda: ORDERS.group_by(hw.entity("u", key="x")),
        'stream "orders", group_by("u"): key column "x" is Float64',
        "keys are text, integers",
    ),
    "a key of another type": (
        lambda: ORDERS.group_by(hw.entity("u", key="shop", dtype=pl.String)),
        'stream "orders", group_by("u"): key column "shop" is Int64',
        "make the two agree",
    ),
    "a key computed": (
        lambda: ORDERS.with_columns(k=pl.col("user") + "x").group_by(hw.entity("k", key="k")),
        'stream "orders", group_by("k"): no column "k" in the stream',
        "with_columns can't define them",
    ),
    "a key redefined": (
        lambda: ORDERS.with_columns(user=pl.col("user").str.to_uppercase()).group_by(USER),
        'stream "orders", group_by("user"): key column "user" is redefined',
        "another name there",
    ),
    "more columns than the key has": (
        lambda: ORDERS.group_by(USER, on=["user", "shop"]),
        'stream "orders", group_by("user"): the entity has 1 key columns',
        "on= names 2",
    ),
    "a column for an entity": (
        lambda: ORDERS.group_by("user"),
        "stream \"orders\", group_by: 'user' is not an entity",
        "hw.entity(",
    ),
    # --- Views and services ---
    "a view without aggregates": (
        lambda: hw.view("v", features=HOURLY),
        'view "v": features= must end in .agg',
        "got Windowed",
    ),
    "no aggregate": (
        HOURLY.agg,
        'stream "orders", agg: names no aggregate',
        "agg(n=hw.count())",
    ),
    "version nought": (
        lambda: hw.view("v", features=COUNTED, version=0),
        'view "v": version 0',
        "from 1 up",
    ),
    "version true": (
        lambda: hw.view("v", features=COUNTED, version=True),
        'view "v": version True',
        "whole number",
    ),
    "an empty service": (lambda: hw.service("s", []), 'service "s": is empty', "at least one view"),
    "a service of something else": (
        lambda: hw.service("s", [COUNTED]),
        'service "s": ',
        "is neither a view nor an on-demand",
    ),
    "an on-demand function of something else": (
        lambda: on_demand(lambda row: row, COUNTED),
        'on-demand "ratio": input',
        "nor hw.request(",
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


def test_features_are_named_by_aggregate_and_window() -> None:
    features = BY_USER.window("1h", "lifetime", hw.window("10m", exact=True, name="recent")).agg(
        n=hw.count(), most=hw.max("when"), x=hw.mean("x")
    )
    found = {feature.name: feature.dtype for feature in features.features}
    assert found == {
        "n_1h": pl.Int64, "n_lifetime": pl.Int64, "n_recent": pl.Int64,
        "most_1h": SCHEMA["when"], "most_lifetime": SCHEMA["when"], "most_recent": SCHEMA["when"],
        "x_1h": pl.Float64, "x_lifetime": pl.Float64, "x_recent": pl.Float64,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("width", "hop"),
    [
        ("10s", "1s"), ("48s", "1s"), ("239s", "1s"), ("240s", "5s"), ("1h", "1m"), ("24h", "30m"),
        ("7d", "3h"), ("47d", "12h"), ("48d", "1d"), ("90d", "1d"), ("36500d", "1d"),
    ],
)  # fmt: skip
def test_the_hop_is_the_largest_rung_of_a_48th(width: str, hop: str) -> None:
    assert hw.window(width) == hw.window(width, hop=hop)


def test_colliding_names_of_a_service_are_qualified() -> None:
    other = hw.view("other", features=HOURLY.agg(n=hw.count(), m=hw.sum("x")))
    names = hw.service("s", [VIEW, other]).column_names()
    assert names == ("spend.n_1h", "other.n_1h", "m_1h")


def test_definitions_are_frozen() -> None:
    for one, field in ((ORDERS, "topic"), (USER, "name"), (VIEW, "version"), (COUNTED, "on")):
        with pytest.raises(FrozenInstanceError):
            setattr(one, field, "x")
    with pytest.raises(TypeError):
        ORDERS.schema["new"] = pl.Int64  # type: ignore[index]


PROGRAM = """
import os, socket, sys, threading
before = set(os.listdir("."))
def refuse(*_): raise AssertionError("a socket")
socket.socket.connect = refuse
import headwater as hw
import polars as pl
threads = threading.active_count()
stream = hw.stream("s", schema={"k": pl.String, "at": pl.Int64}, event_time=hw.epoch("at"))
view = hw.view("v", features=stream.filter(pl.col("k") != "").group_by(hw.entity("e", key="k"))
               .window("1h").agg(n=hw.count()))
service = hw.service("m", [view])
assert threading.active_count() == threads, threading.enumerate()
assert set(os.listdir(".")) == before
for name in ("numba", "bytewax", "rocksdict", "grpc", "confluent_kafka", "pyarrow", "sqlite3"):
    assert name not in sys.modules, name
"""


def test_writing_definitions_starts_nothing_and_loads_no_engine(tmp_path: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    for name in hw.__all__:
        assert getattr(hw, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'windows'"):
        hw.windows  # noqa: B018
