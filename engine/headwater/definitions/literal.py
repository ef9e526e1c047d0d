"""The values of a literal: exact text for fingerprints, Python values for probing."""

from __future__ import annotations

import json

import polars as pl

__all__ = ["literal_values", "values_text"]


def values_text(series: pl.Series) -> list[str]:
    """Return each value of a column as exact text: floats in hexadecimal, strings as JSON.

    Raises ValueError for a type that has no exact text.
    """
    dtype = series.dtype
    if isinstance(dtype, pl.List | pl.Array):
        return [
            "null" if one is None else f"[{' '.join(values_text(one))}]"
            for one in (series[row] for row in range(series.len()))
        ]
    if isinstance(dtype, pl.Struct):
        if not dtype.fields:
            raise ValueError("a struct without fields")
        columns = [values_text(series.struct.field(one.name)) for one in dtype.fields]
        rows = [f"{{{' '.join(cells)}}}" for cells in zip(*columns, strict=True)]
        missing = series.is_null().to_list()
        return ["null" if null else row for null, row in zip(missing, rows, strict=True)]
    if isinstance(dtype, pl.Categorical | pl.Enum | pl.Object):
        raise ValueError(f"{dtype} has no exact value; write the string")  # noqa: TRY004
    physical = series.to_physical() if dtype.is_temporal() else series
    return ["null" if value is None else _value_text(value) for value in physical.to_list()]


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, bytes):
        return value.hex() or "empty"
    if isinstance(value, str):
        return json.dumps(value)
    return str(value)


def literal_values(series: pl.Series) -> tuple[object, ...]:
    """Return the strings and numbers of a literal or of its list, to probe with."""
    flat = series.explode() if isinstance(series.dtype, pl.List) else series
    values = flat.to_list() if not flat.dtype.is_nested() else []
    return tuple(value for value in values if isinstance(value, str | int | float))
