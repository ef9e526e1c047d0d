"""What the simulation runs: a handful of plans, their events, and their row logic in Python."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import polars as pl

import headwater as hw
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from headwater.plan.plan import Plan

__all__ = [
    "BASE_US", "HOUR_US", "KEYS", "MINUTE_US", "SECOND_US", "SERVICE", "Made", "Pushed",
    "keys_frame", "make_event", "plans", "view_values",
]  # fmt: skip

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
BASE_US = 1_700_000_000 * SECOND_US
SERVICE = "model"
SKEW_US = 5 * MINUTE_US

USERS = ("a", "b", "ab", "")
PAGES = (0, 1)
KEYS = [{"user": u, "page": p} for u in (*USERS, "never") for p in PAGES]

_SCHEMA = {"user": pl.String, "page": pl.Int64, "x": pl.Float64, "i": pl.Int64, "at": pl.Int64}


@dataclass(frozen=True, slots=True)
class Made:
    """A record to be pushed; `row` is None for what can't be a row."""

    value: bytes
    row: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Pushed:
    """An event as it went into its topic."""

    topic: str
    partition: int
    offset: int
    elapsed_us: int  # what had passed since the world began
    row: dict[str, Any]


def _stream(topic: str, columns: Sequence[str] = tuple(_SCHEMA)) -> Any:
    schema = {name: _SCHEMA[name] for name in columns}
    return hw.stream(topic, schema=schema, event_time=hw.epoch("at", "us"))


def _by_user(clicks: Any) -> Any:
    return hw.view(
        "by_user",
        features=clicks.group_by(hw.entity("user", key="user"))
        .window("10s", "1h", "lifetime")
        .agg(n=hw.count(), total=hw.sum("x"), last=hw.last("i")),
    )


@cache
def plans() -> Mapping[str, tuple[Plan, ...]]:
    """Return the plans, by name: each what a worker starts with, and what it may become."""
    clicks, orders = _stream("clicks"), _stream("orders")
    user = hw.entity("user", key="user")
    page = hw.entity("page", key="page")
    pair = hw.entity("pair", key=["user", "page"])
    by_user = _by_user(clicks)
    by_page = hw.view(
        "by_page",
        features=clicks.filter(pl.col("i") != 3)
        .with_columns(half=pl.col("x") / 2)
        .group_by(page)
        .window(hw.window("5m", exact=True, name="exact"), "3h")
        .agg(hits=hw.count("x"), half=hw.mean("half"), top=hw.max("i")),
    )
    by_pair = hw.view(
        "by_pair",
        features=clicks.group_by(pair).window("10m").agg(first=hw.first("x"), spread=hw.var("x")),
    )
    ordered = hw.view(
        "ordered",
        features=orders.filter(pl.col("x") > 0)
        .group_by(user)
        .window("1m", "1d")
        .agg(orders=hw.count(), paid=hw.sum("x"), low=hw.min("i")),
    )

    by_user_too = hw.view(
        "by_user_too",
        features=clicks.group_by(user).window("30s", "2h").agg(m=hw.max("x"), k=hw.count("i")),
    )

    def plan(*views: Any) -> Plan:
        return compile_plan([hw.service(SERVICE, list(views))])

    return {
        "growing columns": (
            plan(_by_user(_stream("clicks", ("user", "i", "x", "at")))),
            # In another order: decoded as the other, an i would be an x.
            plan(_by_user(_stream("clicks", ("user", "x", "i", "at")))),
            plan(by_user, by_page),
        ),
        "exact": (plan(by_page),),
        "two views": (plan(by_user, by_page),),
        "two streams": (plan(by_user, ordered),),
        "growing": (plan(by_user), plan(by_user, by_page), plan(by_user, by_page, by_pair)),
        "growing lanes": (plan(by_user), plan(by_user, by_user_too)),
        "growing streams": (plan(by_user, by_pair), plan(by_user, by_pair, ordered)),
        "changing": (
            plan(by_user),
            plan(by_user, by_page),
            plan(by_page),
            plan(by_user, by_user_too),
            plan(by_user, by_page, by_pair),
        ),
        "changing lanes": (plan(by_user), plan(by_user, by_page)),
        "changing streams": (
            plan(by_user),
            plan(by_user, ordered),
            plan(ordered),
            plan(by_pair, ordered),
        ),
    }


def view_values(view: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a view makes of a row; None if it leaves it out."""
    x, i = row["x"], row["i"]
    match view:
        case "by_page":
            return None if i is None or i == 3 else {"x": x, "i": i, "half": x and x / 2}
        case "ordered":
            return None if x is None or x <= 0 else {"x": x, "i": i}
        case _:
            return {"x": x, "i": i}


def make_event(rng: random.Random, now_us: int) -> Made:
    """Return an event with ties, late times and nulls; one in twenty is no row at all."""
    kind = rng.random()
    if kind < 0.45:
        at = now_us - rng.randrange(5 * SECOND_US)
    elif kind < 0.7:
        at = now_us // (10 * SECOND_US) * 10 * SECOND_US  # ties, at the edge of a tile
    elif kind < 0.95:
        at = now_us - rng.choice((MINUTE_US, 20 * MINUTE_US, HOUR_US, 30 * HOUR_US))
    else:
        at = now_us + rng.choice((MINUTE_US, 2 * HOUR_US))
    row = {
        "user": rng.choice((*USERS, *USERS, None)),
        "page": rng.choice((*PAGES, *PAGES, None)),
        "x": rng.choice((None, 0.1, 1 / 3, -2.5, 1e300, 2.0**70, rng.uniform(-9, 9))),
        "i": rng.choice((None, 3, -1, 2, 2**62, rng.randrange(10))),
        "at": at,
    }
    if rng.random() < 0.05:
        return Made(rng.choice((b"{", b'{"at": "soon"}', b"")), None)
    return Made(json.dumps(row).encode(), None if at > now_us + SKEW_US else row)


def keys_frame() -> pl.DataFrame:
    """Return one row for each key that is read."""
    return pl.DataFrame(KEYS, schema={"user": pl.String, "page": pl.Int64})
