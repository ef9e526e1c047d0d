"""The workspace of a kernel call: small arrays it would otherwise allocate."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headwater.kernels.borrowed import borrowed
from headwater.kernels.compiled import inlined
from headwater.kernels.rounding import SCRATCH_WORDS
from headwater.plan.layout import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Workspace", "borrowed_table", "borrowed_workspace", "workspace"]


class Workspace(NamedTuple):
    """Arrays of one thread's kernel call; what they hold before and after means nothing."""

    tile: NDArray[np.uint64]  # (tile words): the accumulator of a read
    edges: NDArray[np.int64]  # (windows): left edges at the horizon
    read_edges: NDArray[np.int64]  # (windows): left edges at a read
    limits: NDArray[np.int64]  # (rungs)
    order: NDArray[np.int64]  # (windows): by left edge
    scratch: NDArray[np.uint64]  # (SCRATCH_WORDS)


def workspace(table: Table) -> Workspace:
    """Return a workspace for a table."""
    windows = len(table.windows)
    return Workspace(
        np.empty(len(table.identity), np.uint64),
        np.empty(windows, np.int64),
        np.empty(windows, np.int64),
        np.empty(len(table.rungs), np.int64),
        np.arange(windows),
        np.empty(SCRATCH_WORDS, np.uint64),
    )


@inlined
def borrowed_table(table: Table) -> Table:
    """Return the table's arrays without owners."""
    return Table(
        borrowed(table.fields),
        borrowed(table.identity),
        borrowed(table.windows),
        borrowed(table.features),
        borrowed(table.rungs),
        borrowed(table.shape),
    )


@inlined
def borrowed_workspace(work: Workspace) -> Workspace:
    """Return the workspace's arrays without owners."""
    return Workspace(
        borrowed(work.tile),
        borrowed(work.edges),
        borrowed(work.read_edges),
        borrowed(work.limits),
        borrowed(work.order),
        borrowed(work.scratch),
    )
