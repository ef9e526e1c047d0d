"""Aggregates: what is kept of the events in a window. One dataclass each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import polars as pl

from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Aggregate",
    "Count",
    "First",
    "Last",
    "Max",
    "Mean",
    "Min",
    "Std",
    "Sum",
    "Variance",
]

_DDOF_MAX = 1


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate of one column; `column` is None only for a count of rows."""

    kind: ClassVar[str]
    column: str | None

    def output_dtype(self, schema: Mapping[str, pl.DataType]) -> pl.DataType:
        """Return the feature's type for the rows' schema; raise DefinitionError if it has none."""
        raise NotImplementedError

    def __str__(self) -> str:
        """Spell the aggregate as users write it."""
        return f"{self.kind}({self.column or ''})"


def _checked(aggregate: Aggregate, schema: Mapping[str, pl.DataType], allowed: str) -> pl.DataType:
    assert aggregate.column is not None
    dtype = schema[aggregate.column]
    numeric = dtype.is_integer() or dtype in (pl.Float32, pl.Float64, pl.Boolean)
    temporal = dtype.is_temporal() and dtype != pl.Time
    if dtype in (pl.Int128, getattr(pl, "UInt128", pl.Int128)) or not (
        numeric or (temporal and allowed == "ordered")
    ):
        kinds = (
            "numeric or Boolean" if allowed == "numeric" else "numeric, Boolean, date or datetime"
        )
        msg = f'{aggregate}: column "{aggregate.column}" is {dtype}; needs a {kinds} column'
        raise DefinitionError(msg)
    return dtype


@dataclass(frozen=True, slots=True)
class Count(Aggregate):
    """Count rows, or the non-null values of a column."""

    kind = "count"
    column: str | None = None

    def output_dtype(self, _schema: Mapping[str, pl.DataType]) -> pl.DataType:
        """Return Int64, whatever is counted."""
        return pl.Int64()


@dataclass(frozen=True, slots=True)
class Sum(Aggregate):
    """Sum a column: floats exactly on a grid of 2⁻¹²⁸, integers and Booleans in 128 bits."""

    kind = "sum"
    column: str

    def output_dtype(self, schema: Mapping[str, pl.DataType]) -> pl.DataType:
        """Return Float64 for floats, UInt64 for UInt64, Int64 for the rest."""
        dtype = _checked(self, schema, "numeric")
        if dtype.is_float():
            return pl.Float64()
        return pl.UInt64() if dtype == pl.UInt64 else pl.Int64()


@dataclass(frozen=True, slots=True)
class Mean(Aggregate):
    """Mean of a column: the double nearest to the exact quotient."""

    kind = "mean"
    column: str

    def output_dtype(self, schema: Mapping[str, pl.DataType]) -> pl.DataType:
        """Return Float64."""
        _checked(self, schema, "numeric")
        return pl.Float64()


@dataclass(frozen=True, slots=True)
class Min(Aggregate):
    """Smallest value."""

    kind = "min"
    column: str

    def output_dtype(self, schema: Mapping[str, pl.DataType]) -> pl.DataType:
        """Return the column's own type."""
        return _checked(self, schema, "ordered")


@dataclass(frozen=True, slots=True)
class Max(Aggregate):
    """Largest value."""

    kind = "max"
    column: str

    def output_dtype(self, schema: Mapping[str, pl.DataType]) -> pl.DataType:
        """Return the column's own type."""
        return _checked(self, schema, "ordered")


@dataclass(frozen=True, slots=True)
class Variance(Aggregate):
    """Variance: sample with `ddof=1` (default), population with `ddof=0`."""

    kind = "var"
    column: str
    ddof: int = 1

    def __post_init__(self) -> None:
        """Refuse a `ddof` other than 0 and 1."""
        _check_ddof(self, self.ddof)

    def output_dtype(self, schema: Mapping[str, pl.DataType]) -> pl.DataType:
        """Return Float64."""
        _checked(self, schema, "numeric")
        return pl.Float64()


@dataclass(frozen=True, slots=True)
class Std(Aggregate):
    """Standard deviation: the square root of the rounded variance of the same `ddof`."""

    kind = "std"
    column: str
    ddof: int = 1

    def __post_init__(self) -> None:
        """Refuse a `ddof` other than 0 and 1."""
        _check_ddof(self, self.ddof)

    def output_dtype(self, schema: Mapping[str, pl.DataType]) -> pl.DataType:
        """Return Float64."""
        _checked(self, schema, "numeric")
        return pl.Float64()


@dataclass(frozen=True, slots=True)
class First(Aggregate):
    """The earliest non-null value, by (event time, partition, offset)."""

    kind = "first"
    column: str

    def output_dtype(self, schema: Mapping[str, pl.DataType]) -> pl.DataType:
        """Return the column's own type."""
        return _checked(self, schema, "ordered")


@dataclass(frozen=True, slots=True)
class Last(Aggregate):
    """The latest non-null value, by (event time, partition, offset)."""

    kind = "last"
    column: str

    def output_dtype(self, schema: Mapping[str, pl.DataType]) -> pl.DataType:
        """Return the column's own type."""
        return _checked(self, schema, "ordered")


def _check_ddof(aggregate: Aggregate, ddof: int) -> None:
    if ddof not in range(_DDOF_MAX + 1):
        msg = f"{aggregate}: ddof is {ddof!r}; write 1 for the sample and 0 for the population"
        raise DefinitionError(msg)
