"""The stream: events pushed and applied while vectors are fetched at random moments in between."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

import numpy as np
import polars as pl

from headwater.cli.demo.compare import compare
from headwater.cli.demo.features import delay_model
from headwater.cli.demo.place import history_of
from headwater.errors import HeadwaterError
from headwater.flow.answer import Status
from headwater.offline.recompute import ExchangeOrder, Served, offsets_matrix, recompute
from headwater_serving.codes import DeadlineError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from headwater.cli.demo.compare import Compared
    from headwater.cli.demo.flights import Arrivals, Year
    from headwater.cli.demo.place import Outage, Place
    from headwater.plan.plan import Plan
    from headwater_serving.vectors import Vectors

__all__ = [
    "INPUTS",
    "SERVICE",
    "Fetched",
    "Fetcher",
    "Streamed",
    "compare_in_between",
    "stale_rows",
    "stream",
]

SERVICE = delay_model.name
INPUTS = ("tailnum", "origin", "dest", "distance", "hour")

_ROWS_A_FETCH = 24
_FETCHES_MAX = 2_000
_PAUSE_S = 0.01
_PAST_US = 7 * 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Fetched:
    """The fresh rows of one answer: of which revision, the inputs, the time, offsets, values."""

    revision: str
    inputs: pl.DataFrame
    t_us: int
    exchange_offsets: dict[int, int]
    values: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Streamed:
    """How the stream went: seconds until all was applied, and what was fetched in between.

    `stale` counts the vectors that said they may be old; they are no part of `fetched`.
    """

    seconds: float
    fetched: list[Fetched]
    stale: int
    outage: Outage | None


def stale_rows(vectors: Vectors) -> NDArray[np.bool_]:
    """Return which of n vectors say of any of their values that it may be old."""
    found: NDArray[np.bool_] = (vectors.status_codes() == Status.STALE).any(axis=0)
    return found


class Fetcher:
    """Fetches vectors of random flights at random times, until it is stopped."""

    def __init__(
        self, place: Place, flights: pl.DataFrame, now_us: Callable[[], int], seed: int
    ) -> None:
        self.fetched: list[Fetched] = []
        self.stale = 0
        self._place = place
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
        vectors = self._answer(inputs, at)
        stale = stale_rows(vectors)
        self.stale += int(stale.sum())
        offsets, values = dict(vectors.exchange_offsets), vectors.to_polars()
        inputs, values = inputs.filter(~stale), values.filter(~stale)
        self.fetched.append(Fetched(vectors.revision, inputs, t_us, offsets, values))

    def _answer(self, inputs: pl.DataFrame, at: datetime) -> Vectors:
        """Ask one after the other, in any order, until somebody answers."""
        clients = self._place.clients
        order: list[int] = self._rng.permutation(len(clients)).tolist()
        for i in order[:-1]:
            with suppress(UnreachableError, DeadlineError):
                return clients[i].online(SERVICE, inputs, at=at)
        return clients[order[-1]].online(SERVICE, inputs, at=at)


def stream(
    place: Place,
    year: Year,
    arrivals: Arrivals,
    *,
    seed: int,
    progress: Callable[[int], None],
) -> Streamed:
    """Push every event while vectors are fetched; something may go wrong on the way."""
    at = events = 0
    outage = None
    last = len(arrivals.chunks) - 1
    began = time.perf_counter()
    with (
        Fetcher(place, year.flights, lambda: int(arrivals.newest_us[at]), seed) as fetcher,
        _watch(place, progress),
    ):
        for at, chunk in enumerate(arrivals.chunks):
            for topic, values in chunk.items():
                place.push(topic, values)
                events += len(values)
            if at == last // 2:
                place.interrupt(events)
            if at == last * 3 // 4:
                outage = place.restore()
        place.settle()
    return Streamed(time.perf_counter() - began, fetcher.fetched, fetcher.stale, outage)


@contextmanager
def _watch(place: Place, progress: Callable[[int], None]) -> Iterator[None]:
    """Tell the progress bar all the while how many events the workers have taken in."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(_POLL_S):
            # Whoever can't tell now may in a moment, and nothing depends on it.
            with suppress(HeadwaterError):
                progress(place.taken_in())

    thread = threading.Thread(target=look, name="demo-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def compare_in_between(place: Place, fetched: Sequence[Fetched], count: Compared) -> None:
    """Recompute each fetched vector from history at its answer's own offsets, and compare."""
    order = ExchangeOrder.read(place.log, place.exchange)
    plans = {plan.service(SERVICE).revision: plan for plan in place.plans}
    for revision, plan in plans.items():
        found = [one for one in fetched if one.revision == revision]
        if found:
            _compare_answers(place, plan, found, order, count)


def _compare_answers(
    place: Place, plan: Plan, fetched: Sequence[Fetched], order: ExchangeOrder, count: Compared
) -> None:
    heights = [one.inputs.height for one in fetched]
    answers = [(one.exchange_offsets, rows) for one, rows in zip(fetched, heights, strict=True)]
    served = Served(
        pl.concat([one.inputs for one in fetched]),
        np.repeat(np.array([one.t_us for one in fetched], np.int64), heights),
        offsets_matrix(answers, order.shards),
    )
    again = recompute(
        plan,
        SERVICE,
        served,
        source=history_of(place),
        order=order,
        topic_ids={name: place.log.topic(name).id for name in plan.streams},
    )
    compare(pl.concat([one.values for one in fetched]), again, count)
