"""Loading: how far history has brought a view that was new to a shard, and where live began."""

from __future__ import annotations

from typing import Self

import msgspec

__all__ = ["Loading", "Stretch"]


class Stretch(msgspec.Struct):
    """A lane's past for one view: the source offsets `(cursor, seam]` are still to come.

    Above the seam rows come live. Each row comes by one of the two, so their order is free.
    """

    cursor: int
    seam: int

    @property
    def left(self) -> int:
        """How many source offsets are still to come."""
        return max(0, self.seam - self.cursor)


class Loading(msgspec.Struct):
    """The past of one view version in one shard, by lane; part of the mark until it is there."""

    fingerprint: str
    lanes: dict[str, Stretch]

    @property
    def left(self) -> int:
        """How many source offsets are still to come, over all lanes."""
        return sum(stretch.left for stretch in self.lanes.values())

    def copy(self) -> Self:
        """Return it as it stands."""
        lanes = {name: Stretch(one.cursor, one.seam) for name, one in self.lanes.items()}
        return type(self)(self.fingerprint, lanes)
