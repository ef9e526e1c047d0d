"""The second act: a version 2 of a view is applied, built, compared and cut over to, live."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headwater.cli.demo.features import delay_model, delay_model_2, plane_delays, plane_delays_2
from headwater.cli.demo.place import history_of
from headwater.cli.demo.steps import step
from headwater.cli.demo.streaming import INPUTS, SERVICE, Fetcher
from headwater.errors import HeadwaterError
from headwater.flow.answer import Status
from headwater.offline.comparison import Comparison
from headwater.offline.spine_sample import sample_spine, time_name
from headwater.registry.changes import causes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress

    from headwater.cli.demo.flights import Arrivals, Year
    from headwater.cli.demo.place import Place
    from headwater.cli.demo.streaming import Fetched

__all__ = ["ActTwo", "Differing", "second_act"]

_PUSH_EVERY_S = 0.5
_PLANES_MAX = 1_000
_COMPARED_ROWS = 10_000
_LOOK_S = 0.05
_PATIENCE_S = 180.0
# Only the new version has it, so an answer with it is of that version.
_NEW_FEATURE = f"{plane_delays_2.name}.plane_std_lifetime"


@dataclass(frozen=True, slots=True)
class Differing:
    """How many of the values that both versions have differ, of which features, and why."""

    compared: int
    differing: int
    why: str


@dataclass(frozen=True, slots=True)
class ActTwo:
    """How the new version came to be: from how many past events, how soon, and what it changes.

    `fetched` are the answers of all that time, of both revisions of the service.
    """

    events: int
    loaded_events: int
    loaded_s: float
    versions: Differing
    revision_changed: bool
    fetched: list[Fetched]
    stale: int


def second_act(
    place: Place, year: Year, arrivals: Arrivals, *, seed: int, progress: Progress
) -> ActTwo:
    """Change the service under way, while events are pushed and vectors are fetched."""
    feed = _Feed(place, arrivals)
    with Fetcher(place, year.flights, lambda: feed.newest_us, seed) as fetcher:
        with feed.pushing():
            with step(progress, "applying version 2 of plane_delays, building it from history"):
                loaded_events, loaded_s = _build(place, year)
            with step(progress, "comparing version 1 with version 2"):
                versions = _compare_versions(place, seed)
            with step(progress, "moving the service to version 2"):
                revision_changed = _cut_over(place, year)
        place.settle()
    return ActTwo(
        arrivals.events, loaded_events, loaded_s, versions, revision_changed,
        fetcher.fetched, fetcher.stale,
    )  # fmt: skip


class _Feed:
    """Pushes chunk after chunk in a thread of its own."""

    def __init__(self, place: Place, arrivals: Arrivals) -> None:
        self.newest_us = int(arrivals.newest_us[0])
        self._place = place
        self._arrivals = arrivals
        self._over = threading.Event()

    @contextmanager
    def pushing(self) -> Iterator[None]:
        """Push all the while, without haste; what is left in the end is pushed at once."""
        with ThreadPoolExecutor(1, thread_name_prefix="demo-push") as pool:
            pushed = pool.submit(self._push)
            try:
                yield
            finally:
                self._over.set()
            pushed.result()

    def _push(self) -> None:
        for number, chunk in enumerate(self._arrivals.chunks):
            self.newest_us = int(self._arrivals.newest_us[number])
            for topic, values in chunk.items():
                self._place.push(topic, values)
            self._over.wait(_PUSH_EVERY_S)


def _build(place: Place, year: Year) -> tuple[int, float]:
    """Apply the version beside the other; return its past events, and seconds until it answers."""
    topic = plane_delays_2.features.rows.stream.topic
    ends = place.log.end_offsets(topic)
    past = sum(end - place.starts[topic].position(p) for p, end in enumerate(ends))
    planes = year.flights["tailnum"].drop_nulls().unique(maintain_order=True).head(_PLANES_MAX)
    began = time.monotonic()
    place.apply([delay_model, plane_delays_2])
    while True:
        statuses = place.clients[0].online([_NEW_FEATURE], tailnum=planes).status_codes()
        if not np.isin(statuses, (Status.WARMING, Status.STALE)).any():
            return past, time.monotonic() - began
        if time.monotonic() - began > _PATIENCE_S:
            raise HeadwaterError(f"not within {_PATIENCE_S:g} s: {plane_delays_2.id} is built")
        time.sleep(_LOOK_S)


def _compare_versions(place: Place, seed: int) -> Differing:
    comparison = Comparison(plane_delays, plane_delays_2)
    views, source = (comparison.old, comparison.new), history_of(place)
    spine = sample_spine(views, source, rows=_COMPARED_ROWS, seed=seed)
    comparison.add(spine, time=time_name(comparison.old.entity.key), source=source)
    differing = [one for one in comparison.features if one.differing]
    why = dict.fromkeys(
        cause for one in differing for cause in causes(comparison.old, comparison.new, one.name)
    )
    return Differing(
        sum(one.compared for one in comparison.features),
        sum(one.differing for one in differing),
        f"{', '.join(one.name for one in differing)}: {'; '.join(why)}" if differing else "",
    )


def _cut_over(place: Place, year: Year) -> bool:
    """Move the service; return whether a client that was there before is answered by the other."""
    client, inputs = place.clients[0], year.flights.select(INPUTS).head(1)
    before = client.online(SERVICE, inputs).revision
    place.apply([delay_model_2, plane_delays])
    return client.online(SERVICE, inputs).revision != before
