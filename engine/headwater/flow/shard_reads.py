"""Reads of the shards in this process: rows of several views in one hold, and how good they are."""

from __future__ import annotations

import enum
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from headwater.errors import HeadwaterError
from headwater.flow.answer import PlanChangedError
from headwater.flow.provenance import ShardProvenance
from headwater.kernels.keys import partition_rows, shard_of
from headwater.state.group import Group, Values
from headwater.state.keys import Keys
from headwater.state.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from headwater.flow.freshness import Guard
    from headwater.flow.running import CurrentPlan
    from headwater.plan.plan import Plan, ViewPlan
    from headwater.state.shard import Shard

__all__ = [
    "EntityRows",
    "NotOwnerError",
    "RowFlag",
    "RowsAnswer",
    "ShardReads",
    "ViewRows",
    "shards_of",
]

_SCRATCH_BYTES = 1 << 20


class NotOwnerError(HeadwaterError):
    """A shard that is asked for isn't in this process: another worker has it, or nobody yet."""


class RowFlag(enum.IntFlag):
    """What stands against a row's values; the numbers are those of the wire contract."""

    TOO_OLD = 1  # the read time lies before the horizon; without values
    STALE = 2  # as of earlier than is allowed, or of no single moment
    UNREAD = 4  # nobody could be asked; without values, and STALE too
    WARMING = 8  # the view's past is still on its way; without values


@dataclass(frozen=True, slots=True)
class EntityRows:
    """Keys of one entity, and the ids of the views to read for each of them."""

    keys: Keys
    view_ids: tuple[str, ...]

    def take(self, rows: NDArray[np.int64]) -> EntityRows:
        """Return these rows (int64) only."""
        return EntityRows(self.keys.take(rows), self.view_ids)


@dataclass(frozen=True, slots=True, eq=False)
class ViewRows:
    """What one view has for n keys: `values`, and `flags` (n, uint8) of `RowFlag`."""

    values: Values
    flags: NDArray[np.uint8]

    @classmethod
    def unread(cls, rows: int, features: int) -> Self:
        """Return rows that nobody could be asked for."""
        flags = np.full(rows, RowFlag.UNREAD | RowFlag.STALE, np.uint8)
        return cls(Values(rows, features), flags)

    def put(self, rows: NDArray[np.int64], part: ViewRows) -> None:
        """Put a part's rows where they belong."""
        self.values.bits[rows] = part.values.bits
        self.values.valid[rows] = part.values.valid
        self.values.found[rows] = part.values.found
        self.flags[rows] = part.flags


@dataclass(frozen=True, slots=True)
class RowsAnswer:
    """Rows by view id, and the next exchange offset of each shard that was read.

    `provenance` says by shard what the rows are made of, where that was asked for.
    """

    views: Mapping[str, ViewRows]
    offsets: Mapping[int, int]
    provenance: Mapping[int, ShardProvenance] = field(default_factory=dict)


def shards_of(keys: Keys, count: int) -> NDArray[np.int32]:
    """Return which of `count` shards each key belongs to."""
    shards = np.empty(len(keys), np.int32)
    shard_of(keys.hashes, count, shards)
    return shards


class ShardReads:
    """Reads from the shards of this process.

    `shards` is the worker's own table, which changes under the memory's lock as tasks come and go.
    With a `guard`, rows older than it allows are flagged `STALE`.
    """

    def __init__(
        self,
        current: CurrentPlan,
        shards: Mapping[int, Shard],
        memory: Memory,
        *,
        shard_count: int | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._current = current
        self.shards = shards
        self._shard_count = shard_count
        self._memory = memory
        self._guard = guard

    @property
    def shard_count(self) -> int:
        """How many shards there are, here and elsewhere; unless told, as many as are here."""
        return len(self.shards) if self._shard_count is None else self._shard_count

    def read(
        self,
        plan: Plan,
        entities: Sequence[EntityRows],
        t_us: int,
        *,
        with_provenance: bool = False,
    ) -> RowsAnswer:
        """Return rows of every view, all in one hold: not torn between two batches.

        `plan` is what the caller takes the views from. Raises NotOwnerError, before anything is
        read, where a shard isn't here, and PlanChangedError where a view isn't any more.
        """
        cuts = [_cut(entity.keys, self.shard_count) for entity in entities]
        wanted = {number for cut in cuts for number in cut.numbers}
        self._check_owned(wanted)  # before the work below is done for nothing
        work = [
            (entity, cut.parts(entity.keys)) for entity, cut in zip(entities, cuts, strict=True)
        ]
        views: dict[str, ViewRows] = {}
        with self._open():
            self._check_owned(wanted)
            self._check_kept(plan, entities)
            for entity, parts in work:
                for view_id in entity.view_ids:
                    view = plan.views[view_id]
                    views[view_id] = self._read_view(view, entity.keys, parts, t_us)
            offsets = {number: self.shards[number].next_offset for number in wanted}
            # In the same hold: a moment later it would be that of other rows.
            asked = wanted if with_provenance else ()
            made_of = {number: ShardProvenance.of(self.shards[number]) for number in asked}
        read = {view_id: plan.views[view_id] for view_id in views}
        return RowsAnswer(views, offsets, {n: one.of_views(read) for n, one in made_of.items()})

    def warm_up(self) -> None:
        """Run the kernels of a read once, whichever shards are here."""
        keys = Keys.from_list([b"x", b"y"])
        _cut(keys, 2).parts(keys.take(np.arange(len(keys))))
        for view in list(self._current.plan.views.values())[:1]:
            # What one layout compiles serves them all.
            Group(view, Memory(_SCRATCH_BYTES)).read(keys, np.zeros(len(keys), np.int64))

    def _check_owned(self, wanted: Iterable[int]) -> None:
        missing = sorted(number for number in wanted if number not in self.shards)
        if missing:
            msg = f"shards {missing} aren't here; ask the worker that has them"
            raise NotOwnerError(msg)

    def _check_kept(self, plan: Plan, entities: Sequence[EntityRows]) -> None:
        now = self._current.plan
        if now is plan:
            return
        for view_id in (one for entity in entities for one in entity.view_ids):
            kept = now.views.get(view_id)
            if kept is None or kept.fingerprint != plan.views[view_id].fingerprint:
                msg = f'view "{view_id}" has just left the plan of this worker; ask again'
                raise PlanChangedError(msg)

    def _read_view(self, view: ViewPlan, keys: Keys, parts: Sequence[_Part], t_us: int) -> ViewRows:
        if len(parts) == 1:
            return self._read_part(view, parts[0], t_us)
        found = ViewRows.unread(len(keys), len(view.layout.output_dtypes))
        for part in parts:
            assert part.rows is not None
            found.put(part.rows, self._read_part(view, part, t_us))
        return found

    def _read_part(self, view: ViewPlan, part: _Part, t_us: int) -> ViewRows:
        shard = self.shards[part.shard]
        values = shard.read(view.id, part.keys, np.full(len(part.keys), t_us, np.int64))
        values.found &= part.keys.valid
        flags = 0
        guard = self._guard
        # Looked at after the rows: if the process stood still in between, they are old.
        if shard.filling or (guard and guard.is_stale(part.shard, shard.next_offset, view)):
            flags |= RowFlag.STALE
        if view.id in shard.loading:
            values.valid[:] = 0
            flags |= RowFlag.WARMING
        if t_us < shard.horizon_us:
            values.valid[:] = 0
            flags |= RowFlag.TOO_OLD
        return ViewRows(values, np.full(len(part.keys), flags, np.uint8))

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Hold the rows still; refuse when they are gone."""
        with self._memory.lock:
            if self._memory.released:
                msg = "the store is closed; open it again"
                raise HeadwaterError(msg)
            yield


@dataclass(frozen=True, slots=True)
class _Part:
    """The keys of one shard, and which rows of the whole they are; None: all."""

    shard: int
    rows: NDArray[np.int64] | None
    keys: Keys


@dataclass(frozen=True, slots=True)
class _Cut:
    """Rows ordered by shard: those of `numbers[i]` are order[starts[number]:starts[number + 1]]."""

    numbers: list[int]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    def parts(self, keys: Keys) -> list[_Part]:
        if len(self.numbers) == 1:
            return [_Part(self.numbers[0], None, keys)]
        each = [(n, self.order[self.starts[n] : self.starts[n + 1]]) for n in self.numbers]
        return [_Part(number, rows, keys.take(rows)) for number, rows in each]


def _cut(keys: Keys, count: int) -> _Cut:
    order, starts = partition_rows(shards_of(keys, count), count)
    return _Cut(np.flatnonzero(np.diff(starts)).tolist(), order, starts)
