"""Once settled: a training set for every flight, and the same vectors fetched over gRPC."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import polars as pl

from headwater.cli.demo.streaming import INPUTS, SERVICE, stale_rows
from headwater.errors import HeadwaterError
from headwater_serving.client import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwater.cli.demo.flights import Year
    from headwater_serving.client import Client

__all__ = ["TIME", "fetch_all", "spine_of"]

TIME = "decision"

_FRESH_WITHIN_S = 30.0
_PAUSE_S = 0.2


def spine_of(year: Year) -> pl.DataFrame:
    """Return every flight with the time to predict at, in order of that time."""
    return year.flights.select(*INPUTS, TIME, "dep_delay").sort(TIME, maintain_order=True)


def fetch_all(
    client: Client, spine: pl.DataFrame, progress: Callable[[int], None]
) -> tuple[pl.DataFrame, int]:
    """Return the spine's vectors, fetched over gRPC, and how many of them were stale at first.

    Rows of one time share a request. One whose answer says that it may be old is sent again;
    `progress` takes how many vectors there are.
    """
    groups = spine.partition_by(TIME, maintain_order=True)
    requests = [Request(group.select(INPUTS), at=group[TIME][0]) for group in groups]
    parts: list[pl.DataFrame] = []
    again: list[int] = []
    done = stale = 0
    for vectors in client.online_many(SERVICE, requests):
        if rows := int(stale_rows(vectors).sum()):
            again.append(len(parts))
            stale += rows
        parts.append(vectors.to_polars())
        done += len(vectors)
        progress(done)
    for number in again:
        parts[number] = _fetch_fresh(client, requests[number])
    # In one chunk a column: thousands would slow down all that is done with them.
    return pl.concat(parts, rechunk=True), stale


def _fetch_fresh(client: Client, request: Request) -> pl.DataFrame:
    deadline = time.monotonic() + _FRESH_WITHIN_S
    while time.monotonic() < deadline:
        vectors = client.online(SERVICE, request.inputs, at=request.at)
        if not stale_rows(vectors).any():
            return vectors.to_polars()
        time.sleep(_PAUSE_S)
    raise HeadwaterError(f"{client.target} has had no fresh values for {_FRESH_WITHIN_S:g} s")
