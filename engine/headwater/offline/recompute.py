"""Recomputing what was served: a vector from the log, as of the exchange offsets it names.

A shard sees the events of its entities in one order, that of its exchange records. So an answer
that names the exchange offset of each shard says exactly which events it may hold: those that a
record below that offset had brought. The headers of the exchange tell which record that was.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.errors import HeadwaterError
from headwater.flow.exchange import split
from headwater.kernels.keys import shard_of
from headwater.offline.buckets import MEMORY_BUDGET_BYTES, Arrived, Sight
from headwater.offline.training_set import service_columns, view_values
from headwater.state.events import POSITION_BITS, feature_columns
from headwater.state.keys import canonical_keys
from headwater.state.lane import lane_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from headwater.offline.sources import EventSource
    from headwater.plan.plan import Plan, ViewPlan
    from headwater_connectors.log.log import Log

__all__ = [
    "BEFORE",
    "NEVER",
    "ExchangeOrder",
    "ForgottenError",
    "Served",
    "offsets_matrix",
    "recompute",
]

# Exchange offsets of events older than the exchange, and of events that are not on it.
BEFORE = -1
NEVER = 1 << 62

_POLL_RECORDS = 16_384


class ForgottenError(HeadwaterError):
    """An answer whose exchange records are gone, or that names no offset for a shard it touched."""


@dataclass(frozen=True, slots=True)
class Served:
    """Vectors as they were asked for and answered.

    `inputs` has the join keys and request inputs of n vectors, `times` (n, µs) their read times and
    `exchange_offsets` (n, shards) what their answers name, −1 for a shard not named.
    """

    inputs: pl.DataFrame
    times: NDArray[np.int64]
    exchange_offsets: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Chain:
    """The records of one lane in one shard: their exchange offsets, and how far each came."""

    exchange_offsets: NDArray[np.int64]
    reached: NDArray[np.int64]
    begins: int  # the lane's source offset before its first record


class ExchangeOrder:
    """Which exchange record brought which source offset to which shard, from the headers alone."""

    def __init__(
        self, chains: Mapping[tuple[int, str], _Chain], starts: Sequence[int], ends: Sequence[int]
    ) -> None:
        self._chains = chains
        self.starts = np.array(starts, np.int64)
        self.ends = np.array(ends, np.int64)

    @property
    def shards(self) -> int:
        """The number of shards, which is that of the exchange's partitions."""
        return len(self.ends)

    @classmethod
    def read(cls, log: Log, exchange: str) -> ExchangeOrder:
        """Read the headers of what the exchange topic holds now."""
        starts, ends = log.start_offsets(exchange), log.end_offsets(exchange)
        found: dict[tuple[int, str], list[tuple[int, int, int]]] = defaultdict(list)
        left = {p for p, end in enumerate(ends) if end > starts[p]}
        consumer = log.consumer(None)
        try:
            consumer.assign(exchange, {shard: starts[shard] for shard in left})
            while left:
                for records in consumer.poll(_POLL_RECORDS, 1.0):
                    shard, end = records.partition, ends[records.partition]
                    for offset, value in zip(records.offsets.tolist(), records.values, strict=True):
                        if offset < end and value is not None:
                            header, _ = split(value)
                            covered = (offset, header.from_offset, header.to_offset)
                            found[shard, header.lane].append(covered)
                    if records.next_offset >= end:
                        left.discard(shard)
        finally:
            consumer.close()
        return cls({key: _chain(rows) for key, rows in found.items()}, starts, ends)

    def brought_by(self, shard: int, lane: str, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the exchange offset of the record that brought each source offset (n) of a lane.

        BEFORE where that record is older than what the exchange still holds, NEVER where none has.
        """
        chain = self._chains.get((shard, lane))
        if chain is None:
            return np.full(len(offsets), NEVER, np.int64)
        # A record that only repeats is skipped, so the first that reaches an offset brings it.
        at = np.searchsorted(chain.reached, offsets, side="left")
        brought = np.append(chain.exchange_offsets, NEVER)[at]
        return np.where(offsets <= chain.begins, np.int64(BEFORE), brought)


def _chain(rows: list[tuple[int, int, int]]) -> _Chain:
    table = np.array(rows, np.int64)
    return _Chain(table[:, 0].copy(), np.maximum.accumulate(table[:, 2]), int(table[0, 1]))


def offsets_matrix(
    answers: Sequence[tuple[Mapping[int, int], int]], shards: int
) -> NDArray[np.int64]:
    """Return (rows, shards) exchange offsets of answers, given as (offsets by shard, rows) pairs.

    A shard that an answer doesn't name is −1.
    """
    one_each = np.full((len(answers), shards), -1, np.int64)
    for i, (offsets, _) in enumerate(answers):
        for shard, offset in offsets.items():
            one_each[i, shard] = offset
    found: NDArray[np.int64] = np.repeat(one_each, [rows for _, rows in answers], axis=0)
    return found


def recompute(
    plan: Plan,
    service: str,
    served: Served,
    *,
    source: EventSource,
    order: ExchangeOrder,
    topic_ids: Mapping[str, str],
    advance: Callable[[int], None] = lambda _events: None,
) -> pl.DataFrame:
    """Return a service's features as they must have been served, one row a vector.

    Each is computed from the events that its shards had applied by then and from no other, by the
    kernels that serve. `topic_ids` are those of the streams the vectors were served from; `advance`
    is told of each batch of events. Raises ForgottenError where the exchange can't tell any more.
    """
    found = plan.service(service)
    values = {}
    for view in found.views:
        keys = canonical_keys(served.inputs.select(view.entity.key), view.entity.key)
        shards = np.empty(len(keys), np.int32)
        shard_of(keys.hashes, order.shards, shards)
        seen = served.exchange_offsets[np.arange(len(keys)), shards]
        _check(view, shards, seen, order, keys.valid)
        sight = Sight(seen, _visible(view, topic_ids[view.stream.topic], order), ages=False)
        got = view_values(view, keys, served.times, sight, source, MEMORY_BUDGET_BYTES, advance)
        values[view.view.name] = feature_columns(view.layout, view.feature_names, got)
    return pl.DataFrame(service_columns(found, served.inputs, values))


def _visible(
    view: ViewPlan, topic_id: str, order: ExchangeOrder
) -> Callable[[Arrived], NDArray[np.int64]]:
    def brought(events: Arrived) -> NDArray[np.int64]:
        shards = np.empty(len(events.hashes), np.int32)
        shard_of(events.hashes, order.shards, shards)
        partitions = events.positions >> POSITION_BITS
        offsets = events.positions & ((1 << POSITION_BITS) - 1)
        result = np.full(len(shards), NEVER, np.int64)
        for partition in np.unique(partitions).tolist():
            lane = lane_of(topic_id, view.binding.id, partition)
            for shard in range(order.shards):
                rows = np.flatnonzero((shards == shard) & (partitions == partition))
                result[rows] = order.brought_by(shard, lane, offsets[rows])
        return result

    return brought


def _check(
    view: ViewPlan,
    shards: NDArray[np.int32],
    seen: NDArray[np.int64],
    order: ExchangeOrder,
    keyed: NDArray[np.bool_],
) -> None:
    lost = np.flatnonzero(keyed & ((seen < order.starts[shards]) | (seen > order.ends[shards])))
    if not len(lost):
        return
    row = int(lost[0])
    shard = int(shards[row])
    named = f"exchange offset {seen[row]}" if seen[row] >= 0 else "no exchange offset"
    msg = (
        f'view "{view.view.name}", row {row}: the answer names {named} of shard {shard}, whose'
        f" exchange holds {order.starts[shard]} to {order.ends[shard]}; keep the exchange"
        " (keep_exchange) for as long as answers are to be recomputed"
    )
    raise ForgottenError(msg)
