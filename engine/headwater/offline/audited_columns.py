"""The columns of an audit: what was served beside what must have been, cell by cell."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.flow.answer import Status
from headwater.offline.bitwise import differ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from headwater.flow.samples import Block
    from headwater.offline.audited_view import Reasons

__all__ = ["Audited", "ColumnAgain", "Comparison", "Difference"]

_DIFFERENCES_MAX = 10_000
_OUT_OF_RANGE = "the read time was before the horizon, so there is no value"
# Statuses that say what a value is. The others say when and where it was read.
_OF_VALUE = (Status.PRESENT, Status.NULL, Status.NOT_FOUND, Status.WARMING)


@dataclass(frozen=True, slots=True)
class Difference:
    """A value or a status that was served and isn't what the events make of it; `t_us` is its time.

    `feature` is `view.feature`, `what` is "value" or "status".
    """

    service: str
    feature: str
    entity: str
    t_us: int
    what: str
    served: str
    recomputed: str
    worker: str
    served_us: int


@dataclass(slots=True)
class Audited:
    """What an audit found: of so many vectors and values, which differ, and what wasn't compared.

    Of very many differences the first are kept; `differing` counts them all.
    """

    vectors: int = 0
    compared: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)
    not_compared: Counter[str] = field(default_factory=Counter)

    def add(self, difference: Difference) -> None:
        """Take a difference down."""
        self.differing += 1
        if len(self.differences) < _DIFFERENCES_MAX:
            self.differences.append(difference)


@dataclass(frozen=True, slots=True, eq=False)
class ColumnAgain:
    """A column (n) as it must have been served: values, statuses, and where that can't be said.

    `keys` are the join keys that it is about; `why_not` and `void` are those of `ViewAgain`.
    """

    name: str
    keys: tuple[str, ...]
    values: pl.Series
    statuses: NDArray[np.uint8]
    why_not: NDArray[np.int16]
    void: NDArray[np.bool_]


class Comparison:
    """Compares the vectors (n) of some blocks of one origin with what they must have been."""

    def __init__(self, blocks: Sequence[Block], reasons: Reasons, audited: Audited) -> None:
        self._reasons = reasons
        self._audited = audited
        self._service = blocks[0].origin.service
        self._inputs = pl.concat([one.inputs for one in blocks])
        self._values = pl.concat([one.values for one in blocks])
        self._statuses = np.concatenate([one.statuses for one in blocks], axis=1)
        asked = [(block.worker, one) for block in blocks for one in block.asked]
        self._asked = [(worker, one) for worker, one in asked for _ in range(one.rows)]

    def compare(self, number: int, again: ColumnAgain) -> None:
        """Compare a column with what was served as that number."""
        served, statuses = self._values.to_series(number), self._statuses[number]
        why_not = again.why_not.copy()
        out_of_range = statuses == Status.OUT_OF_RANGE
        why_not[out_of_range & (why_not == 0)] = self._reasons.number(_OUT_OF_RANGE)
        for reason, cells in zip(*np.unique(why_not, return_counts=True), strict=True):
            if reason:
                self._audited.not_compared[self._reasons.text(int(reason))] += int(cells)
        is_compared = why_not == 0
        self._audited.compared += int(np.count_nonzero(is_compared))
        # Where there can't have been a value, any value is wrong.
        has_value = served.is_not_null().to_numpy()
        wrong = (is_compared & differ(served, again.values)) | (
            (again.void | out_of_range) & has_value
        )
        for row in np.flatnonzero(wrong).tolist():
            value = again.values[row] if is_compared[row] else None
            self._add(again, row, "value", *_texts(served[row], value))
        named = np.where(has_value, Status.PRESENT, Status.NULL)
        named = np.where(statuses == Status.NOT_FOUND, named, statuses)
        other = is_compared & ~wrong & np.isin(statuses, _OF_VALUE) & (named != again.statuses)
        for row in np.flatnonzero(other).tolist():
            names = Status(int(statuses[row])).name, Status(int(again.statuses[row])).name
            self._add(again, row, "status", *names)

    def _add(self, again: ColumnAgain, row: int, what: str, served: str, recomputed: str) -> None:
        worker, asked = self._asked[row]
        entity = ", ".join(f"{key}={self._inputs[key][row]}" for key in again.keys)
        self._audited.add(
            Difference(
                self._service, again.name, entity, asked.t_us, what, served, recomputed, worker,
                asked.served_us,
            )
        )  # fmt: skip


def _texts(served: object, recomputed: object) -> tuple[str, str]:
    """Return two values as text; floats that look the same as their bits."""
    one, other = _text(served), _text(recomputed)
    if one == other and isinstance(served, float) and isinstance(recomputed, float):
        return f"{one} ({_bits(served)})", f"{other} ({_bits(recomputed)})"
    return one, other


def _text(value: object) -> str:
    return "null" if value is None else str(value)


def _bits(value: float) -> str:
    return f"0x{int.from_bytes(struct.pack('>d', value)):016x}"
