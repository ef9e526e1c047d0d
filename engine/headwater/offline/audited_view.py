"""One view of an audit: its features for many vectors, each from the events it was made of."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import HeadwaterError, NotFoundError
from headwater.flow.answer import Status
from headwater.flow.completeness import incomplete_features
from headwater.flow.shard_reads import shards_of
from headwater.kernels.rows import FOREVER
from headwater.offline.applied_order import AppliedOrder
from headwater.offline.buckets import MEMORY_BUDGET_BYTES, Sight
from headwater.offline.sources import LogEvents, WholeHistory
from headwater.offline.training_set import view_values
from headwater.state.events import feature_columns
from headwater.state.group import Values
from headwater.state.lane import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    import polars as pl
    from numpy.typing import NDArray

    from headwater.definitions.stream import Stream
    from headwater.flow.samples import Asked
    from headwater.flow.starts import Start
    from headwater.offline.applied_order import State
    from headwater.offline.sources import EventSource
    from headwater.plan.plan import Plan, ViewPlan
    from headwater.state.keys import Keys
    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.formats.schema_registry import RegistrySettings
    from headwater_connectors.log.log import Log

__all__ = ["History", "Reasons", "Rows", "ViewAgain", "view_again"]

_UNREAD = "nobody could be asked for the row, so it has no value"
_WARMING = "the view's past was still on its way, so it has no value"
_ANEW = 'stream "{}" was made again since'
_FORGOTTEN = 'history of stream "{}" does not reach back to the beginning of the window any more'


class Reasons:
    """Why values can't be compared, numbered from 1."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Return the number of a reason."""
        return self._numbers.setdefault(text, len(self._numbers) + 1)

    def text(self, number: int) -> str:
        """Return the reason of a number."""
        return list(self._numbers)[number - 1]


@dataclass(frozen=True, slots=True)
class History:
    """What vectors are computed from again.

    `forgotten_us` has, by topic, the event time up to which events may be gone.
    """

    source: EventSource
    topic_ids: Mapping[str, str]
    forgotten_us: Mapping[str, int]
    memory_budget_bytes: int

    @classmethod
    def of(
        cls,
        plan: Plan,
        archive: Archive | None,
        log: Log,
        starts: Mapping[str, Start],
        namespace: str,
        *,
        memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
        registry: RegistrySettings | None = None,
    ) -> Self:
        """Return the history of a plan's streams: the archive and, above its end, the log."""
        for topic in plan.streams.keys() - starts.keys():
            msg = (
                f'stream "{topic}" has not begun here: nothing was served from it; audit by the'
                " definitions that are applied"
            )
            raise NotFoundError(msg)
        ids = {topic: log.topic(topic).id for topic in plan.streams}
        if archive is None:
            tail = LogEvents(log, starts, namespace, registry=registry)
            return cls(tail, ids, {}, memory_budget_bytes)
        source = WholeHistory(plan.streams, archive, log, starts, namespace, registry=registry)
        # After the snapshot of the archive is taken: what is dropped from then on, it refuses.
        forgotten = {
            topic: _forgotten_us(archive, stream, ids[topic], log, starts[topic])
            for topic, stream in plan.streams.items()
        }
        known = {topic: us for topic, us in forgotten.items() if us is not None}
        return cls(source, ids, known, memory_budget_bytes)


def _forgotten_us(
    archive: Archive, stream: Stream, topic_id: str, log: Log, start: Start
) -> int | None:
    """Return the event time up to which a stream's events may be gone, None if all are there."""
    found = None
    for partition in range(log.topic(stream.topic).partitions):
        begins = archive.beginning(stream.topic, topic_id, partition)
        if begins is None or begins.after_offset < start.position(partition):
            continue
        # No event has a time later than its arrival and the skew that is allowed. Where it wasn't
        # retention that dropped events, nobody knows of when they were.
        dropped_us = begins.dropped_us
        last_us = FOREVER if dropped_us is None else dropped_us + stream.skew_us
        found = last_us if found is None else max(found, last_us)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows (n) to compute again: their keys, and the requests that asked for them, in order."""

    keys: Keys
    asked: Sequence[Asked]
    shard_count: int

    @property
    def times(self) -> NDArray[np.int64]:
        """The read times (n, µs)."""
        each = [one.t_us for one in self.asked], [one.rows for one in self.asked]
        return np.repeat(np.array(each[0], np.int64), each[1])


@dataclass(frozen=True, slots=True, eq=False)
class ViewAgain:
    """A view's columns (n rows) and statuses (features, n), PRESENT, NULL or WARMING.

    `why_not` (features, n) is 0 where they must have been served so, else the number of a reason;
    `void` (n) says where no value can have been served.
    """

    columns: list[pl.Series]
    statuses: NDArray[np.uint8]
    why_not: NDArray[np.int16]
    void: NDArray[np.bool_]

    def part(self, first: int, last: int) -> ViewAgain:
        """Return the rows `[first, last)`."""
        return ViewAgain(
            [one[first:last] for one in self.columns],
            self.statuses[:, first:last],
            self.why_not[:, first:last],
            self.void[first:last],
        )


def view_again(
    view: ViewPlan,
    rows: Rows,
    complete_from_us: int,
    history: History,
    reasons: Reasons,
    advance: Callable[[int], None],
) -> ViewAgain:
    """Return what a view must have had for rows, from the events that their shards had applied."""
    topic_id = history.topic_ids[view.stream.topic]
    places, why_not, void = _placed(view, rows, topic_id, reasons)
    width, times = len(view.feature_names), rows.times
    values = Values(len(times), width)
    try:
        _compute(view, rows, places, history, values, advance)
    except HeadwaterError as error:
        why_not[why_not == 0] = reasons.number(" ".join(str(error).split()))
    by_feature = np.repeat(why_not[np.newaxis], width, axis=0)
    statuses = np.where(values.valid.T == 1, Status.PRESENT, Status.NULL).astype(np.uint8)
    forgotten_us = history.forgotten_us.get(view.stream.topic)
    for t_us in np.unique(times).tolist():
        at = np.flatnonzero(times == t_us)
        warming = np.flatnonzero(incomplete_features(view, t_us, complete_from_us))
        statuses[np.ix_(warming, at)] = Status.WARMING
        if forgotten_us is not None:
            lost = np.flatnonzero(incomplete_features(view, t_us, forgotten_us + 1))
            cells = by_feature[np.ix_(lost, at)]
            cells[cells == 0] = reasons.number(_FORGOTTEN.format(view.stream.topic))
            by_feature[np.ix_(lost, at)] = cells
    columns = feature_columns(view.layout, view.feature_names, values)
    return ViewAgain(columns, statuses, by_feature, void)


def _placed(
    view: ViewPlan, rows: Rows, topic_id: str, reasons: Reasons
) -> tuple[list[tuple[int, State] | None], NDArray[np.int16], NDArray[np.bool_]]:
    """Return shard and state of each row (n), or None and why not (n), and which are void (n)."""
    shards = shards_of(rows.keys, rows.shard_count).tolist()
    places: list[tuple[int, State] | None] = []
    why_not, void = np.zeros(len(shards), np.int16), np.zeros(len(shards), np.bool_)
    for one in rows.asked:
        states = {shard: _state(view, made_of.applied) for shard, made_of in one.shards.items()}
        for shard in shards[len(places) : len(places) + one.rows]:
            row, state = len(places), states.get(shard, ())
            if shard not in states or view.id in one.shards[shard].loading:
                why_not[row] = reasons.number(_WARMING if shard in states else _UNREAD)
                void[row] = True
            elif any(parts_of(lane)[0] != topic_id for lane, _ in state):
                why_not[row] = reasons.number(_ANEW.format(view.stream.topic))
            places.append(None if why_not[row] else (shard, state))
    return places, why_not, void


def _state(view: ViewPlan, applied: Mapping[str, int]) -> State:
    """Return what of a shard's lanes brings the view's events."""
    ours = (one for one in applied.items() if parts_of(one[0])[1] == view.binding.id)
    return tuple(sorted(ours))


def _compute(
    view: ViewPlan,
    rows: Rows,
    places: Sequence[tuple[int, State] | None],
    history: History,
    values: Values,
    advance: Callable[[int], None],
) -> None:
    """Write the features of the rows that have a place; history is read once for each chain."""
    order = AppliedOrder((one for one in places if one is not None), rows.shard_count)
    times = rows.times
    by_pass: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, one in enumerate(places):
        if one is not None:
            number, rank = order.place(*one)
            by_pass[number].append((row, rank))
    for number, found in by_pass.items():
        table = np.array(found, np.int64)
        at, seen = table[:, 0], table[:, 1] + 1
        part = view_values(
            view,
            rows.keys.take(at),
            times[at],
            Sight(seen, order.visible(number), ages=False),
            history.source,
            history.memory_budget_bytes,
            advance,
        )
        values.bits[at] = part.bits
        values.valid[at] = part.valid
        values.found[at] = part.found
