"""The shards of a worker: opened when they come, checkpointed and closed when they go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.flow.pipeline import Tick
from headwater.logs import get_logger
from headwater_connectors.log.log import LogUnreachableError, NotAMemberError

if TYPE_CHECKING:
    from headwater.flow.backfill import Backfill
    from headwater.flow.checkpoints import Checkpoints
    from headwater.flow.freshness import Freshness
    from headwater.flow.pipeline import Batches
    from headwater.flow.shard_opener import ShardOpener
    from headwater.state.memory import Memory
    from headwater.state.shard import Shard
    from headwater_connectors.log.log import Consumer, Topic

__all__ = ["Shards"]

_log = get_logger(__name__)

_COMMIT_EVERY_US = 2_000_000


class Shards:
    """The partitions of the exchange that this worker has, and the shards behind them.

    `held` changes under the memory's lock, so that a reader sees a shard whole or not at all.
    """

    def __init__(
        self,
        held: dict[int, Shard],
        opener: ShardOpener,
        memory: Memory,
        *,
        exchange: Topic,
        consumer: Consumer,
        checkpoints: Checkpoints,
        backfill: Backfill,
        freshness: Freshness | None,
    ) -> None:
        self.held = held
        self._opener = opener
        self._memory = memory
        self._exchange = exchange
        self._consumer = consumer
        self._checkpoints = checkpoints
        self._backfill = backfill
        self._freshness = freshness
        self._committed: dict[int, int] = {}
        self._committed_at_us = 0

    def assigned(self, partitions: list[int]) -> dict[int, int]:
        """Open shards and return where each goes on."""
        opened = self._opener.open([number for number in partitions if number not in self.held])
        self._backfill.begin(opened)
        with self._memory.lock:
            self.held.update({shard.number: shard for shard in opened})
        shards = [self.held[number] for number in partitions]
        if self._freshness is not None:
            for shard in opened:
                self._freshness.opened(shard.number)
        return self._opener.first_offsets(shards)

    def revoked(self, partitions: list[int], *, lost: bool) -> None:
        """Write last checkpoints, unless another worker has the shards already, and close them."""
        if not lost:
            self._checkpoints.release([self.held[number] for number in partitions])
            self._commit({number: self.held[number].next_offset for number in partitions})
        self._checkpoints.wait()
        with self._memory.lock:
            for number in partitions:
                self.held.pop(number).close()
        for number in partitions:
            self._committed.pop(number, None)
            if self._freshness is not None:
                self._freshness.closed(number)

    def commit(self, batches: Batches) -> Batches:
        """Tell the group now and then how far the shards are, for those who watch its lag."""
        for tick in batches:
            if isinstance(tick, Tick):
                if abs(tick.now_us - self._committed_at_us) < _COMMIT_EVERY_US:
                    continue
                self._committed_at_us = tick.now_us
                now = {number: shard.next_offset for number, shard in self.held.items()}
                changed = {n: at for n, at in now.items() if self._committed.get(n) != at}
                if changed:
                    self._commit(changed)
        return batches

    def _commit(self, offsets: dict[int, int]) -> None:
        try:
            self._consumer.commit(self._exchange.name, offsets)
        except (LogUnreachableError, NotAMemberError) as error:
            # Checkpoints say where to go on.
            _log.warning("commit_failed", topic=self._exchange.name, reason=str(error))
        else:
            self._committed.update(offsets)
