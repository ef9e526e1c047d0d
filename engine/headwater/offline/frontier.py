"""Frontiers: how far history is complete, and spine rows that lie beyond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from headwater.flow.answer import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headwater.offline.sources import EventSource
    from headwater.plan.plan import ServicePlan

__all__ = ["FrontierError", "check_frontier", "frontier_of", "moment_text"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_US = -62_135_596_800_000_000


class FrontierError(RequestError):
    """Rows of a spine after the moment up to which history is complete."""


def frontier_of(service: ServicePlan, source: EventSource) -> int | None:
    """Return the arrival in µs up to which a service's history is complete; None if all is there.

    It is the least of those of its streams.
    """
    found = [source.frontier_us(view.stream) for view in service.views]
    known = [frontier for frontier in found if frontier is not None]
    return min(known, default=None)


def check_frontier(times: NDArray[np.int64], frontier_us: int | None) -> None:
    """Raise FrontierError if rows at `times` (n, µs) may lack events that have not come yet."""
    if frontier_us is None or not len(times):
        return
    beyond = int(np.count_nonzero(times > frontier_us))
    if beyond:
        msg = (
            f"spine: {beyond:,} of {len(times):,} rows lie after {moment_text(frontier_us)}, the"
            f" frontier up to which the archive is complete (the last row is at"
            f" {moment_text(int(times.max()))}); leave them out, take a later snapshot, or wait for"
            " the archive"
        )
        raise FrontierError(msg)


def moment_text(moment_us: int) -> str:
    """Spell a moment as RFC 3339 in UTC; before the calendar it is "nothing"."""
    if moment_us < _EARLIEST_US:
        return "nothing"
    moment = _EPOCH + timedelta(microseconds=moment_us)
    return moment.isoformat().replace("+00:00", "Z")
