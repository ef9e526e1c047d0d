"""A shard: one partition of the exchange, with the rows of all views whose keys hash to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import StateError
from headwater.kernels.rows import NO_HORIZON
from headwater.plan.stamp import STATE_FORMAT
from headwater.state.group import Group, Values
from headwater.state.lane import parts_of
from headwater.state.loading import Loading, Stretch
from headwater.state.store import Mark

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from headwater.plan.plan import Plan
    from headwater.state.group import Blobs
    from headwater.state.keys import Keys
    from headwater.state.memory import Memory
    from headwater.state.store import Store, Stores

__all__ = ["Checkpoint", "Shard"]


class Checkpoint:
    """Rows and mark of a shard at one exchange offset, copied out and not yet written."""

    __slots__ = ("epoch", "mark", "rows")

    def __init__(self, mark: Mark, epoch: int, rows: list[tuple[str, Blobs]]) -> None:
        self.mark = mark
        self.epoch = epoch
        self.rows = rows


class Shard:
    """Rows of every view in one shard, and how far each lane has been applied."""

    def __init__(
        self,
        plan: Plan,
        memory: Memory,
        *,
        namespace: str,
        number: int,
        shards: int,
        exchange_id: str,
        read_back_us: int | None,
        stores: Stores,
    ) -> None:
        self.plan = plan
        self.memory = memory
        self.namespace = namespace
        self.number = number
        self.shards = shards
        self.exchange_id = exchange_id
        self.read_back_us = read_back_us
        self.groups = {one.id: Group(one, memory) for one in plan.views.values()}
        # Views that this state has never seen: nobody has said yet where their past ends.
        self.unbuilt: set[str] = set()
        # Views whose past is on its way, by id; nobody may read them yet.
        self.loading: dict[str, Loading] = {}
        # While a hole is being filled the rows are those of no single exchange offset.
        self.filling = False
        self.applied: dict[str, int] = {}
        self.next_offset = 0
        self.newest_us = NO_HORIZON
        self.horizon_us = NO_HORIZON
        self.epoch = 1
        self.persisted_epoch = 0
        self.events_since_checkpoint = 0
        # Whether there is more to write down than the exchange offset tells.
        self.unsaved = False
        self._stores = stores
        self._store: Store | None = None
        self._closed = False
        if stores.exists(number):
            try:
                self._resume()
            except BaseException:
                self.close()
                raise

    def _resume(self) -> None:
        mark = self.store.mark()
        if mark is None:
            return
        self._check(mark)
        self.unbuilt = set(self.groups.keys() - mark.seen)
        self.loading = {v: mark.loading[v] for v in self.groups if v in mark.loading}
        # What has left the plan frees its space, and begins anew should it come back.
        self.remove(self.unbuilt | (mark.seen - self.groups.keys()))
        self.applied = self._of_plan(mark.applied)
        # On an exchange that was made again the lanes go on as they were, from its first record.
        self.next_offset = mark.next_offset if mark.exchange_id == self.exchange_id else 0
        self.horizon_us = mark.horizon_us

    def _of_plan(self, applied: Mapping[str, int]) -> dict[str, int]:
        """Return the lanes that the plan has a use for.

        Nothing is sent by the others: one that comes back begins anew, and with it its views.
        """
        known = {binding.id for binding in self.plan.bindings}
        return {lane: at for lane, at in applied.items() if parts_of(lane)[1] in known}

    def adopt(self, plan: Plan) -> set[str]:
        """Take on another plan in memory; return the views that have left, still on disk.

        The caller holds the memory's lock between two batches, with no checkpoint in flight, and
        calls `remove` with what is returned before another plan is adopted.
        """
        gone = self.groups.keys() - plan.views.keys()
        for view_id in gone:
            self.groups.pop(view_id).free()
            self.loading.pop(view_id, None)
        new = plan.views.keys() - self.groups.keys()
        self.groups |= {view_id: Group(plan.views[view_id], self.memory) for view_id in new}
        self.unbuilt = (self.unbuilt - gone) | new
        self.plan = plan
        self.applied = self._of_plan(self.applied)
        self.unsaved = True
        return gone

    def remove(self, view_ids: Collection[str]) -> None:
        """Remove views from disk: first from the mark, durably, and then their rows.

        A crash in between leaves rows that nobody reads.
        """
        if not view_ids or not (self.has_store or self._stores.exists(self.number)):
            return
        mark = self.store.mark()
        if mark is not None and not mark.seen.isdisjoint(view_ids):
            self.store.write(mark.without(view_ids), [])
            self.store.flush()
        for view_id in view_ids:
            self.store.delete_view(view_id)

    def _check(self, mark: Mark) -> None:
        where = f"state folder {self.store.path}"
        if mark.format != STATE_FORMAT:
            msg = (
                f"{where} has format {mark.format}, this version reads {STATE_FORMAT}; remove it"
                " to rebuild"
            )
            raise StateError(msg)
        if mark.stamp != str(self.plan.stamp):
            msg = (
                f"{where} was written by another engine ({mark.stamp}; this one is"
                f" {self.plan.stamp});"
                " go back to that one, or remove the folder to rebuild from history"
            )
            raise StateError(msg)
        if (mark.namespace, mark.shard, mark.shards) != (self.namespace, self.number, self.shards):
            msg = (
                f"{where} belongs to shard {mark.shard} of {mark.shards} in namespace"
                f' "{mark.namespace}",'
                f' not {self.number} of {self.shards} in "{self.namespace}"; use another folder'
            )
            raise StateError(msg)
        now = {one.id: one.fingerprint for one in self.plan.views.values()}
        before = {v: one.fingerprint for v, one in mark.loading.items()} | mark.views
        for view_id, fingerprint in before.items():
            if now.get(view_id, fingerprint) != fingerprint:
                name, version = view_id.split("@")
                msg = (
                    f'view "{name}" version {version} has changed since {where} was written; undo'
                    f" the change or give it version={int(version) + 1}"
                )
                raise StateError(msg)

    @property
    def store(self) -> Store:
        """The shard's RocksDB, opened when first needed."""
        if self._store is None:
            assert not self._closed, "a shard's store was asked for after its end"
            self._store = self._stores.open(self.number)
        return self._store

    @property
    def has_store(self) -> bool:
        """Whether anything may be on disk."""
        return self._store is not None

    def fetch(self, view_id: str, keys: Keys, slots: NDArray[np.int32]) -> dict[bytes, bytes]:
        """Return the rows of keys that are on disk and not in memory, where `slots` has them."""
        absent = self.groups[view_id].missing(keys, slots) if self.has_store else []
        found = self.store.get_many(view_id, absent) if absent else []
        return {key: blob for key, blob in zip(absent, found, strict=True) if blob is not None}

    def apply(
        self,
        view_id: str,
        keys: Keys,
        events: NDArray[np.uint64],
        fetched: Mapping[bytes, bytes],
    ) -> None:
        """Fold events into a view's rows; `fetched` are those of them that were only on disk."""
        group = self.groups[view_id]
        group.load(list(fetched), list(fetched.values()), self.epoch)
        group.apply(keys, events, self.horizon_us, self.epoch)
        self.events_since_checkpoint += len(keys)

    def advance(self, next_offset: int, newest_us: int) -> None:
        """Note that the exchange is applied below `next_offset` and move the horizon along."""
        self.next_offset = max(self.next_offset, next_offset)
        self.newest_us = max(self.newest_us, newest_us)
        if self.read_back_us is not None and self.newest_us > NO_HORIZON:
            self.horizon_us = max(self.horizon_us, self.newest_us - self.read_back_us)

    def read(self, view_id: str, keys: Keys, times: NDArray[np.int64]) -> Values:
        """Return a view's features for keys at `times`, from memory or else from disk."""
        group = self.groups[view_id]
        values = group.read(keys, times)
        absent = np.flatnonzero(~values.found) if self.has_store else np.empty(0, np.int64)
        if len(absent):
            found = self.store.get_many(view_id, keys.take(absent).to_list())
            known = [i for i, blob in enumerate(found) if blob is not None]
            if known:
                rows = absent[known]
                cold = group.read_blobs([b for b in found if b is not None], times[rows])
                values.bits[rows] = cold.bits
                values.valid[rows] = cold.valid
                values.found[rows] = True
        return values

    def begin_loading(self, view_id: str, lanes: Mapping[str, Stretch]) -> None:
        """Let the past of a view come, whose lanes lack these stretches; none is all there.

        A lane that nothing was applied of is waited for: where its past ends is said by
        `begin_lane`.
        """
        self.unbuilt.discard(view_id)
        self.loading[view_id] = Loading(self.groups[view_id].view.fingerprint, dict(lanes))
        self._check_loaded(view_id)

    def waits_for(self, lane: str) -> bool:
        """Whether the first record of a lane will say where the past of its views ends."""
        return lane not in self.applied and any(
            lane in loading.lanes for loading in self.loading.values()
        )

    def begin_lane(self, lane: str, offset: int) -> None:
        """Let a lane that was waited for come live above an offset; up to there it is history."""
        self.applied[lane] = offset
        for view_id, loading in list(self.loading.items()):
            if lane in loading.lanes:
                loading.lanes[lane].seam = offset
                self._check_loaded(view_id)

    def loaded(self, view_id: str, lane: str, cursor: int) -> None:
        """Note how far a lane's past has come; with the last of it the view can be read."""
        self.loading[view_id].lanes[lane].cursor = cursor
        self._check_loaded(view_id)

    def forgo(self, view_id: str, lane: str) -> None:
        """Do without the rest of a lane's past."""
        del self.loading[view_id].lanes[lane]
        self._check_loaded(view_id)

    def _check_loaded(self, view_id: str) -> None:
        self.unsaved = True
        loading = self.loading[view_id]
        if not loading.left and loading.lanes.keys() <= self.applied.keys():
            del self.loading[view_id]

    def begin_checkpoint(self) -> Checkpoint:
        """Copy out every row changed since the last finished checkpoint, and the mark."""
        mark = Mark(
            format=STATE_FORMAT,
            stamp=str(self.plan.stamp),
            namespace=self.namespace,
            shard=self.number,
            shards=self.shards,
            next_offset=self.next_offset,
            applied=dict(self.applied),
            horizon_us=self.horizon_us,
            views={
                one.id: one.fingerprint
                for one in self.plan.views.values()
                if one.id not in self.unbuilt and one.id not in self.loading
            },
            exchange_id=self.exchange_id,
            loading={view_id: one.copy() for view_id, one in self.loading.items()},
        )
        rows: list[tuple[str, Blobs]] = [
            (view_id, group.copy(group.dirty(self.persisted_epoch)))
            for view_id, group in self.groups.items()
        ]
        checkpoint = Checkpoint(mark, self.epoch, rows)
        self.epoch += 1
        self.events_since_checkpoint = 0
        self.unsaved = False
        return checkpoint

    def write_checkpoint(self, checkpoint: Checkpoint, *, flush: bool = False) -> int:
        """Write a checkpoint; its rows are clean from then on. Returns the bytes of the rows."""
        size = self.store.write(checkpoint.mark, checkpoint.rows)
        if flush:
            self.store.flush()
        self.persisted_epoch = checkpoint.epoch
        return size

    def close(self) -> None:
        """Close the store, if it was opened, and forget the rows in memory."""
        self._closed = True
        for group in self.groups.values():
            group.clear()
        if self._store is not None:
            self._store.close()
            self._store = None
