"""The workload of the point in time benchmark: events, a spine, and the view both are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

import headwater as hw
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from headwater.plan.plan import Plan

__all__ = [
    "AGGREGATES",
    "BEGIN_US",
    "DAY_US",
    "SERVICE",
    "STREAM",
    "WINDOWS",
    "ZIPF_EXPONENT",
    "Workload",
    "feature_names",
    "plan",
    "windows_us",
]

STREAM, SERVICE = "payments", "card_model"
AGGREGATES = ("count", "sum", "mean", "low", "high")
WINDOWS = ("1h", "24h", "7d")

# Bounded to the number of keys: with 20 k keys the hottest has a fifth of all events, the ten
# hottest half of them; much like merchants, or users of an API.
ZIPF_EXPONENT = 1.2

BEGIN_US = 1_700_000_000_000_000
DAY_US = 86_400_000_000


def plan(windows: tuple[str, ...] = WINDOWS) -> Plan:
    """Return the plan of one view: three windows of five aggregates of a double."""
    payments = hw.stream(
        STREAM,
        schema={"card": pl.Int64, "ts": pl.Int64, "amount": pl.Float64},
        event_time=hw.epoch("ts", "us"),
    )
    features = (
        payments.group_by(hw.entity("card", key="card", dtype=pl.Int64))
        .window(*windows)
        .agg(
            count=hw.count(),
            sum=hw.sum("amount"),
            mean=hw.mean("amount"),
            low=hw.min("amount"),
            high=hw.max("amount"),
        )
    )
    owner = "bench@example.com"
    view = hw.view("spending", version=1, owner=owner, features=features)
    return compile_plan([hw.service(SERVICE, [view], owner=owner)])


def feature_names() -> list[str]:
    """Return the names of the view's features."""
    return [f"{one}_{window}" for window in WINDOWS for one in AGGREGATES]


def windows_us(compiled: Plan) -> dict[str, tuple[int, int]]:
    """Return the (width, hop) of each window in µs, as the engine has them."""
    (view,) = compiled.views.values()
    table = view.layout.table.windows.tolist()
    return {name: (width, hop) for name, (width, hop) in zip(WINDOWS, table, strict=True)}


@dataclass(frozen=True, slots=True)
class Workload:
    """Sizes and seed; `keys` are drawn "uniform" or "zipf"."""

    events: int
    keys: int
    spine: int
    days: int
    seed: int
    distribution: str

    def frames(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return events in time order (card, ts, amount) and a spine (card, at) in none."""
        rng = np.random.default_rng(self.seed)
        draw = self._drawing(rng)
        span = self.days * DAY_US
        events = pl.DataFrame(
            {
                "card": draw(self.events),
                "ts": BEGIN_US + np.sort(rng.integers(0, span, self.events)),
                "amount": np.round(rng.lognormal(3.0, 1.0, self.events), 2),
            }
        )
        spine = pl.DataFrame(
            {"card": draw(self.spine), "at": BEGIN_US + rng.integers(0, span, self.spine)}
        )
        return events, spine.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))

    def _drawing(self, rng: np.random.Generator) -> Callable[[int], NDArray[np.int64]]:
        if self.distribution == "uniform":
            return lambda count: rng.integers(0, self.keys, count)
        weights = np.arange(1, self.keys + 1, dtype=np.float64) ** -ZIPF_EXPONENT
        edges = np.cumsum(weights) / weights.sum()
        names = rng.permutation(self.keys)
        return lambda count: names[
            np.minimum(np.searchsorted(edges, rng.random(count)), self.keys - 1)
        ]
