"""Provenance: which events the rows of a shard were made of, when they were read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.state.lane import parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from headwater.plan.plan import ViewPlan
    from headwater.state.shard import Shard

__all__ = ["ShardProvenance"]


@dataclass(frozen=True, slots=True)
class ShardProvenance:
    """How far each lane was applied, by name, and the ids of the views whose past was on its way.

    With the read time this says exactly which events a row may hold: those of its entity at or
    below these source offsets.
    """

    applied: Mapping[str, int]
    loading: tuple[str, ...]

    @classmethod
    def of(cls, shard: Shard) -> Self:
        """Return that of a shard as it stands; the caller holds the memory's lock."""
        return cls(dict(shard.applied), tuple(shard.loading))

    def of_views(self, views: Mapping[str, ViewPlan]) -> ShardProvenance:
        """Return what concerns these views alone."""
        bindings = {view.binding.id for view in views.values()}
        return ShardProvenance(
            {lane: at for lane, at in self.applied.items() if parts_of(lane)[1] in bindings},
            tuple(view_id for view_id in self.loading if view_id in views),
        )
