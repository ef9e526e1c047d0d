"""Peers: the other workers, who answer for the shards that aren't in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from headwater.flow.answer import UnavailableError
from headwater.flow.shard_reads import EntityRows, NotOwnerError, RowsAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headwater.plan.plan import Plan

__all__ = ["EntityRows", "NotOwnerError", "Peers", "RowsAnswer", "RowsRequest", "check_same_plan"]


@dataclass(frozen=True, slots=True)
class RowsRequest:
    """Rows for a worker to read from its own shards, all in one hold and at one time.

    `t_us` is the read time, fixed by the worker that took the request. The rest says what the bits
    of the answer would mean: a worker that means something else refuses.
    """

    entities: Sequence[EntityRows]
    t_us: int
    fingerprints: Mapping[str, str]  # view id → fingerprint, of every view that is asked for
    stamp: str  # of the engine
    shard_count: int
    with_provenance: bool = False


class Peers(Protocol):
    """Who has which shard, and how to ask them; called from many threads at once."""

    @property
    def own_target(self) -> str:
        """Where others reach this process; it is never asked through `read`."""
        ...

    def owners(self) -> Mapping[int, str]:
        """Return shard → the worker that has it, as last known."""
        ...

    def refresh(self, timeout_s: float, *, is_wrong: bool = False) -> Mapping[int, str]:
        """Look again who has which shard, for at most so long; return what is known then.

        What was seen a moment ago will do, unless it `is_wrong`: a worker said otherwise.
        """
        ...

    def read(self, target: str, request: RowsRequest, timeout_s: float) -> RowsAnswer:
        """Read rows from another worker's own shards, in at most so long; it asks no one else.

        Raises NotOwnerError where it doesn't have them all, UnavailableError where it can't be
        reached or can't answer now, another HeadwaterError where asking again won't help.
        """
        ...


def check_same_plan(plan: Plan, shard_count: int, request: RowsRequest) -> None:
    """Raise UnavailableError unless bits read here mean what the request takes them for.

    Workers differ for as long as a new plan or a new version is on its way to all of them.
    """
    if request.stamp != str(plan.stamp):
        msg = (
            f"this worker's engine is {plan.stamp}, the other's {request.stamp}; run one version on"
            " machines of one kind"
        )
        raise UnavailableError(msg)
    if request.shard_count != shard_count:
        msg = (
            f"this worker knows {shard_count} shards, the other {request.shard_count}; they aren't"
            " of one namespace"
        )
        raise UnavailableError(msg)
    for view_id, fingerprint in request.fingerprints.items():
        view = plan.views.get(view_id)
        if view is None or view.fingerprint != fingerprint:
            msg = f'this worker has another plan, without view "{view_id}" as asked for; try again'
            raise UnavailableError(msg)
