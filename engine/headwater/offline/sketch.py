"""A sketch: which events any read of a spine may see, told by an event's key hash and its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from headwater.flow.decode import EARLIEST_US, LATEST_US
from headwater.kernels.rows import FOREVER, left_edges
from headwater.kernels.sketch import SLICES, mark, marked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headwater.state.keys import Keys

__all__ = ["Sketch"]

# So many cells for an entity that few share one; at least as many as a core's cache has room for.
_CELLS_PER_ENTITY = 2
_CELLS_MIN = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """The marks of a spine's reads; `span` holds the event times that any of them may see."""

    span: tuple[int | None, int]
    _words: NDArray[np.uint64]
    _begin_us: int
    _slice_shift: int

    @classmethod
    def of_reads(
        cls,
        keys: Keys,
        times: NDArray[np.int64],
        windows: NDArray[np.int64],
        entities: int,
    ) -> Self:
        """Return the sketch of reads of `keys` (n), of so many entities, at `times` (n, µs).

        `windows` (windows, 2) is that of a table.
        """
        cells = max(_CELLS_MIN, 1 << (_CELLS_PER_ENTITY * entities).bit_length())
        words = np.zeros(cells, np.uint64)
        asked = times[keys.valid]
        if not len(asked):
            return cls((0, 0), words, 0, 0)
        # A read may be at any time; no event is beyond these.
        begin, before = (
            max(EARLIEST_US, min(int(one), LATEST_US + 1)) for one in (asked.min(), asked.max())
        )
        room = np.empty(len(windows), np.int64)
        since = None
        if not (windows[:, 0] < 0).any():  # none is a lifetime
            since = begin = int(left_edges(windows, begin, room))
        # The last microsecond is in the last slice.
        shift = max(0, (before - 1 - begin).bit_length() - (SLICES - 1).bit_length())
        mark(words, begin, before, shift, keys.hashes, keys.valid, times, windows, room)
        return cls((since, before), words, begin, shift)

    def rows(self, hashes: NDArray[np.uint64], times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of events (n; key hashes, and times in µs) that a read may see."""
        since, before = self.span
        room = np.empty(len(hashes), np.int64)
        count = marked(
            self._words, -FOREVER if since is None else since, self._begin_us, before,
            self._slice_shift, hashes, times, room,
        )  # fmt: skip
        return room[:count]
