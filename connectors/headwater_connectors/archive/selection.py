"""Selections: which rows a scan wants, asked of a file's ranges first and of its rows after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from headwater_connectors.archive.schema import OFFSET, TS

if TYPE_CHECKING:
    from headwater_connectors.archive.manifest import FileEntry

__all__ = ["Selection"]

_BEFORE_ALL, _AFTER_ALL = -(1 << 63), (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows with ts_from_us ≤ ts < ts_before_us and offsets in the stretch (from, to]."""

    ts_from_us: int | None = None
    ts_before_us: int | None = None
    stretch: tuple[int, int] | None = None

    def up_to(self, to_offset: int) -> Selection:
        """Return the selection without what is above an offset."""
        first, last = self.stretch or (_BEFORE_ALL, to_offset)
        return replace(self, stretch=(first, min(last, to_offset)))

    def after(self, offset: int) -> Selection:
        """Return the selection without what is up to an offset."""
        first, last = self.stretch or (offset, _AFTER_ALL)
        return replace(self, stretch=(max(first, offset), last))

    def may_hold(self, entry: FileEntry) -> bool:
        """Return whether a file may have such a row."""
        return (
            (self.ts_from_us is None or entry.ts_max_us >= self.ts_from_us)
            and (self.ts_before_us is None or entry.ts_min_us < self.ts_before_us)
            and (self.stretch is None or entry.offset_max > self.stretch[0])
            and (self.stretch is None or entry.offset_min <= self.stretch[1])
        )

    def covers(self, entry: FileEntry) -> bool:
        """Return whether every row of a file is wanted, by its ranges."""
        return (
            (self.ts_from_us is None or entry.ts_min_us >= self.ts_from_us)
            and (self.ts_before_us is None or entry.ts_max_us < self.ts_before_us)
            and (self.stretch is None or entry.offset_min > self.stretch[0])
            and (self.stretch is None or entry.offset_max <= self.stretch[1])
        )

    def filtered(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a frame that are wanted."""
        tests = []
        if self.ts_from_us is not None:
            tests.append(pl.col(TS) >= self.ts_from_us)
        if self.ts_before_us is not None:
            tests.append(pl.col(TS) < self.ts_before_us)
        if self.stretch is not None:
            tests += [pl.col(OFFSET) > self.stretch[0], pl.col(OFFSET) <= self.stretch[1]]
        return frame.filter(tests) if tests else frame
