"""Where the demo runs: what it needs of a log, of workers, and of those who answer reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from headwater.offline.sources import WholeHistory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headwater.definitions.service import Service
    from headwater.definitions.view import View
    from headwater.flow.sample_files import SampleFiles
    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan
    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.log.log import Log
    from headwater_serving.client import Client

__all__ = ["SAMPLES_PER_S", "Outage", "Place", "history_of"]

# So many requests a second are kept for the audit.
SAMPLES_PER_S = 10.0


@dataclass(frozen=True, slots=True)
class Outage:
    """A worker that was killed: after how many events, and how long until its tasks ran again.

    `taken_over_s` is from the kill until the others had caught up with all of its tasks, `back_s`
    from its new start until it had caught up with a share of them.
    """

    worker: str
    after_events: int
    taken_over_s: float
    back_s: float


class Place(Protocol):
    """A log with the demo's topics, and whoever reads them, keeps the features and serves them."""

    plans: list[Plan]  # that were run, one after the other; the last one is run now
    log: Log
    archive: Archive
    namespace: str
    exchange: str  # the topic
    starts: Mapping[str, Start]  # by stream
    clients: Sequence[Client]  # each of them answers any read, as long as it is there

    def push(self, topic: str, values: Sequence[bytes]) -> None:
        """Append events to a topic, spread over its partitions in runs."""

    def taken_in(self) -> int:
        """Return how many events have been read from the topics, and will not be lost."""
        ...

    def interrupt(self, pushed: int) -> None:
        """Let something go wrong when about half of the events, `pushed`, are there."""

    def restore(self) -> Outage | None:
        """Put right what went wrong, and say what it was."""
        ...

    def settle(self) -> None:
        """Return when every event pushed can be read."""

    def apply(self, parts: Sequence[Service | View]) -> None:
        """Have these definitions run; return when every worker has taken them on."""

    def samples(self) -> SampleFiles:
        """Return all that was sampled of the answers; nobody is to ask any more."""
        ...


def history_of(place: Place) -> WholeHistory:
    """Return the events that there are now."""
    streams = place.plans[-1].streams
    return WholeHistory(streams, place.archive, place.log, place.starts, place.namespace)
