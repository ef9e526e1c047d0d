"""The order of the states that a shard was in: which of them had come to hold which event.

A state is the last source offset applied of each lane. A shard goes from one to the next and never
back, so the states it was read in form a chain, each at or above the one before in every lane. The
first state of a chain that reaches an event's offset brought it. States of several writers need not
be one chain (a shard that was rebuilt may have gone another way): then there are several, and one
pass over history for each.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.keys import shard_of
from headwater.state.events import POSITION_BITS
from headwater.state.lane import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from headwater.offline.buckets import Arrived

__all__ = ["AppliedOrder", "State"]

State = tuple[tuple[str, int], ...]
"""(lane, last source offset applied) of the lanes of one binding, in the order of their names."""

_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class _Chain:
    """Of each source partition, what was reached in each state of a chain (k), ascending."""

    reached: Mapping[int, NDArray[np.int64]]


class AppliedOrder:
    """States of shards, by chain; `passes` is how many chains the shard with the most has.

    All lanes of a state are of one topic and binding.
    """

    def __init__(self, states: Iterable[tuple[int, State]], shards: int) -> None:
        self._shards = shards
        self._chains: list[dict[int, _Chain]] = []
        self._places: dict[tuple[int, State], tuple[int, int]] = {}
        by_shard: dict[int, set[State]] = defaultdict(set)
        for shard, state in states:
            by_shard[shard].add(state)
        for shard, found in by_shard.items():
            self._add(shard, sorted(found))

    def _add(self, shard: int, states: list[State]) -> None:
        lanes = sorted({lane for state in states for lane, _ in state})
        # A lane that a state lacks had brought nothing yet.
        rows = [[at.get(lane, -1) for lane in lanes] for at in map(dict, states)]
        table = np.array(rows, np.int64).reshape(len(states), len(lanes))
        chains: list[list[int]] = []
        for row in np.argsort(table.sum(axis=1), kind="stable").tolist():
            for chain in chains:
                if (table[chain[-1]] <= table[row]).all():
                    break
            else:
                chain = []
                chains.append(chain)
            chain.append(row)
        for number, chain in enumerate(chains):
            if number == len(self._chains):
                self._chains.append({})
            partitions = [parts_of(lane)[2] for lane in lanes]
            columns = (np.ascontiguousarray(one) for one in table[chain].T)
            self._chains[number][shard] = _Chain(dict(zip(partitions, columns, strict=True)))
            for rank, row in enumerate(chain):
                self._places[shard, states[row]] = (number, rank)

    @property
    def passes(self) -> int:
        """How many times history has to be read."""
        return len(self._chains)

    def place(self, shard: int, state: State) -> tuple[int, int]:
        """Return in which pass a state is, and its rank in there: it sees what is visible to it.

        An event is visible from a rank on, see `visible`.
        """
        return self._places[shard, state]

    def visible(self, number: int) -> Callable[[Arrived], NDArray[np.int64]]:
        """Return what gives the rank in a pass from which on each event (n) is visible."""
        chains = self._chains[number]

        def rank_of(events: Arrived) -> NDArray[np.int64]:
            shards = np.empty(len(events.hashes), np.int32)
            shard_of(events.hashes, self._shards, shards)
            partitions = events.positions >> POSITION_BITS
            offsets = events.positions & ((1 << POSITION_BITS) - 1)
            result = np.full(len(shards), _NEVER, np.int64)
            for partition in np.unique(partitions).tolist():
                for shard, chain in chains.items():
                    reached = chain.reached.get(partition)
                    if reached is not None:
                        rows = np.flatnonzero((shards == shard) & (partitions == partition))
                        result[rows] = np.searchsorted(reached, offsets[rows], side="left")
            return result

        return rank_of
