"""The row router: each row is read where its shard is, here or by another worker."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from headwater.flow.answer import UnavailableError
from headwater.flow.peers import RowsRequest
from headwater.flow.shard_reads import NotOwnerError, RowsAnswer, ViewRows, shards_of
from headwater.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from headwater.flow.peers import Peers
    from headwater.flow.provenance import ShardProvenance
    from headwater.flow.shard_reads import EntityRows, ShardReads
    from headwater.plan.plan import Plan

__all__ = ["RowRouter"]

_log = get_logger(__name__)

_TIMEOUT_S = 2.0
_THREADS = 32
_LOG_EVERY_S = 10.0
_HERE = ""  # the name of this process among targets


class RowRouter:
    """Reads rows from the shards here and, through `peers`, from other workers.

    Other workers are asked at the same time, for `timeout_s` in all. Where one says that a shard
    isn't there, or can't be reached, owners are looked up anew and the rows asked for once more;
    after that they come back as `UNREAD`. Without peers that goes for every shard that isn't here.
    """

    def __init__(
        self,
        reads: ShardReads,
        peers: Peers | None,
        *,
        timeout_s: float = _TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reads = reads
        self._peers = peers
        self._timeout_s = timeout_s
        self._clock = clock
        # Of callers that wait: each asks a target at most once at a time and takes back what hasn't
        # begun when its time is up, so the queue is bounded by callers times workers.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="headwater-hop")
        self._logged_at = -_LOG_EVERY_S
        self._log_lock = threading.Lock()

    def close(self) -> None:
        """Let go of the threads; reads that are under way end by their own time limits."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def read(
        self,
        plan: Plan,
        entities: Sequence[EntityRows],
        t_us: int,
        *,
        with_provenance: bool = False,
    ) -> RowsAnswer:
        """Return the rows of views of `plan`; those of one shard are of one moment.

        Raises HeadwaterError where a worker refuses for a reason that isn't about now, and
        PlanChangedError where a view has just left.
        """
        with suppress(NotOwnerError):
            return self._reads.read(plan, entities, t_us, with_provenance=with_provenance)
        return self._read_routed(plan, entities, t_us, with_provenance=with_provenance)

    def _read_routed(
        self, plan: Plan, entities: Sequence[EntityRows], t_us: int, *, with_provenance: bool
    ) -> RowsAnswer:
        deadline = self._clock() + self._timeout_s
        shards = [shards_of(entity.keys, self._reads.shard_count) for entity in entities]
        wanted = {number for one in shards for number in one.tolist()}
        count = self._reads.shard_count
        answer = _Whole(plan, count, entities, shards, with_provenance=with_provenance)
        owners: Mapping[int, str] = {} if self._peers is None else self._peers.owners()
        for attempt in (1, 2):
            targets = self._targets(answer, wanted, owners)
            # The first round leaves time for a second one.
            until = deadline if attempt > 1 else deadline - self._timeout_s / 2
            for target, found in self._ask(answer, targets, t_us, until):
                answer.put(targets[target], found)
                wanted = wanted - targets[target]
            if not wanted or attempt > 1 or self._peers is None:
                break
            left_s = min(deadline - self._clock(), self._timeout_s / 4)
            owners = self._peers.refresh(max(0.0, left_s), is_wrong=answer.moved)
        return answer.found

    def _targets(
        self, answer: _Whole, wanted: Iterable[int], owners: Mapping[int, str]
    ) -> dict[str, set[int]]:
        """Return target → shards to ask it for; shards that nobody has are left out."""
        targets: dict[str, set[int]] = {}
        for number in wanted:
            target = _HERE if number in self._reads.shards else owners.get(number)
            if self._peers is not None and target == self._peers.own_target:
                # Ours by the table, and not here: on its way, and nobody to ask.
                answer.moved = True
            elif target is not None:
                targets.setdefault(target, set()).add(number)
        return targets

    def _ask(
        self, answer: _Whole, targets: Mapping[str, set[int]], t_us: int, until: float
    ) -> list[tuple[str, RowsAnswer]]:
        """Read from every target at once; return what came in time."""
        if len(targets) == 1 and _HERE not in targets:
            ((target, shards),) = targets.items()
            found = self._ask_peer(target, answer, shards, t_us, until)
            return [] if found is None else [(target, found)]
        asked = {
            target: self._threads.submit(self._ask_peer, target, answer, shards, t_us, until)
            for target, shards in targets.items()
            if target != _HERE
        }
        try:
            found = None
            if _HERE in targets:
                found = self._ask_here(answer, targets[_HERE], t_us)
            wait(asked.values(), max(0.0, until - self._clock()))
            answers = {target: one.result() for target, one in asked.items() if one.done()}
        finally:
            for future in asked.values():
                future.cancel()
        return [(t, one) for t, one in {**answers, _HERE: found}.items() if one is not None]

    def _ask_here(self, answer: _Whole, shards: set[int], t_us: int) -> RowsAnswer | None:
        try:
            return self._reads.read(
                answer.plan, answer.part(shards), t_us, with_provenance=answer.with_provenance
            )
        except NotOwnerError:
            answer.moved = True
            return None

    def _ask_peer(
        self, target: str, answer: _Whole, shards: set[int], t_us: int, until: float
    ) -> RowsAnswer | None:
        assert self._peers is not None
        plan = answer.plan
        entities = answer.part(shards)
        request = RowsRequest(
            entities,
            t_us,
            {one: plan.views[one].fingerprint for each in entities for one in each.view_ids},
            str(plan.stamp),
            self._reads.shard_count,
            with_provenance=answer.with_provenance,
        )
        try:
            found = self._peers.read(target, request, max(0.0, until - self._clock()))
            _check_shapes(plan, entities, found)
        except (NotOwnerError, UnavailableError) as error:
            answer.moved |= isinstance(error, NotOwnerError)
            self._log_unread(target, str(error))
            return None
        return found

    def _log_unread(self, target: str, reason: str) -> None:
        # At most one line in a while: an unreachable worker is met by every request.
        now = self._clock()
        with self._log_lock:
            if now - self._logged_at < _LOG_EVERY_S:
                return
            self._logged_at = now
        _log.warning("peer_not_read", target=target, reason=reason)


def _check_shapes(plan: Plan, entities: Sequence[EntityRows], found: RowsAnswer) -> None:
    for entity in entities:
        for view_id in entity.view_ids:
            features = len(plan.views[view_id].layout.output_dtypes)
            got = found.views[view_id].values.bits.shape if view_id in found.views else None
            if got != (len(entity.keys), features):
                msg = f'{got} values of view "{view_id}" came for {len(entity.keys)} rows'
                raise UnavailableError(msg)


class _Whole:
    """The answer to a request, put together from its parts; what nobody read stays unread.

    `moved` says that a shard was not where it was taken to be.
    """

    def __init__(
        self,
        plan: Plan,
        shard_count: int,
        entities: Sequence[EntityRows],
        shards: Sequence[NDArray[np.int32]],
        *,
        with_provenance: bool,
    ) -> None:
        self.plan = plan
        self._entities = entities
        self._shards = shards
        self._count = shard_count
        self._views = {
            view_id: ViewRows.unread(
                len(entity.keys), len(plan.views[view_id].layout.output_dtypes)
            )
            for entity in entities
            for view_id in entity.view_ids
        }
        self._offsets: dict[int, int] = {}
        self._provenance: dict[int, ShardProvenance] = {}
        self.with_provenance = with_provenance
        self.moved = False

    @property
    def found(self) -> RowsAnswer:
        return RowsAnswer(self._views, self._offsets, self._provenance)

    def part(self, numbers: set[int]) -> list[EntityRows]:
        """Return the rows of some shards; entities without any are left out."""
        rows = [self._rows(shards, numbers) for shards in self._shards]
        return [
            entity.take(mine)
            for entity, mine in zip(self._entities, rows, strict=True)
            if len(mine)
        ]

    def put(self, numbers: set[int], part: RowsAnswer) -> None:
        """Put in what was read of some shards."""
        for entity, shards in zip(self._entities, self._shards, strict=True):
            rows = self._rows(shards, numbers)
            if len(rows):
                for view_id in entity.view_ids:
                    self._views[view_id].put(rows, part.views[view_id])
        self._offsets.update(part.offsets)
        self._provenance.update(part.provenance)

    def _rows(self, shards: NDArray[np.int32], numbers: set[int]) -> NDArray[np.int64]:
        chosen = np.zeros(self._count, np.bool_)
        chosen[list(numbers)] = True
        rows: NDArray[np.int64] = np.flatnonzero(chosen[shards])
        return rows
