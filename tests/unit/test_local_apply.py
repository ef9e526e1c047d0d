"""`store.apply`: other definitions take over in an open store, or change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from harness import BASE_US, SECOND_US, moment

import headwater as hw
from headwater.errors import ConfigError, DefinitionError, HeadwaterError, NotFoundError, StateError
from headwater_serving.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headwater.definitions.view import View
    from headwater.local_store import LocalStore

T = moment(BASE_US + 1_000 * SECOND_US)
SCHEMA = {"user": pl.String, "x": pl.Float64, "at": pl.Int64}
user = hw.entity("user", key="user")
clicks = hw.stream("clicks", schema=SCHEMA, event_time=hw.epoch("at", "us"))
others = hw.stream("others", schema=SCHEMA, event_time=hw.epoch("at", "us"))


def view_of(version: int, above: float, stream: Any = clicks) -> View:
    rows = stream.filter(pl.col("x") > above).group_by(user).window("1h")
    return hw.view("sums", version=version, features=rows.agg(n=hw.count(), x=hw.sum("x")))


ONE, TWO = view_of(1, above=-10.0), view_of(2, above=0.0)


def push(store: LocalStore, *values: float) -> None:
    store.push("clicks", [{"user": "a", "x": x, "at": BASE_US} for x in values])


def total(store: LocalStore) -> float:
    return float(store.online("till", user="a", at=T)["x_1h"].item())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with hw.local([hw.service("till", [ONE])], path=tmp_path / "store") as made:
        push(made, 1.0, -2.0, 4.0)
        made.settle()
        yield made


def test_a_version_is_built_from_the_past_and_the_service_moves_to_it(store: LocalStore) -> None:
    till = hw.service("till", [ONE])
    store.apply([till, TWO])
    assert total(store) == 3.0
    push(store, 8.0, -16.0)
    store.settle()
    assert store.online(["sums.x_1h"], user="a", at=T)["sums.x_1h"].to_list() == [13.0]
    store.apply([hw.service("till", [TWO]), ONE])
    assert total(store) == 13.0
    spine = pl.DataFrame({"user": ["a"], "t": [T]})
    assert store.training_set("till", spine, time="t").collect()["x_1h"].to_list() == [13.0]
    store.apply([till])
    assert total(store) == 11.0
    assert list(store.plan.views) == ["sums@1"]


def test_an_open_client_is_answered_from_what_was_applied(store: LocalStore) -> None:
    with connect(store.serve(0).target) as client:
        before = client.online("till", user=["a"], at=T)
        store.apply([hw.service("till", [TWO]), ONE])
        store.settle()
        after = client.online("till", user=["a"], at=T)
    assert (before.to_dict()["x_1h"], after.to_dict()["x_1h"]) == ([3.0], [5.0])
    assert before.revision != after.revision


@pytest.mark.parametrize(
    ("parts", "error", "said"),
    [
        ([], DefinitionError, r"store\.apply: nothing to serve"),
        ([view_of(1, above=0.0)], StateError, 'view "sums" version 1 .* give it version=2'),
        ([view_of(3, 0.0, others)], ConfigError, 'stream "others" is not open in this store'),
    ],
)
def test_what_is_refused_changes_nothing(
    store: LocalStore, parts: list[View], error: type[Exception], said: str
) -> None:
    before = store.plan
    with pytest.raises(error, match=said):
        store.apply(parts)
    assert store.plan is before
    assert total(store) == 3.0


def test_a_view_that_is_left_out_is_gone(store: LocalStore) -> None:
    store.apply(TWO)
    with pytest.raises(NotFoundError, match='no service "till" here'):
        total(store)


def test_a_closed_store_takes_nothing_on(store: LocalStore) -> None:
    store.close()
    with pytest.raises(HeadwaterError, match="the store is closed"):
        store.apply(TWO)
