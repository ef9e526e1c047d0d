"""The workload of the ingest benchmark: payments as JSON, what is asked of them, the answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

import headwater as hw
from bench.tumbling import AGGREGATES, WINDOWS_MS, totals_of
from bench.workload import ZIPF_EXPONENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.tumbling import Totals
    from headwater.definitions.service import Service

__all__ = ["BEGIN_MS", "PARTITIONS", "SERVICE", "Load", "Record", "payment", "service"]

SERVICE = "spending_model"
PARTITIONS = 4

# A multiple of every window's length: no peer's window closes while it is timed.
BEGIN_MS = 1_700_092_800_000
_EVENTS_A_SECOND = 1_000  # of event time: the load is the backlog of a stream of this rate
_CHUNK_EVENTS = 100_000

_CHANNELS = ("web", "pos", "app")
_COUNTRIES = ("CZ", "DE", "FR", "PL", "US")

# A partition, a key, a value and a timestamp in ms.
Record = tuple[int, bytes, bytes, int]


def service(topic: str, *, version: int = 1) -> Service:
    """Return a service of one view: three windows of five aggregates of a user's payments."""
    payments = hw.stream(
        topic,
        schema={
            "user": pl.String,
            "amount": pl.Float64,
            "merchant": pl.String,
            "country": pl.String,
            "channel": pl.String,
            "ts": pl.Int64,
        },
        event_time=hw.epoch("ts", "ms"),
    )
    features = (
        payments.group_by(hw.entity("user", key="user", dtype=pl.String))
        .window(*WINDOWS_MS)
        .agg(
            count=hw.count(),
            sum=hw.sum("amount"),
            mean=hw.mean("amount"),
            min=hw.min("amount"),
            max=hw.max("amount"),
        )
    )
    owner = "bench@example.com"
    view = hw.view("spending", version=version, owner=owner, features=features)
    return hw.service(SERVICE, [view], owner=owner)


def payment(user: str, amount: float, ts_ms: int) -> bytes:
    """Return one event of the workload's shape."""
    return (
        f'{{"user":"{user}","amount":{amount},"merchant":"m0001","country":"CZ","channel":"web",'
        f'"ts":{ts_ms}}}'
    ).encode()


@dataclass(frozen=True)
class Load:
    """Payments in time order; those of one user are all in one partition, as a key puts them."""

    events: int
    users: int
    seed: int = 1
    uniform: bool = False  # each user in turn, instead of by Zipf's law
    begin_ms: int = BEGIN_MS

    @cached_property
    def frame(self) -> pl.DataFrame:
        """Return the events: user (its number), amount, ts (ms) and partition."""
        rng = np.random.default_rng(self.seed)
        return pl.DataFrame(
            {
                "user": self._users(rng),
                "amount": np.round(rng.lognormal(3.0, 1.0, self.events), 2),
                "ts": self.begin_ms + np.arange(self.events) * 1_000 // _EVENTS_A_SECOND,
            }
        ).with_columns(partition=pl.col("user") % PARTITIONS)

    def _users(self, rng: np.random.Generator) -> np.ndarray:
        if self.uniform:
            return np.arange(self.events) % self.users
        weights = np.arange(1, self.users + 1, dtype=np.float64) ** -ZIPF_EXPONENT
        edges = np.cumsum(weights) / weights.sum()
        ranks = np.searchsorted(edges, rng.random(self.events))
        return rng.permutation(self.users)[np.minimum(ranks, self.users - 1)]

    @property
    def end_ms(self) -> int:
        """Return a time after every event."""
        return int(self.frame["ts"][-1]) + 1

    def user_names(self) -> list[str]:
        """Return the users that have events."""
        return self.frame.select("user").unique().sort("user").select(_NAME).to_series().to_list()

    def records(self) -> Iterator[Record]:
        """Yield the events as a producer sends them."""
        for chunk in self.frame.iter_slices(_CHUNK_EVENTS):
            rows = chunk.select("partition", _NAME.cast(pl.Binary), _JSON.alias("value"), "ts")
            yield from rows.iter_rows()

    def values(self) -> dict[int, list[bytes]]:
        """Return the events' JSON by partition."""
        parts = self.frame.partition_by("partition", as_dict=True, maintain_order=True)
        return {
            int(partition): part.select(_JSON).to_series().to_list()
            for (partition,), part in sorted(parts.items())
        }

    def totals(self) -> Totals:
        """Return what every contestant must find: the oracle's totals."""
        amount = pl.col("amount")
        found = {}
        for name, size_ms in WINDOWS_MS.items():
            rows = self.frame.group_by("user", pl.col("ts") // size_ms).agg(
                count=pl.len(),
                sum=amount.sum(),
                mean=amount.mean(),
                min=amount.min(),
                max=amount.max(),
            )
            found[name] = totals_of(rows.select(AGGREGATES).iter_rows())
        return found


_NAME = pl.format("u{}", pl.col("user").cast(pl.String).str.zfill(6)).alias("name")
# About 100 bytes, with columns that no feature uses, as events have.
_JSON = (
    pl.struct(
        _NAME.alias("user"),
        "amount",
        pl.format("m{}", (pl.col("ts") % 1_000).cast(pl.String).str.zfill(4)).alias("merchant"),
        pl.lit(pl.Series(_COUNTRIES)).gather(pl.col("user") % len(_COUNTRIES)).alias("country"),
        pl.lit(pl.Series(_CHANNELS)).gather(pl.col("ts") % len(_CHANNELS)).alias("channel"),
        "ts",
    )
    .struct.json_encode()
    .cast(pl.Binary)
)
