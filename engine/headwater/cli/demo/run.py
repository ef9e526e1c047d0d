"""The demo from end to end: stream, fetch, recompute, train, fetch again, compare, score."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from headwater.cli.demo.act_two import second_act
from headwater.cli.demo.audit import audit_samples
from headwater.cli.demo.compare import Compared, compare
from headwater.cli.demo.embedded import embedded
from headwater.cli.demo.features import flights, weather
from headwater.cli.demo.flights import Year, arrivals_of, check_extras, load_year
from headwater.cli.demo.kafka import kafka
from headwater.cli.demo.model import learn_and_score
from headwater.cli.demo.place import history_of
from headwater.cli.demo.settled import TIME, fetch_all, spine_of
from headwater.cli.demo.steps import bar, step
from headwater.cli.demo.streaming import INPUTS, SERVICE, compare_in_between, stream
from headwater.offline.training_set import training_set

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    import polars as pl
    from rich.progress import Progress

    from headwater.cli.demo.act_two import ActTwo
    from headwater.cli.demo.model import Scored
    from headwater.cli.demo.place import Outage, Place
    from headwater.offline.audited_columns import Audited

__all__ = ["Figures", "LogName", "run_demo"]

LogName = Literal["embedded", "kafka"]

_SEED = 2013
_WARM_UP_ROWS = 200
_ACT_TWO_SHARE = 1 / 6
_PLACES: Mapping[LogName, Callable[[Path, int, Progress], AbstractContextManager[Place]]] = {
    "embedded": embedded,
    "kafka": kafka,
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What the demo measured and compared; `stale` vectors said that they might be old."""

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
    act_two: ActTwo
    audited: Audited
    stale: int = 0
    outage: Outage | None = None


def run_demo(*, log: LogName, rows: int | None, port: int, progress: Progress) -> Figures:
    """Run the demo on the first `rows` flights, or all of them; serve on `port`, 0 for a free one.

    Raises MissingExtraError where the data or scikit-learn isn't installed, and NoBrokerError
    where it is to run on Kafka and there is no way to a broker.
    """
    began = time.perf_counter()
    check_extras()
    with step(progress, "reading a year of flights"):
        year = load_year(rows, _SEED)
        first, then = arrivals_of(year, _SEED + 1).parted(_ACT_TWO_SHARE)
    with step(progress, "compiling the kernels (once a machine)"):
        _warm_up(year, progress)
    count = Compared()
    with (
        tempfile.TemporaryDirectory(prefix="headwater-demo-") as folder,
        _PLACES[log](Path(folder), port, progress) as place,
    ):
        with bar(progress, "streaming, and fetching in between", first.events) as at:
            streamed = stream(place, year, first, seed=_SEED + 2, progress=at)
        act_two = second_act(place, year, then, seed=_SEED + 3, progress=progress)
        fetched = [*streamed.fetched, *act_two.fetched]
        with step(progress, "recomputing what was fetched, at its own offsets"):
            compare_in_between(place, fetched, count)
        spine = spine_of(year)
        with step(progress, "a training set for every flight"):
            training = _training_set(place, spine)
        fetch_began = time.perf_counter()
        with bar(progress, "fetching every flight's vector", spine.height) as at:
            served, stale = fetch_all(place.clients[0], spine, at)
        fetch_seconds = time.perf_counter() - fetch_began
        with step(progress, "auditing what was served"):
            audited = audit_samples(place)
    with step(progress, "comparing to the last bit"):
        compare(served, training, count)
    with step(progress, "learning and scoring"):
        scored = learn_and_score(training, served, _SEED)
    return Figures(
        events=first.events,
        events_per_s=first.events / streamed.seconds,
        in_between=sum(one.inputs.height for one in fetched),
        vectors=spine.height,
        vectors_per_s=spine.height / fetch_seconds,
        values_compared=count.values,
        differences=count.differences + scored.differences,
        first_difference=_first_difference(count, scored),
        predictions=scored.predictions,
        auc=scored.auc,
        seconds=time.perf_counter() - began,
        act_two=act_two,
        audited=audited,
        stale=streamed.stale + act_two.stale + stale,
        outage=streamed.outage,
    )


def _first_difference(count: Compared, scored: Scored) -> str:
    return count.first or ("a prediction" if scored.differences else "")


def _training_set(place: Place, spine: pl.DataFrame) -> pl.DataFrame:
    source = history_of(place)
    return training_set(place.plans[-1], SERVICE, spine, time=TIME, source=source).collect()


def _warm_up(year: Year, progress: Progress) -> None:
    """Go once round with a few events, so that no compiler runs while we measure."""
    few = Year(year.flights.head(_WARM_UP_ROWS), year.weather.head(_WARM_UP_ROWS))
    with (
        tempfile.TemporaryDirectory(prefix="headwater-demo-") as folder,
        embedded(Path(folder), 0, progress) as place,
    ):
        for stream_, frame in ((flights, few.flights), (weather, few.weather)):
            values = frame.select(*stream_.schema).write_ndjson().encode().splitlines()
            place.push(stream_.topic, values)
        place.settle()
        spine = spine_of(few)
        _training_set(place, spine)
        place.clients[0].online(SERVICE, spine.select(INPUTS), at=spine[TIME][-1])
