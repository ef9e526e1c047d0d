"""Starts: where a stream's history begins, resolved once, when it is first opened."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from headwater.flow.answer import RequestError
from headwater.kernels.rows import NO_HORIZON

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwater.definitions.stream import Stream
    from headwater_connectors.log.log import Log

__all__ = ["Start", "resolve_start", "us_of"]

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class Start(msgspec.Struct, frozen=True):
    """First offset by partition, and the instant from which windows are complete."""

    topic_id: str
    positions: dict[int, int]
    complete_from_us: int

    def position(self, partition: int) -> int:
        """Return a partition's first offset; one that the topic gained later begins at 0."""
        return self.positions.get(partition, 0)


def us_of(moment: datetime, what: str = "time") -> int:
    """Return µs since 1970 of a datetime; raise RequestError if it has no time zone."""
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        msg = f"{what}: {moment!r} is no datetime with a time zone; write tzinfo=datetime.UTC"
        raise RequestError(msg)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def resolve_start(log: Log, stream: Stream, clock: Callable[[], int]) -> Start:
    """Resolve a stream's `start` against the log as it is now.

    History that begins at offset 0 is complete for every window; any other start is complete from
    its own instant on.
    """
    topic = log.topic(stream.topic)
    first = log.start_offsets(stream.topic)
    if stream.start == "earliest":
        offsets, complete_from_us = first, clock()
    elif stream.start == "latest":
        offsets, complete_from_us = log.end_offsets(stream.topic), clock()
    else:
        assert isinstance(stream.start, datetime)
        complete_from_us = us_of(stream.start)
        offsets = [
            max(a, b)
            for a, b in zip(log.offsets_at(stream.topic, complete_from_us), first, strict=True)
        ]
    if not any(offsets):
        complete_from_us = NO_HORIZON
    return Start(topic.id, dict(enumerate(offsets)), complete_from_us)
