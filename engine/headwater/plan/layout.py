"""The layout table: one view's tiles, head events and features as small integer arrays.

Kernels are compiled once and interpret this table, so a new definition waits for no compiler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from headwater.definitions.aggregate import (
    Aggregate,
    Count,
    First,
    Last,
    Max,
    Mean,
    Min,
    Std,
    Sum,
    Variance,
)
from headwater.definitions.duration import MINUTE_US
from headwater.errors import DefinitionError
from headwater.plan import ops

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from headwater.definitions.features import Features

__all__ = ["INPUTS_MAX", "Input", "Layout", "Table", "layout_of"]

INPUTS_MAX = 64  # one bit each in an event's mask of non-null inputs

_INT64_MAX = (1 << 63) - 1
_INT64_MIN = 1 << 63  # as an unsigned word


class Table(NamedTuple):
    """The arrays a kernel interprets; see `headwater.plan.ops` for the codes."""

    fields: NDArray[np.int64]  # (fields, 3): op, input, word offset in the tile
    identity: NDArray[np.uint64]  # (tile words): an empty tile
    windows: NDArray[np.int64]  # (windows, 2): width µs or -1 for lifetime, hop µs or 0 for exact
    features: NDArray[np.int64]  # (features, 5): window, out op, field a, field b, ddof
    rungs: NDArray[np.int64]  # hops in use, ascending µs
    shape: NDArray[np.int64]  # tile words, event words, widest exact window µs, has lifetime


@dataclass(frozen=True, slots=True)
class Input:
    """An aggregated column: `kind` is how its words are read.

    "float", "int", "uint", or "presence" where only whether there is a value counts.
    """

    column: str
    dtype: pl.DataType
    kind: str
    sum_bound: bool  # a float that also enters a sum or mean: |x| < 2⁹⁶
    moments_bound: bool  # a float that also enters a variance: |x| < 2⁶⁴


@dataclass(frozen=True, slots=True)
class Layout:
    """A view's inputs and its table."""

    inputs: tuple[Input, ...]
    table: Table
    output_dtypes: tuple[pl.DataType, ...]

    @property
    def tile_words(self) -> int:
        """Words of a tile, header included."""
        return int(self.table.shape[0])

    @property
    def event_words(self) -> int:
        """Words of a single event, header included."""
        return int(self.table.shape[1])


class _Fields:
    """Fields in the making; a field asked for twice is one field."""

    def __init__(self, inputs: list[Input]) -> None:
        self.rows: list[tuple[int, int, int]] = []
        self.identity: list[int] = [0, 0]
        self._position = {one.column: i for i, one in enumerate(inputs)}
        self._kinds = {one.column: one.kind for one in inputs}

    def offset(self, op: int, column: str | None, identity: list[int]) -> int:
        position = -1 if column is None else self._position[column]
        for known_op, known_position, offset in self.rows:
            if (known_op, known_position) == (op, position):
                return offset
        offset = len(self.identity)
        self.rows.append((op, position, offset))
        self.identity += identity
        return offset

    def values(self, column: str) -> int:
        return self.offset(ops.COUNT_VALUES, column, [0])

    def by_kind(self, column: str, float_op: int, int_op: int, uint_op: int) -> int:
        return {"float": float_op, "int": int_op, "uint": uint_op}[self._kinds[column]]

    def kind(self, column: str) -> str:
        return self._kinds[column]


_Out = tuple[int, int, int, int]  # out op, field a, field b, ddof


def _count(fields: _Fields, aggregate: Count) -> _Out:
    if aggregate.column is None:
        return ops.OUT_COUNT, fields.offset(ops.COUNT_ROWS, None, [0]), 0, 0
    return ops.OUT_COUNT, fields.values(aggregate.column), 0, 0


def _sum(fields: _Fields, aggregate: Sum) -> _Out:
    column = aggregate.column
    if fields.kind(column) == "float":
        return ops.OUT_SUM_FLOAT, fields.offset(ops.SUM_FLOAT, column, [0] * 5), 0, 0
    op = fields.by_kind(column, 0, ops.SUM_INT, ops.SUM_UINT)
    out = fields.by_kind(column, 0, ops.OUT_SUM_INT, ops.OUT_SUM_UINT)
    return out, fields.offset(op, column, [0, 0]), fields.values(column), 0


def _mean(fields: _Fields, aggregate: Mean) -> _Out:
    column = aggregate.column
    if fields.kind(column) == "float":
        return ops.OUT_MEAN_FLOAT, fields.offset(ops.SUM_FLOAT, column, [0] * 5), 0, 0
    op = fields.by_kind(column, 0, ops.SUM_INT, ops.SUM_UINT)
    return ops.OUT_MEAN_INT, fields.offset(op, column, [0, 0]), fields.values(column), 0


def _moments(fields: _Fields, aggregate: Variance | Std) -> _Out:
    column = aggregate.column
    op = fields.by_kind(column, ops.MOMENTS_FLOAT, ops.MOMENTS_INT, ops.MOMENTS_UINT)
    out = ops.OUT_VARIANCE if isinstance(aggregate, Variance) else ops.OUT_STD
    return out, fields.offset(op, column, [0] * 9), 0, aggregate.ddof


def _ordered(fields: _Fields, aggregate: Min | Max) -> _Out:
    column = aggregate.column
    if isinstance(aggregate, Min):
        op = fields.by_kind(column, ops.MIN_FLOAT, ops.MIN_INT, ops.MIN_UINT)
        identity = _INT64_MAX
    else:
        op = fields.by_kind(column, ops.MAX_FLOAT, ops.MAX_INT, ops.MAX_UINT)
        identity = _INT64_MIN
    out = fields.by_kind(column, ops.OUT_ORDERED_FLOAT, ops.OUT_ORDERED_INT, ops.OUT_ORDERED_UINT)
    return out, fields.offset(op, column, [identity]), fields.values(column), 0


def _edge(fields: _Fields, aggregate: First | Last) -> _Out:
    column = aggregate.column
    if isinstance(aggregate, First):
        offset = fields.offset(ops.FIRST, column, [_INT64_MAX, _INT64_MAX, 0])
    else:
        offset = fields.offset(ops.LAST, column, [_INT64_MIN, _INT64_MIN, 0])
    return ops.OUT_VALUE, offset + 2, fields.values(column), 0


# Each rule takes its own aggregate.
_RULES: dict[type[Aggregate], Callable[[_Fields, Any], _Out]] = {
    Count: _count,
    Sum: _sum,
    Mean: _mean,
    Variance: _moments,
    Std: _moments,
    Min: _ordered,
    Max: _ordered,
    First: _edge,
    Last: _edge,
}


def layout_of(features: Features, where: str) -> Layout:
    """Return the layout of a view; raise DefinitionError past 64 aggregated columns."""
    inputs = _inputs(features, where)
    fields = _Fields(inputs)
    positions = {window: i for i, window in enumerate(features.windows)}
    rows = []
    for feature in features.features:
        out = _RULES[type(feature.aggregate)](fields, feature.aggregate)
        rows.append((positions[feature.window], *out))
    windows = [(-1 if w.width_us is None else w.width_us, w.hop_us) for w in features.windows]
    hops = sorted({w.hop_us for w in features.windows if w.hop_us})
    exact_us = max((w.width_us or 0 for w in features.windows if w.exact), default=0)
    lifetime = any(w.width_us is None for w in features.windows)
    table = Table(
        fields=np.array(fields.rows, np.int64).reshape(-1, 3),
        identity=np.array(fields.identity, np.uint64),
        windows=np.array(windows, np.int64),
        features=np.array(rows, np.int64),
        rungs=np.array(hops or [MINUTE_US], np.int64),
        shape=np.array(
            [
                len(fields.identity),
                ops.EVENT_HEADER_WORDS + len(inputs),
                exact_us,
                int(lifetime),
            ],
            np.int64,
        ),
    )
    return Layout(tuple(inputs), table, tuple(f.dtype for f in features.features))


def _inputs(features: Features, where: str) -> list[Input]:
    schema: Mapping[str, pl.DataType] = features.rows.schema
    by_column: dict[str, set[type[Aggregate]]] = {}
    for feature in features.features:
        if feature.aggregate.column is not None:
            by_column.setdefault(feature.aggregate.column, set()).add(type(feature.aggregate))
    if len(by_column) > INPUTS_MAX:
        msg = (
            f"{where}: aggregates {len(by_column)} columns, at most {INPUTS_MAX} fit one view;"
            " split it in two"
        )
        raise DefinitionError(msg)
    made = []
    for column, kinds in by_column.items():
        dtype = schema[column]
        if kinds == {Count} and not dtype.is_float():
            # Only whether there is a value matters, whatever its type.
            made.append(Input(column, dtype, "presence", sum_bound=False, moments_bound=False))
            continue
        kind = "float" if dtype.is_float() else "uint" if dtype == pl.UInt64 else "int"
        floats = kind == "float"
        sums = floats and bool(kinds & {Sum, Mean})
        moments = floats and bool(kinds & {Variance, Std})
        made.append(Input(column, dtype, kind, sums, moments))
    return made
