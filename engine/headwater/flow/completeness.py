"""Completeness: which features look back past the instant where history begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.rows import NO_HORIZON, left_edges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headwater.plan.plan import ViewPlan

__all__ = ["incomplete_features"]


def incomplete_features(view: ViewPlan, t_us: int, from_us: int) -> NDArray[np.bool_]:
    """Return which features (n) of a view at `t_us` have windows that begin before `from_us`.

    Lifetime windows always do, unless there is no such instant (NO_HORIZON).
    """
    table = view.layout.table
    edges = np.empty(len(table.windows), np.int64)
    left_edges(table.windows, t_us, edges)
    found: NDArray[np.bool_] = (edges[table.features[:, 0]] < from_us) & (from_us > NO_HORIZON)
    return found
