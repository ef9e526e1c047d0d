"""Opening shards: each from its newest checkpoint, here or where other workers left it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.errors import StateError
from headwater.logs import get_logger
from headwater.state.lane import lane_of
from headwater.state.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater.flow.checkpoint_store import CheckpointStore
    from headwater.flow.running import CurrentPlan
    from headwater.flow.settings import WorkerSettings
    from headwater.flow.starts import Start
    from headwater.state.memory import Memory
    from headwater.state.store import Stores
    from headwater_connectors.log.log import Log, Topic

__all__ = ["ShardOpener"]

_log = get_logger(__name__)


class ShardOpener:
    """Opens shards, with the plan that runs now."""

    def __init__(
        self,
        current: CurrentPlan,
        log: Log,
        settings: WorkerSettings,
        *,
        exchange: Topic,
        starts: Mapping[str, Start],
        stores: Stores,
        memory: Memory,
        stored: CheckpointStore | None,
    ) -> None:
        self._current = current
        self._log = log
        self._settings = settings
        self._exchange = exchange
        self._starts = starts
        self._stores = stores
        self._memory = memory
        self._stored = stored

    def open(self, numbers: list[int]) -> list[Shard]:
        """Open shards, each from its newest checkpoint, or none of them.

        One that is refused leaves no other's folder locked.
        """
        opened: list[Shard] = []
        try:
            for number in numbers:
                opened.append(self._open(number))  # noqa: PERF401 - kept if one raises
            self._check_not_ahead(opened)
        except BaseException:
            for shard in opened:
                shard.close()
            raise
        return opened

    def first_offsets(self, shards: list[Shard]) -> dict[int, int]:
        """Return where each shard goes on reading the exchange.

        One whose state is older than the exchange goes on where that begins: the chain rule finds
        the hole and history fills it.
        """
        first = self._log.start_offsets(self._exchange.name)
        return {shard.number: max(shard.next_offset, first[shard.number]) for shard in shards}

    def _open(self, number: int) -> Shard:
        shard, stored = self._shard(number), self._stored
        if stored is None:
            return shard
        for candidate in stored.candidates(number, exchange_id=self._exchange.id):
            if candidate.next_offset <= shard.next_offset:
                break
            shard.close()
            try:
                stored.restore(candidate, self._stores.folder(number))
            except StateError as error:
                # Damaged or gone: an older one, or what is here, is right as well and replays more.
                _log.warning("restore_failed", shard=number, reason=str(error))
            else:
                _log.info("restored", shard=number, next_offset=candidate.next_offset)
                return self._shard(number)
            shard = self._shard(number)
        return shard

    def _shard(self, number: int) -> Shard:
        return Shard(
            self._current.plan,
            self._memory,
            namespace=self._settings.namespace,
            number=number,
            shards=self._settings.shards,
            exchange_id=self._exchange.id,
            read_back_us=self._settings.read_back_us,
            stores=self._stores,
        )

    def _check_not_ahead(self, shards: list[Shard]) -> None:
        """Refuse state that has applied more than the log holds."""
        for name in self._current.plan.streams:
            start = self._starts[name]
            ends = self._log.end_offsets(name)
            for binding in self._current.plan.bindings_of(name):
                for partition, end in enumerate(ends):
                    lane = lane_of(start.topic_id, binding.id, partition)
                    for shard in shards:
                        if shard.applied.get(lane, -1) >= end:
                            msg = (
                                f'stream "{name}": the state of shard {shard.number} is ahead of'
                                f" the log, which ends at offset {end} of partition"
                                f" {partition}; the log has lost its end (a power failure?): remove"
                                " the folders state and archive to rebuild them from the log"
                            )
                            raise StateError(msg)
