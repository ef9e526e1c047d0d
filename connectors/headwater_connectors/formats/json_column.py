"""JSON columns: the type each column is read as, and the way from there to its own type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["narrowed", "wire_type"]

AS_THEY_ARE: Final = frozenset(
    {
        pl.Boolean(),
        pl.Date(),
        pl.Float64(),
        pl.Int32(),
        pl.Int64(),
        pl.String(),
        pl.UInt32(),
        pl.UInt64(),
    }
)

# Polars' reader panics on the 8 and 16 bit integers and wraps nanoseconds around silently, so
# these are read wider and narrowed here. Float32 goes through Float64 to refuse what overflows.
WIDER: Final[Mapping[pl.DataType, pl.DataType]] = {
    pl.Float32(): pl.Float64(),
    pl.Int8(): pl.Int64(),
    pl.Int16(): pl.Int64(),
    pl.UInt8(): pl.Int64(),
    pl.UInt16(): pl.Int64(),
}
NS_AS_US_MAX: Final = (2**63 - 1) // 1000


def wire_type(name: str, dtype: pl.DataType) -> pl.DataType:
    """Return the type a column is read as; DefinitionError if it can't be read."""
    if name == "*" or (name.startswith("^") and name.endswith("$")):
        raise DefinitionError(
            f'column "{name}": Polars takes this name for a pattern; leave it out'
        )
    if isinstance(dtype, pl.Datetime):
        return pl.Datetime("us", dtype.time_zone) if dtype.time_unit == "ns" else dtype
    if dtype in AS_THEY_ARE:
        return dtype
    if dtype not in WIDER:
        raise DefinitionError(
            f'column "{name}": type {dtype} can\'t be read from JSON; use a text, Boolean, integer,'
            " float, Date or Datetime column, or leave it out"
        )
    return WIDER[dtype]


def narrowed(name: str, dtype: pl.DataType) -> pl.Expr:
    """Return a column in its own type; null where the value that was read has no place in it."""
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime) and dtype.time_unit == "ns":
        fits = column.to_physical().is_between(-NS_AS_US_MAX, NS_AS_US_MAX)
        return pl.when(fits).then(column.cast(dtype, strict=False)).alias(name)
    if dtype == pl.Float32:
        narrow = column.cast(dtype)
        return pl.when(narrow.is_finite()).then(narrow).alias(name)
    return column.cast(dtype, strict=False)
