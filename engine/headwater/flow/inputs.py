"""Inputs of a request: names, lengths and types, checked alike by the client and the server."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.errors import did_you_mean
from headwater.flow.answer import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from headwater.flow.answer import ServiceInfo

__all__ = ["coerced", "input_columns", "name_of_input", "series_of"]

_SCALARS = (str, bytes, bool, int, float, date, np.generic)


def input_columns(info: ServiceInfo, columns: Mapping[str, pl.Series]) -> list[pl.Series]:
    """Return the columns by their own names, in the order and types of the service.

    A join key may be given by the name of its entity when it is the entity's only one.
    Raises RequestError for names, types and lengths that don't fit.
    """
    wanted = {**info.join_keys, **info.request_inputs}
    given = _by_input_name(info, columns)
    missing = [name for name in wanted if name not in given]
    if missing:
        aliases = {key: alias for alias, key in _aliases(info).items()}
        alias = f' (or "{aliases[missing[0]]}")' if missing[0] in aliases else ""
        raise RequestError(f'{_where(info)} needs input "{missing[0]}"{alias}; it was not given')
    found = [
        coerced(_named(given[name], name), dtype, f'input "{name}" of {_where(info)}')
        for name, dtype in wanted.items()
    ]
    if len({len(series) for series in found}) > 1:
        told = ", ".join(f"{series.name} {len(series)}" for series in found)
        raise RequestError(
            f"the inputs of {_where(info)} differ in rows: {told}; make them equally long"
        )
    return found


def series_of(name: str, values: object, wanted: pl.DataType, where: str) -> pl.Series:
    """Return what a user gave for one input, a list, an array, a series or a scalar, as a series.

    Raises RequestError for values of another type, and for datetimes without a time zone.
    """
    if isinstance(values, pl.Series):
        series = _named(values, name)
    elif values is None or isinstance(values, _SCALARS):
        series = _of_list(name, [values], wanted, where)
    elif isinstance(values, list | tuple | range):
        series = _of_list(name, list(values), wanted, where)
    elif hasattr(values, "__array__"):
        series = _of_array(name, np.asarray(values), wanted, where)
    else:
        kind = type(values).__name__
        raise RequestError(f"{where} takes a list, an array, a series or one value, not {kind}")
    return coerced(series, wanted, where)


def coerced(series: pl.Series, wanted: pl.DataType, where: str) -> pl.Series:
    """Return the series in the wanted type; only a change that keeps every value is made.

    Floats may be rounded to Float32, and integers to floats, as in any array library.
    """
    dtype = series.dtype
    if dtype == wanted:
        return series
    if not _same_family(dtype, wanted):
        raise RequestError(
            f"{where} takes {wanted}, not {dtype}; cast it first{_cure(dtype, wanted)}"
        )
    try:
        cast = series.cast(wanted)
    except pl.exceptions.PolarsError as error:
        raise RequestError(f"{where}: a value lies outside of {wanted}") from error
    if wanted.is_temporal() and not cast.cast(dtype).equals(series):
        raise RequestError(f"{where}: {wanted} would cut digits of {dtype}; round it first")
    return cast


def name_of_input(info: ServiceInfo, name: str) -> str:
    """Return the input that a name or an entity's name stands for; raises RequestError."""
    if name in info.join_keys or name in info.request_inputs:
        return name
    if name in info.entities:
        keys = info.entities[name]
        if len(keys) == 1:
            return keys[0]
        listed = " and ".join(f'"{key}"' for key in keys)
        raise RequestError(f'entity "{name}" of {_where(info)} has several keys: give {listed}')
    options = [*info.join_keys, *info.request_inputs, *info.entities]
    hint = did_you_mean(name, options) or f" It takes {', '.join(options[:20])}."
    raise RequestError(f'{_where(info)} has no input "{name}".{hint}')


def _by_input_name(info: ServiceInfo, columns: Mapping[str, pl.Series]) -> dict[str, pl.Series]:
    found: dict[str, pl.Series] = {}
    for name, series in columns.items():
        target = name_of_input(info, name)
        if target in found:
            raise RequestError(f'{_where(info)}: input "{target}" was given twice; leave one out')
        found[target] = series
    return found


def _named(series: pl.Series, name: str) -> pl.Series:
    return series if series.name == name else series.alias(name)


def _aliases(info: ServiceInfo) -> dict[str, str]:
    return {name: keys[0] for name, keys in info.entities.items() if len(keys) == 1}


def _where(info: ServiceInfo) -> str:
    return f'service "{info.name}"' if info.name else "the list of features"


def _of_list(name: str, values: list[object], wanted: pl.DataType, where: str) -> pl.Series:
    if isinstance(wanted, pl.Datetime):
        _check_zones(values, wanted, where)
    try:
        return pl.Series(name, values, dtype=wanted, strict=True)
    except (TypeError, OverflowError, ValueError, pl.exceptions.PolarsError) as error:
        row, odd = _first_unfit(values, wanted)
        raise RequestError(
            f"{where} takes {wanted}; row {row} holds {odd!r:.60} ({type(odd).__name__})"
        ) from error


def _of_array(name: str, array: np.ndarray, wanted: pl.DataType, where: str) -> pl.Series:
    if array.ndim > 1:
        raise RequestError(f"{where} takes one dimension, not an array of shape {array.shape}")
    if array.dtype == object:
        return _of_list(name, array.reshape(-1).tolist(), wanted, where)
    return pl.Series(name, array.reshape(-1))


def _check_zones(values: Iterable[object], wanted: pl.Datetime, where: str) -> None:
    for row, value in enumerate(values):
        if not isinstance(value, datetime):
            if isinstance(value, date):
                raise RequestError(
                    f"{where}: row {row} holds the date {value}, which names no moment;"
                    " write datetime(..., tzinfo=datetime.UTC)"
                )
            continue
        if wanted.time_zone is not None and value.tzinfo is None:
            raise RequestError(
                f"{where}: row {row} holds {value}, which has no time zone;"
                " write datetime(..., tzinfo=datetime.UTC)"
            )
        if wanted.time_zone is None and value.tzinfo is not None:
            raise RequestError(
                f"{where}: row {row} holds {value}, but the column has no time zone;"
                " write value.astimezone(UTC).replace(tzinfo=None)"
            )


def _first_unfit(values: list[object], wanted: pl.DataType) -> tuple[int, object]:
    for row, value in enumerate(values):
        try:
            pl.Series([value], dtype=wanted, strict=True)
        except (TypeError, OverflowError, ValueError, pl.exceptions.PolarsError):
            return row, value
    return 0, values[0]


def _same_family(dtype: pl.DataType, wanted: pl.DataType) -> bool:
    if dtype == pl.Null:
        return True
    if isinstance(dtype, pl.Datetime) and isinstance(wanted, pl.Datetime):
        return (dtype.time_zone is None) == (wanted.time_zone is None)
    if wanted.is_integer():
        return dtype.is_integer()
    if wanted.is_float():
        return dtype.is_integer() or dtype.is_float()
    if wanted == pl.String:
        return isinstance(dtype, pl.Categorical | pl.Enum)
    return isinstance(dtype, pl.Duration) and isinstance(wanted, pl.Duration)


def _cure(dtype: pl.DataType, wanted: pl.DataType) -> str:
    if not (isinstance(dtype, pl.Datetime | pl.Date) and isinstance(wanted, pl.Datetime)):
        return ""
    if wanted.time_zone is None:
        return ', e.g. series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)'
    return ', e.g. series.dt.replace_time_zone("UTC")'
