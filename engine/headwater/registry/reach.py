"""How far the history of a stream reaches: what a new view is built from, and what it will lack."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from headwater.flow.size_text import size_text
from headwater.kernels.rows import NO_HORIZON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headwater.definitions.window import Window
    from headwater.flow.starts import Start
    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.log.log import Log, Records

__all__ = ["Reach", "reach_of", "window_sentences"]

_SAMPLE_RECORDS = 1_000
_SAMPLE_TIMEOUT_S = 1.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Reach:
    """What there is of a stream: about so many events and stored bytes.

    `begins_us` is the arrival from which on nothing is missing, None where nothing ever was.
    """

    stream: str
    events: int
    size_bytes: int
    begins_us: int | None

    def sentences(self, windows: Sequence[Window], now_us: int) -> tuple[str, ...]:
        """Say what a view with these windows is built from, and what it lacks."""
        events = f"{self.events:,} event{'' if self.events == 1 else 's'}"
        read = f"reads {events} of {self.stream}, about {size_text(self.size_bytes)}"
        if self.begins_us is None:
            return (read,)
        return (read, *window_sentences(windows, self.begins_us, now_us))


def window_sentences(windows: Sequence[Window], begins_us: int, now_us: int) -> tuple[str, ...]:
    """Say when windows are complete where history begins at an instant; none if all are."""
    late = [
        (window.name, begins_us + window.width_us)
        for window in windows
        if window.width_us is not None and begins_us + window.width_us > now_us
    ]
    never = [window.name for window in windows if window.width_us is None]
    if not late and not never:
        return ()
    begins = f"history begins at {_moment(begins_us)}"
    told = [f"the {name} window is complete from {_moment(us)}" for name, us in late]
    told += [f"the {name} window lacks what came before and stays WARMING" for name in never]
    return (f"{begins}: {'; '.join(told)}",)


def reach_of(log: Log, archive: Archive | None, stream: str, start: Start, *, now_us: int) -> Reach:
    """Return how far a stream's history reaches, from where it begins, as it is now.

    Raises NotFoundError if the topic isn't there.
    """
    found = _Partitions(log, archive, stream, start, now_us)
    parts = [found.of(partition) for partition in range(log.topic(stream).partitions)]
    begins = [us for _, _, us in parts if us is not None]
    if start.complete_from_us != NO_HORIZON:
        begins.append(start.complete_from_us)
    return Reach(
        stream,
        events=sum(events for events, _, _ in parts),
        size_bytes=sum(size for _, size, _ in parts),
        begins_us=max(begins, default=None),
    )


@dataclass(frozen=True, slots=True)
class _Archived:
    """What the archive has of a partition: its offsets, rows, and the arrival it begins with."""

    begins_at: int
    begins_us: int
    below: int
    rows: int
    size_bytes: int


class _Partitions:
    """A stream's partitions, each as the archive and the log have it."""

    def __init__(
        self, log: Log, archive: Archive | None, stream: str, start: Start, now_us: int
    ) -> None:
        self._log = log
        self._now_us = now_us
        self._archive = archive
        self._stream = stream
        self._start = start
        self._firsts = log.start_offsets(stream)
        self._ends = log.end_offsets(stream)

    def of(self, partition: int) -> tuple[int, int, int | None]:
        """Return events, bytes, and the arrival of the first event if some before it are gone."""
        start, first = self._start.position(partition), self._firsts[partition]
        end = self._ends[partition]
        archived = self._archived(partition)
        tail = max(first, start, archived.below if archived else 0)
        sample = self._sample(partition, tail) if tail < end else None
        events, size = end - tail, 0
        if sample is not None and len(sample):
            size = round(sum(len(value or b"") for value in sample.values) / len(sample) * events)
        if archived:
            events, size = events + archived.rows, size + archived.size_bytes
        if archived and first <= archived.below:  # nothing is missing between the two
            is_all = archived.begins_at <= start
            return events, size, None if is_all else archived.begins_us
        if first <= start:
            return events, size, None
        # Where no record is left, history begins with the next one.
        first_us = self._now_us if sample is None else int(sample.timestamps_us[0])
        return events, size, first_us

    def _archived(self, partition: int) -> _Archived | None:
        where = (self._stream, self._start.topic_id, partition)
        if self._archive is None or (beginning := self._archive.beginning(*where)) is None:
            return None
        position = self._archive.position(*where)
        assert position is not None
        files = list(self._archive.files(*where))
        first_us = min((file.arrival_min_us for file in files), default=self._now_us)
        return _Archived(
            begins_at=beginning.after_offset + 1,
            # What retention dropped is gone up to its last arrival.
            begins_us=first_us if beginning.dropped_us is None else beginning.dropped_us,
            below=position + 1,
            rows=sum(file.rows for file in files if file.offset_max > beginning.after_offset),
            size_bytes=sum(file.size_bytes for file in files),
        )

    def _sample(self, partition: int, offset: int) -> Records | None:
        consumer = self._log.consumer(None)
        try:
            consumer.assign(self._stream, {partition: offset})
            return next(iter(consumer.poll(_SAMPLE_RECORDS, _SAMPLE_TIMEOUT_S)), None)
        finally:
            consumer.close()


def _moment(us: int) -> str:
    return f"{_EPOCH + timedelta(microseconds=us):%Y-%m-%d %H:%M:%S}Z"
