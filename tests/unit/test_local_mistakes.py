"""What a user does wrong with a local store: one line with what, where and the cure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from harness import BASE_US, SECOND_US, click, clicks, moment

import headwater as hw
from headwater.errors import HeadwaterError, NotFoundError
from headwater.flow.answer import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headwater.local_store import LocalStore

T = moment(BASE_US + 4_000 * SECOND_US)
HOUR = timedelta(hours=1)
NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001 - that is the mistake


def opened(parts: Any = None, **more: Any) -> LocalStore:
    return hw.local(parts or [clicks()], clock=lambda: BASE_US + 5_000 * SECOND_US, **more)


@pytest.fixture
def store() -> Iterator[LocalStore]:
    with opened() as made:
        made.push("clicks", [click(3_990, x=2.0), click(1_000, x=3.0), click(3_995, user="b")])
        made.settle()
        yield made


@pytest.fixture
def spine() -> pl.DataFrame:
    return pl.DataFrame({"user": ["a", "b", "a"], "page": [1, 1, 9], "t": [T, T, T - HOUR]})


def ask(store: LocalStore, user: str | None = "a", page: int | None = 1) -> dict[str, Any]:
    return store.online("clicks_of", user=[user], page=[page], at=T).row(0, named=True)


# What a user does wrong, the error, and what it must say.
MISTAKES: dict[str, tuple[Callable[[LocalStore, pl.DataFrame], Any], type, str]] = {
    "unknown stream": (
        lambda store, _: store.push("click", [click(0)]),
        NotFoundError,
        r'no stream "click" in this store \(known: clicks\)\. Did you mean "clicks"\?',
    ),
    "unknown service": (
        lambda store, _: store.online("click_of", user="a", page=1),
        NotFoundError,
        r'no service "click_of" here \(known: clicks_of\)\. Did you mean "clicks_of"\?',
    ),
    "unknown service of a training set": (
        lambda store, spine: store.training_set("click_of", spine, time="t"),
        NotFoundError,
        'Did you mean "clicks_of"',
    ),
    "unknown entity": (
        lambda store, _: store.online("clicks_of", usr="a", page=1),
        RequestError,
        'service "clicks_of" has no input "usr". Did you mean "user"?',
    ),
    "unknown feature": (
        lambda store, _: store.worker.reader.describe_features(["n_2h"]),
        NotFoundError,
        'no feature "n_2h" here. Did you mean "n_1h"?',
    ),
    "unknown feature of a view": (
        lambda store, _: store.worker.reader.describe_features(["by_user.n_2h"]),
        NotFoundError,
        'Did you mean "by_user.n_1h"?',
    ),
    "missing entity": (
        lambda store, _: store.online("clicks_of", user="a"),
        RequestError,
        'needs input "page"',
    ),
    "wrong type": (
        lambda store, _: store.online("clicks_of", user=[1], page=[1]),
        RequestError,
        r'input "user" takes String; row 0 holds 1 \(int\)',
    ),
    "lengths": (
        lambda store, _: store.online("clicks_of", user=["a", "b"], page=[1]),
        RequestError,
        "user 2, page 1; make them equally long",
    ),
    "naive time": (
        lambda store, _: store.online("clicks_of", user="a", page=1, at=NAIVE),
        RequestError,
        "at: .* is no datetime with a time zone; write tzinfo=datetime.UTC",
    ),
    "time as text": (
        lambda store, _: store.online("clicks_of", user="a", page=1, at="2024-01-01"),
        RequestError,
        "at: '2024-01-01' is no datetime",
    ),
    "naive arrival": (
        lambda store, _: store.push("clicks", [click(0)], arrival=NAIVE),
        RequestError,
        "arrival: .* is no datetime with a time zone",
    ),
    "spine without the time": (
        lambda store, spine: store.training_set("clicks_of", spine.drop("t"), time="t"),
        RequestError,
        'spine: no time column "t"',
    ),
    "spine with a similar time": (
        lambda store, spine: store.training_set(
            "clicks_of", spine.rename({"t": "time"}), time="tim"
        ),
        RequestError,
        'no time column "tim". Did you mean "time"?',
    ),
    "spine with a naive time": (
        lambda store, spine: store.training_set(
            "clicks_of", spine.with_columns(pl.col("t").dt.replace_time_zone(None)), time="t"
        ),
        RequestError,
        r'"t" has no time zone; write pl.col\("t"\).dt.replace_time_zone\("UTC"\) if it is UTC',
    ),
    "spine with a date": (
        lambda store, spine: store.training_set(
            "clicks_of", spine.with_columns(pl.col("t").dt.date()), time="t"
        ),
        RequestError,
        '"t" is Date; make it a datetime with a time zone',
    ),
    "spine with a null time": (
        lambda store, spine: store.training_set(
            "clicks_of", spine.with_columns(t=pl.when(pl.col("page") < 5).then("t")), time="t"
        ),
        RequestError,
        '"t" has 1 nulls; fill or drop those rows',
    ),
    "spine with a feature's name": (
        lambda store, spine: store.training_set("clicks_of", spine.with_columns(n_1h=0), time="t"),
        RequestError,
        'column "n_1h" has the name of a feature; rename it',
    ),
    "spine without a key": (
        lambda store, spine: store.training_set("clicks_of", spine.drop("user"), time="t"),
        RequestError,
        r'no column "user" \(key of entity "user"\)',
    ),
    "spine with another key type": (
        lambda store, spine: store.training_set(
            "clicks_of", spine.with_columns(user=pl.lit(1)), time="t"
        ),
        RequestError,
        r'"user" \(key of entity "user"\) takes String, not Int32; cast it',
    ),
    "as_of": (
        lambda store, spine: store.training_set("clicks_of", spine, time="t", as_of="arival"),
        RequestError,
        'is neither "event" nor "arrival". Did you mean "arrival"?',
    ),
    "events of an unknown stream": (
        lambda store, spine: store.training_set(
            "clicks_of", spine, time="t", events={"clix": spine}
        ),
        NotFoundError,
        'no stream "clix" in the plan',
    ),
    "events of a stream left out": (
        lambda store, spine: store.training_set("clicks_of", spine, time="t", events={}),
        RequestError,
        'nothing given for stream "clicks"; add it to events=',
    ),
    "events without a column": (
        lambda store, spine: store.training_set(
            "clicks_of",
            spine,
            time="t",
            events={"clicks": pl.DataFrame([click(0)]).rename({"x": "xx"})},
        ),
        RequestError,
        'no column "x"',
    ),
    "events of another type": (
        lambda store, spine: store.training_set(
            "clicks_of",
            spine,
            time="t",
            events={"clicks": pl.DataFrame([click(0)]).with_columns(pl.col("x").cast(pl.Float32))},
        ),
        RequestError,
        'column "x" is Float32, the stream says Float64; cast it',
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_the_cure(
    store: LocalStore, spine: pl.DataFrame, name: str
) -> None:
    make, kind, wanted = MISTAKES[name]
    with pytest.raises(
        kind, match=wanted.replace("?", r"\?") if "\\" not in wanted else wanted
    ) as e:
        make(store, spine)
    assert isinstance(e.value, HeadwaterError)
    assert "\n" not in str(e.value)
    assert ask(store)["n_lifetime"] == 2  # and the store goes on
