"""Checkpoints: when they start, who writes them, and what they allow the exchange to forget."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from headwater.errors import HeadwaterError
from headwater.flow.metrics import Series
from headwater.logs import get_logger
from headwater.state.eviction import make_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from headwater.flow.checkpoint_store import CheckpointStore
    from headwater.flow.metrics import Metrics
    from headwater.flow.pipeline import Tick
    from headwater.flow.settings import WorkerSettings
    from headwater.state.memory import Memory
    from headwater.state.shard import Checkpoint, Shard

__all__ = ["Checkpoints"]

_log = get_logger(__name__)


def late_events(shards: Iterable[Shard]) -> Counter[str]:
    """Return how many events of each view came too late for every window."""
    found: Counter[str] = Counter()
    for shard in shards:
        for view_id, group in shard.groups.items():
            found[view_id] += group.late_events
    return found


class Checkpoints:
    """Copies dirty rows out between batches and writes them on a thread of its own."""

    def __init__(
        self,
        shards: Mapping[int, Shard],
        memory: Memory,
        settings: WorkerSettings,
        metrics: Metrics,
        *,
        durable: bool,
        forget: Callable[[int, int], None],
        stored: CheckpointStore | None = None,
        exchange_id: str = "",
    ) -> None:
        self._shards = shards
        self._memory = memory
        self._settings = settings
        self._metrics = metrics
        self._late_rows = Series(metrics.late_rows)
        self._durable = durable
        self._forget = forget
        self._stored = stored
        self._exchange_id = exchange_id
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._started_us: int | None = None
        self._written_at: dict[int, int] = {}
        self._stored_at_us: dict[int, int] = {}

    def __call__(self, tick: Tick) -> None:
        """Start a checkpoint when one is due; make room when memory is over its budget."""
        late = late_events(self._shards.values())
        self._late_rows.set({(view_id,): events for view_id, events in late.items()})
        if self.relieve():
            return
        if self._started_us is None:
            self._started_us = tick.now_us
        if not self._durable:
            self._forget_applied(tick)
            return
        if self._writing is not None:
            if not self._writing.done():
                return
            self.wait()
        rows = sum(shard.events_since_checkpoint for shard in self._shards.values())
        waited_us = tick.now_us - self._started_us
        every_us = (
            self._settings.checkpoint_every_us if rows else self._settings.checkpoint_idle_every_us
        )
        # A past that is loading changes rows by the million, most of them again and again: to read
        # a little of it once more costs less than to write them each time.
        are_many = rows >= self._settings.checkpoint_rows
        if waited_us >= every_us or (are_many and not self._is_loading):
            self.start(tick.now_us)

    @property
    def _is_loading(self) -> bool:
        return any(shard.loading for shard in self._shards.values())

    def relieve(self) -> bool:
        """Make room when memory is over its budget; return whether it was."""
        tables = sum(g.overhead_bytes for s in self._shards.values() for g in s.groups.values())
        self._metrics.state_bytes.labels("arena").set(self._memory.used_bytes)
        self._metrics.state_bytes.labels("tables").set(tables)
        if self._memory.reserved_bytes + tables <= self._memory.budget_bytes:
            return False
        self.make_room()
        return True

    def make_room(self) -> None:
        """Write every change down and empty memory of what wasn't used lately.

        The caller is the one that changes rows, and what it has applied is what its shards say.
        """
        self.wait()
        written = make_room(self._memory, self._shards.values())
        self._metrics.checkpoint_bytes.inc(written)

    def _forget_applied(self, tick: Tick) -> None:
        """Without stores to go on from nothing is ever replayed: what is applied can go."""
        assert self._started_us is not None
        if tick.now_us - self._started_us >= self._settings.checkpoint_every_us:
            self._started_us = tick.now_us
            for shard in self._shards.values():
                self._forget(shard.number, shard.next_offset)

    def start(self, now_us: int) -> None:
        """Copy what changed in every shard and hand it to the writer."""
        self.wait()
        self._started_us = now_us
        with self._memory.lock:
            taken = [
                (shard, shard.begin_checkpoint())
                for shard in self._shards.values()
                if shard.unsaved or shard.next_offset > self._written_at.get(shard.number, -1)
            ]
        self._writing = self._executor.submit(self._write, taken, now_us)

    def release(self, shards: list[Shard]) -> None:
        """Write last checkpoints of shards that go to another worker, where it finds them."""
        self.wait()
        if not self._durable:
            return
        with self._memory.lock:
            taken = [(shard, shard.begin_checkpoint()) for shard in shards]
        for shard in shards:
            self._stored_at_us.pop(shard.number, None)
        self._write(taken, self._started_us or 0)
        for shard in shards:
            self._written_at.pop(shard.number, None)
            self._stored_at_us.pop(shard.number, None)

    def _write(self, taken: list[tuple[Shard, Checkpoint]], now_us: int) -> None:
        began = time.perf_counter()
        for shard, checkpoint in taken:
            # Flushed, so that no crash goes back to before what the exchange then forgets.
            self._metrics.checkpoint_bytes.inc(shard.write_checkpoint(checkpoint, flush=True))
            self._written_at[shard.number] = checkpoint.mark.next_offset
        self._metrics.checkpoint_seconds.observe(time.perf_counter() - began)
        self._metrics.checkpoint_time.set(now_us / 1_000_000)
        for shard, checkpoint in taken:
            if self._stored is None:
                self._forget(shard.number, checkpoint.mark.next_offset)
            else:
                self._store(self._stored, shard, checkpoint, now_us)

    def _store(
        self, stored: CheckpointStore, shard: Shard, checkpoint: Checkpoint, now_us: int
    ) -> None:
        """Keep a checkpoint where other workers find it, now and then."""
        last_us = self._stored_at_us.get(shard.number)
        if last_us is not None and now_us - last_us < self._settings.store_checkpoint_every_us:
            return
        number, mark = shard.number, checkpoint.mark
        try:
            sent = stored.save(number, shard.store, mark, exchange_id=self._exchange_id)
            stored.prune(number, exchange_id=self._exchange_id)
            kept = stored.candidates(number, exchange_id=self._exchange_id)
        except HeadwaterError as error:
            # The exchange keeps what the last stored checkpoint needs, so nothing is lost.
            self._metrics.store_failures.inc()
            _log.warning("checkpoint_not_stored", shard=number, reason=str(error))
            return
        self._stored_at_us[number] = now_us
        self._metrics.stored_bytes.inc(sent)
        if kept:
            self._forget(number, min(one.next_offset for one in kept))

    def wait(self) -> None:
        """Wait for the checkpoint being written, if any, and raise what it raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def abandon(self) -> None:
        """Wait for what is being written, whatever comes of it, and write nothing more."""
        self._executor.shutdown()

    def close(self, now_us: int) -> None:
        """Write a last checkpoint and flush, so that nothing is replayed at the next start."""
        try:
            self.wait()
            if self._durable:
                self.start(now_us)
                self.wait()
        finally:
            self._executor.shutdown()
