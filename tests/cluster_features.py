"""What the workers of the fault tests run, the events they get, and the oracle of their answers.

A worker is another process: its definitions file imports `service_of` from here.
"""

from __future__ import annotations

import random
import struct
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

import headwater as hw
from headwater.kernels.reference import Event, reference_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "AMOUNT", "BASE_US", "LAST_US", "LIFETIME_COUNT", "SECOND_US", "SERVICE", "USERS", "Features",
    "Generator", "Sent", "bits", "counts_for", "moment", "service_of",
]  # fmt: skip

SECOND_US = 1_000_000
BASE_US = 1_700_000_000 * SECOND_US
# After every event of a test.
LAST_US = BASE_US + 30 * 86_400 * SECOND_US
SERVICE = "model"
# Counts the rows of a user that pass the filter: what a reader must not find too few or many of.
LIFETIME_COUNT = "by_user.n_lifetime"
USERS = [f"u{n}" for n in range(40)]
SHOPS = [0, 1, 2]
AMOUNT = 0.5

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SCHEMA = {"user": pl.String, "shop": pl.Int64, "x": pl.Float64, "i": pl.Int64, "at": pl.Int64}
_SKIPPED = 3  # the `i` that the filter of by_user leaves out
_ODD_FLOATS = (None, 0.0, -0.0, 5e-324, 2.0**-129, 2.0**70, 2.0**96, -1e300, 0.1, 1 / 3)


def moment(us: int) -> datetime:
    """Return a time given in µs since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def bits(value: object) -> object:
    """Return what tells floats apart to the last bit."""
    return struct.pack("<d", value) if isinstance(value, float) else value


def service_of(topic: str) -> Any:
    """Return a service of three views by different keys, and on-demand features over one."""
    payments = hw.stream(topic, schema=_SCHEMA, event_time=hw.epoch("at", "us"))
    by_user = hw.view(
        "by_user",
        features=payments.filter(pl.col("i") != _SKIPPED)
        .with_columns(big=pl.col("x") > 1.0, half=pl.col("x") / 2)
        .group_by(hw.entity("user", key="user"))
        .window("10s", "10m", hw.window("1m", exact=True, name="exact"), "lifetime")
        .agg(
            n=hw.count(),
            total=hw.sum("x"),
            mean=hw.mean("half"),
            spread=hw.var("x"),
            low=hw.min("i"),
            big=hw.sum("big"),
            first=hw.first("x"),
            last=hw.last("i"),
        ),
    )
    by_pair = hw.view(
        "by_pair",
        features=payments.group_by(hw.entity("pair", key=["user", "shop"]))
        .window("1h", "3h")
        .agg(n=hw.count("x"), top=hw.max("x"), mean=hw.mean("i"), dev=hw.std("i", ddof=0)),
    )
    by_shop = hw.view(
        "by_shop",
        features=payments.group_by(hw.entity("shop", key="shop"))
        .window("1h", "lifetime")
        .agg(n=hw.count(), total=hw.sum("x"), whole=hw.sum("i"), last=hw.last("x")),
    )

    @hw.on_demand(inputs=[by_user, hw.request("amount", pl.Float64)])
    def against(row: pl.LazyFrame) -> pl.LazyFrame:
        return row.with_columns(
            over=pl.col("amount") - pl.col("mean_10m"), seen=pl.col("n_lifetime").fill_null(0) > 0
        )

    return hw.service(SERVICE, [by_user, by_pair, by_shop, against])


@dataclass(frozen=True, slots=True)
class Sent:
    """A record as it went into a topic; `row` is None where it can't be one."""

    partition: int
    offset: int
    value: bytes | None
    row: dict[str, Any] | None


def counts_for(row: Mapping[str, Any] | None) -> str | None:
    """Return the user whose `LIFETIME_COUNT` a row raises, None for nobody's."""
    if row is None or row["i"] is None or row["i"] == _SKIPPED:
        return None
    user: str | None = row["user"]
    return user


class Generator:
    """Rows by a seed: times run on, some late, some equal; odd numbers, nulls, repeated rows."""

    def __init__(self, seed: int, *, from_us: int = BASE_US) -> None:
        self._random = random.Random(seed)
        self._now_us = from_us
        self._last: dict[str, Any] | None = None
        self.newest_us = from_us

    def row(self) -> dict[str, Any]:
        """Return the next row."""
        rng = self._random
        if self._last is not None and rng.random() < 0.03:
            return self._last
        self._now_us += rng.choice((0, 0, 10_000, 40_000, 250_000))
        late_us = 0
        if rng.random() < 0.1:
            late_us = rng.choice((1, 30, 600, 4_000)) * rng.randrange(SECOND_US)
        self.newest_us = max(self.newest_us, self._now_us - late_us)
        self._last = {
            "user": None if rng.random() < 0.03 else rng.choice(USERS),
            "shop": None if rng.random() < 0.03 else rng.choice(SHOPS),
            "x": rng.choice(_ODD_FLOATS) if rng.random() < 0.1 else rng.gauss(1, 100),
            "i": None
            if rng.random() < 0.03
            else rng.randrange(-1, 6) + (rng.random() < 0.02) * 2**40,
            "at": self._now_us - late_us,
        }
        return self._last

    def rows(self, count: int) -> list[dict[str, Any]]:
        """Return the next rows."""
        return [self.row() for _ in range(count)]


def _by_user(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if counts_for(row) is None:
        return None
    x = row["x"]
    half, big = (None, None) if x is None else (x / 2, int(x > 1.0))
    return {**row, "half": half, "big": big}


_VIEW_VALUES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    "by_user": _by_user,
    "by_pair": dict,
    "by_shop": dict,
}


class Features:
    """The oracle: every feature of every entity by the raw events, in plain Python."""

    def __init__(self, topic: str) -> None:
        service = service_of(topic)
        self.views = [part for part in service.parts if part.name in _VIEW_VALUES]
        self.names: list[str] = list(service.column_names())
        keys = [(user, shop) for user in [*USERS, "never"] for shop in SHOPS]
        self.inputs = pl.DataFrame(keys, {"user": pl.String, "shop": pl.Int64}, orient="row")
        self.inputs = self.inputs.with_columns(amount=AMOUNT)

    def at(self, events: Iterable[Sent], t: int) -> list[list[object]]:
        """Return the row of features at `t` for each row of `inputs`."""
        found = list(events)
        of_view = [self._of_view(view, found, t) for view in self.views]
        names = [f.name for f in self.views[0].features.features]
        mean, n = names.index("mean_10m"), names.index("n_lifetime")
        rows: list[list[object]] = []
        for key in self.inputs.iter_rows(named=True):
            parts = [
                values(tuple(key[name] for name in view.features.on))
                for view, values in zip(self.views, of_view, strict=True)
            ]
            over = None if parts[0][mean] is None else AMOUNT - parts[0][mean]  # type: ignore[operator]
            rows.append([value for part in parts for value in part] + [over, parts[0][n] != 0])
        return rows

    def _of_view(
        self, view: Any, events: Sequence[Sent], t: int
    ) -> Callable[[tuple[object, ...]], list[object]]:
        """Return a function of a key to the values of a view; each key is folded once."""
        by_key: dict[tuple[object, ...], list[Event]] = defaultdict(list)
        for one in events:
            values = None if one.row is None else _VIEW_VALUES[view.name](one.row)
            if one.row is None or values is None:
                continue
            key = tuple(values[name] for name in view.features.on)
            if None not in key:
                by_key[key].append(Event(one.row["at"], one.partition, one.offset, values))
        features = view.features.features
        folded: dict[tuple[object, ...], list[object]] = {}

        def values_of(key: tuple[object, ...]) -> list[object]:
            if key not in folded:
                value = partial(_value, by_key.get(key, []), t)
                folded[key] = [value(feature) for feature in features]
            return folded[key]

        return values_of


def _value(events: Sequence[Event], t: int, feature: Any) -> object:
    return reference_value(feature.aggregate, feature.window, events, t)
