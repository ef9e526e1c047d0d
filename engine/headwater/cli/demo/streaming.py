"""The stream: events pushed and applied while vectors are fetched at random moments in between."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

import numpy as np
import polars as pl

from headwater.cli.demo.compare import compare
from headwater.flow.exchange import lane_of
from headwater.offline.recompute import ExchangeOrder, Served, offsets_matrix, recompute
from headwater.offline.sources import LogEvents

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwater.cli.demo.compare import Compared
    from headwater.cli.demo.flights import Arrivals, Year
    from headwater.local_store import LocalStore
    from headwater_serving.client import Client

__all__ = ["INPUTS", "SERVICE", "Fetched", "Fetcher", "compare_in_between", "stream"]

SERVICE = "delay_model"
INPUTS = ("tailnum", "origin", "dest", "distance", "hour")

_ROWS_A_FETCH = 24
_FETCHES_MAX = 2_000
_PAUSE_S = 0.01
_PAST_US = 7 * 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Fetched:
    """One answer: the inputs asked for, the time, the shards' exchange offsets, and the values."""

    inputs: pl.DataFrame
    t_us: int
    exchange_offsets: dict[int, int]
    values: pl.DataFrame


class Fetcher:
    """Fetches vectors of random flights at random times, until it is stopped."""

    def __init__(
        self, client: Client, flights: pl.DataFrame, now_us: Callable[[], int], seed: int
    ) -> None:
        self.fetched: list[Fetched] = []
        self._client = client
        self._inputs = flights.select(INPUTS)
        self._oldest_us = int(flights["ts"].min())  # type: ignore[arg-type]
        self._now_us = now_us
        self._rng = np.random.default_rng(seed)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="demo-fetch", daemon=True)

    def __enter__(self) -> Self:
        """Start fetching."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and raise what stopped it before."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while len(self.fetched) < _FETCHES_MAX and not self._stop.is_set():
                self._fetch()
                self._stop.wait(float(self._rng.exponential(_PAUSE_S)))
        except BaseException as error:  # noqa: BLE001 - raised where the fetching is stopped
            self._error = error

    def _fetch(self) -> None:
        now_us = max(self._now_us(), self._oldest_us + 1)
        # Half the reads are recent, half anywhere in the past: any time can be read.
        reach = now_us - self._oldest_us
        back_us = min(reach, _PAST_US) if self._rng.random() < 0.5 else reach
        t_us = now_us - int(self._rng.integers(0, back_us))
        rows = self._rng.integers(0, self._inputs.height, _ROWS_A_FETCH)
        inputs = self._inputs[rows]
        at = _EPOCH + timedelta(microseconds=t_us)
        vectors = self._client.online(SERVICE, inputs, at=at)
        self.fetched.append(
            Fetched(inputs, t_us, dict(vectors.exchange_offsets), vectors.to_polars())
        )


def stream(
    store: LocalStore,
    client: Client,
    year: Year,
    arrivals: Arrivals,
    *,
    seed: int,
    progress: Callable[[int], None],
) -> tuple[float, list[Fetched]]:
    """Push every event while vectors are fetched; return the seconds to settled and the answers."""
    pushed = 0
    began = time.perf_counter()
    with Fetcher(client, year.flights, lambda: int(arrivals.newest_us[pushed]), seed) as fetcher:
        for pushed, chunk in enumerate(arrivals.chunks):  # noqa: B007 - the fetcher looks at it
            for topic, values in chunk.items():
                store.push_bytes(topic, values)
        applied = threading.Event()
        watch = threading.Thread(target=_watch, args=(store, applied, progress), daemon=True)
        watch.start()
        try:
            store.settle()
            seconds = time.perf_counter() - began
        finally:
            applied.set()
            watch.join()
    return seconds, fetcher.fetched


def _watch(store: LocalStore, applied: threading.Event, progress: Callable[[int], None]) -> None:
    """Tell the progress bar how many source events every shard has applied."""
    while not applied.wait(_POLL_S):
        progress(_applied_events(store))


def _applied_events(store: LocalStore) -> int:
    """Return how many source events every shard and view has taken in."""
    shards = store.worker.shards.values()
    total = 0
    for name in store.plan.streams:
        topic = store.log.topic(name)
        for partition in range(topic.partitions):
            lanes = [lane_of(topic.id, one.id, partition) for one in store.plan.bindings_of(name)]
            done = [shard.applied.get(lane, -1) for shard in shards for lane in lanes]
            total += min(done) + 1
    return total


def compare_in_between(store: LocalStore, fetched: list[Fetched], count: Compared) -> None:
    """Recompute each fetched vector from the log at its answer's own offsets, and compare."""
    worker = store.worker
    order = ExchangeOrder.read(store.log, worker.exchange)
    heights = [one.inputs.height for one in fetched]
    answers = [(one.exchange_offsets, rows) for one, rows in zip(fetched, heights, strict=True)]
    served = Served(
        pl.concat([one.inputs for one in fetched]),
        np.repeat(np.array([one.t_us for one in fetched], np.int64), heights),
        offsets_matrix(answers, order.shards),
    )
    again = recompute(
        store.plan,
        SERVICE,
        served,
        source=LogEvents(store.log, worker.starts),
        order=order,
        topic_ids={name: store.log.topic(name).id for name in store.plan.streams},
    )
    compare(pl.concat([one.values for one in fetched]), again, count)
