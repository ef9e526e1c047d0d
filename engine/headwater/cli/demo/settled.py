"""Once settled: a training set for every flight, and the same vectors fetched over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from headwater.cli.demo.streaming import INPUTS, SERVICE
from headwater_serving.client import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headwater.cli.demo.flights import Year
    from headwater.local_store import LocalStore
    from headwater_serving.client import Client

__all__ = ["fetch_all", "spine_of", "training_set_of"]

TIME = "decision"


def spine_of(year: Year) -> pl.DataFrame:
    """Return every flight with the time to predict at, in order of that time."""
    return year.flights.select(*INPUTS, TIME, "dep_delay").sort(TIME, maintain_order=True)


def training_set_of(store: LocalStore, spine: pl.DataFrame) -> pl.DataFrame:
    """Return the spine with the service's features as of each flight's time."""
    return store.training_set(SERVICE, spine, time=TIME).collect()


def fetch_all(client: Client, spine: pl.DataFrame, progress: Callable[[int], None]) -> pl.DataFrame:
    """Return the spine's vectors, fetched over gRPC; rows of one time share a request."""
    groups = spine.partition_by(TIME, maintain_order=True)
    parts = []
    for vectors in client.online_many(SERVICE, _requests(groups)):
        parts.append(vectors.to_polars())
        progress(len(vectors))
    # In one chunk a column: thousands would slow down all that is done with them.
    return pl.concat(parts, rechunk=True)


def _requests(groups: list[pl.DataFrame]) -> Iterator[Request]:
    for group in groups:
        yield Request(group.select(INPUTS), at=group[TIME][0])
