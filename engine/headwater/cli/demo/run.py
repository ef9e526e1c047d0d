"""The demo from end to end: stream, fetch, recompute, train, fetch again, compare, score."""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import headwater as hw
from headwater.cli.demo.compare import Compared, compare
from headwater.cli.demo.features import delay_model, flights, weather
from headwater.cli.demo.flights import Year, arrivals_of, check_extras, load_year
from headwater.cli.demo.model import learn_and_score
from headwater.cli.demo.settled import fetch_all, spine_of, training_set_of
from headwater.cli.demo.streaming import INPUTS, SERVICE, compare_in_between, stream
from headwater.flow.settings import WorkerSettings
from headwater_serving.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

    from headwater.cli.demo.model import Scored

__all__ = ["Figures", "run_demo"]

_SEED = 2013
_SETTINGS = WorkerSettings(namespace="demo", shards=4, read_back_us=None, keep_exchange=True)
# The first call of a cold machine compiles the kernels.
_TIMEOUT_S = 120.0
_WARM_UP_ROWS = 200


@dataclass(frozen=True, slots=True)
class Figures:
    """What the demo measured and compared."""

    events: int
    events_per_s: float
    in_between: int
    vectors: int
    vectors_per_s: float
    values_compared: int
    differences: int
    first_difference: str
    predictions: int
    auc: float
    seconds: float


def run_demo(*, rows: int | None, port: int, progress: Progress) -> Figures:
    """Run the demo on the first `rows` flights, or all of them; serve on `port`, 0 for a free one.

    Raises MissingExtraError where the data or scikit-learn isn't installed.
    """
    began = time.perf_counter()
    check_extras()
    with _step(progress, "reading a year of flights"):
        year = load_year(rows, _SEED)
        arrivals = arrivals_of(year, _SEED + 1)
    with _step(progress, "compiling the kernels (once a machine)"):
        _warm_up(year)
    count = Compared()
    with (
        tempfile.TemporaryDirectory(prefix="headwater-demo-") as folder,
        hw.local([delay_model], path=Path(folder) / "store", settings=_SETTINGS) as store,
        connect(store.serve(port).target, timeout_s=_TIMEOUT_S) as client,
    ):
        with _bar(progress, "streaming, and fetching in between", arrivals.events) as at:
            seconds, fetched = stream(store, client, year, arrivals, seed=_SEED + 2, progress=at)
        with _step(progress, "recomputing what was fetched, at its own offsets"):
            compare_in_between(store, fetched, count)
        spine = spine_of(year)
        with _step(progress, "a training set for every flight"):
            training = training_set_of(store, spine)
        fetch_began = time.perf_counter()
        with _bar(progress, "fetching every flight's vector", spine.height) as at:
            done = 0

            def advance(vectors: int) -> None:
                nonlocal done
                done += vectors
                at(done)

            served = fetch_all(client, spine, advance)
        fetch_seconds = time.perf_counter() - fetch_began
    with _step(progress, "comparing to the last bit"):
        compare(served, training, count)
    with _step(progress, "learning and scoring"):
        scored = learn_and_score(training, served, _SEED)
    return Figures(
        events=arrivals.events,
        events_per_s=arrivals.events / seconds,
        in_between=sum(one.inputs.height for one in fetched),
        vectors=spine.height,
        vectors_per_s=spine.height / fetch_seconds,
        values_compared=count.values,
        differences=count.differences + scored.differences,
        first_difference=_first_difference(count, scored),
        predictions=scored.predictions,
        auc=scored.auc,
        seconds=time.perf_counter() - began,
    )


def _first_difference(count: Compared, scored: Scored) -> str:
    return count.first or ("a prediction" if scored.differences else "")


def _warm_up(year: Year) -> None:
    """Go once round with a few events, so that no compiler runs while we measure."""
    few = Year(year.flights.head(_WARM_UP_ROWS), year.weather.head(_WARM_UP_ROWS))
    with (
        tempfile.TemporaryDirectory(prefix="headwater-demo-") as folder,
        hw.local([delay_model], path=Path(folder) / "store", settings=_SETTINGS) as store,
        connect(store.serve(0).target, timeout_s=_TIMEOUT_S) as client,
    ):
        store.push(flights.topic, few.flights.select(*flights.schema))
        store.push(weather.topic, few.weather.select(*weather.schema))
        store.settle(_TIMEOUT_S)
        spine = spine_of(few)
        training_set_of(store, spine)
        client.online(SERVICE, spine.select(INPUTS), at=spine["decision"][-1])


@contextmanager
def _step(progress: Progress, what: str) -> Iterator[None]:
    """Show a step of unknown length."""
    task = progress.add_task(what, total=None)
    yield
    progress.update(task, total=1, completed=1)


@contextmanager
def _bar(progress: Progress, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a step of known length; the function given takes how much is done."""
    task = progress.add_task(what, total=total)
    yield lambda done: progress.update(task, completed=done)
    progress.update(task, completed=total)
