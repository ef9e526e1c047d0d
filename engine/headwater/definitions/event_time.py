"""Event time: which column says when an event happened, and in which form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from headwater.errors import DefinitionError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EventTime", "epoch", "event_time_of"]

_UNITS_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


@dataclass(frozen=True, slots=True)
class EventTime:
    """A column and its form: `unit` of an epoch number, or None for a datetime or RFC 3339 text."""

    column: str
    unit: str | None = None

    def microseconds(self, schema: Mapping[str, pl.DataType]) -> pl.Expr:
        """Return the expression for µs since 1970 (Int64), null where there is no time."""
        column = pl.col(self.column)
        if self.unit is not None:
            if schema[self.column].is_float():
                scale = _UNITS_NS[self.unit] / 1_000
                return (column * scale).floor().cast(pl.Int64, strict=False)
            return _scaled(column, self.unit)
        if schema[self.column] == pl.String:
            parsed = column.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
            return parsed.cast(pl.Int64)
        dtype = schema[self.column]
        assert isinstance(dtype, pl.Datetime)
        # Polars panics when it casts an extreme datetime to another unit; a number just gets null.
        return _scaled(column.to_physical(), dtype.time_unit)


def _scaled(number: pl.Expr, unit: str) -> pl.Expr:
    """Return whole µs of a whole number of `unit`s; null where they would wrap to another time."""
    if unit == "ns":
        return number.cast(pl.Int64, strict=False).floordiv(1_000)
    factor = _UNITS_NS[unit] // 1_000
    bound = (1 << 62) // factor
    return (
        pl.when(number.is_between(-bound, bound)).then(number.cast(pl.Int64, strict=False)) * factor
    )


def epoch(column: str, unit: str = "ms") -> EventTime:
    """Return an event time held as a number since 1970-01-01 UTC, in "s", "ms", "us" or "ns"."""
    if unit not in _UNITS_NS:
        msg = f'epoch("{column}"): unit {unit!r} is not one of s, ms, us, ns'
        raise DefinitionError(msg)
    return EventTime(column, unit)


def event_time_of(
    event_time: str | EventTime, schema: Mapping[str, pl.DataType], where: str
) -> EventTime:
    """Return the checked event time of a stream; a bare name is a datetime or RFC 3339 column."""
    found = EventTime(event_time) if isinstance(event_time, str) else event_time
    if not isinstance(found, EventTime):
        msg = f'{where}, event_time: {event_time!r} is neither a column name nor hw.epoch("column")'
        raise DefinitionError(msg)
    if found.column not in schema:
        hint = did_you_mean(found.column, schema)
        msg = f'{where}, event_time: no column "{found.column}" in the schema.{hint}'
        raise DefinitionError(msg)
    dtype = schema[found.column]
    number = dtype.is_integer() or dtype.is_float()
    aware = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
    if found.unit is not None and not number:
        msg = f'{where}, event_time: epoch("{found.column}") needs a number, the column is {dtype}'
        raise DefinitionError(msg)
    if found.unit is None and not (dtype == pl.String or aware):
        cure = (
            f'write hw.epoch("{found.column}", "ms")'
            if number
            else 'give it a time zone, e.g. pl.Datetime("us", "UTC")'
        )
        msg = f'{where}, event_time: column "{found.column}" is {dtype}; {cure}'
        raise DefinitionError(msg)
    return found
