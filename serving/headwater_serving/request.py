"""Requests as a user writes them, and the messages they become."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from headwater.flow.answer import RequestError
from headwater.flow.inputs import input_columns, name_of_input, series_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headwater.flow.answer import ServiceInfo
    from headwater_serving.wire import Source

__all__ = ["Request", "at_us_of", "columns_of", "named_columns", "rows_of", "source_named"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Request:
    """Inputs by name, each a list, an array, a series or one value; and the read time."""

    inputs: Mapping[str, object] | pl.DataFrame
    at: datetime | None = None


def source_named(service: str | Sequence[str]) -> Source:
    """Return the source of a service's name or of a sequence of features."""
    if isinstance(service, str):
        if not service:
            raise RequestError("the service's name is empty; services() lists those there are")
        return service
    features = tuple(service)
    if not features or not all(isinstance(one, str) and one for one in features):
        raise RequestError(
            f"features {features!r:.80} must be names, e.g. ["
            '"plane_delays.n_1h"]; at least one is needed'
        )
    return features


def named_columns(
    inputs: Mapping[str, object] | pl.DataFrame | None, more: Mapping[str, object]
) -> dict[str, object]:
    """Return all inputs by name; raises RequestError for one given twice."""
    columns = _mapping(inputs) if inputs is not None else {}
    for name in more:
        if name in columns:
            raise RequestError(f'input "{name}" was given twice; leave one out')
    return {**columns, **more}


def columns_of(info: ServiceInfo, request: Request) -> list[pl.Series]:
    """Return the inputs of a request, equally long, in the order and types of the service.

    Raises RequestError for names, types and lengths that don't fit.
    """
    columns: dict[str, pl.Series] = {}
    for name, values in _mapping(request.inputs).items():
        target = name_of_input(info, name)
        wanted = info.join_keys.get(target) or info.request_inputs[target]
        columns[name] = series_of(target, values, wanted, f'input "{name}"')
    return input_columns(info, columns)


def rows_of(columns: Sequence[pl.Series]) -> int:
    """Return the number of rows of equally long columns."""
    return len(columns[0]) if columns else 0


def _mapping(inputs: Mapping[str, object] | pl.DataFrame) -> dict[str, object]:
    if isinstance(inputs, pl.DataFrame):
        return dict(inputs.to_dict(as_series=True))
    return dict(inputs)


def at_us_of(at: datetime | None) -> int | None:
    """Return a read time as µs since 1970-01-01 UTC; raises RequestError without a time zone."""
    if at is None:
        return None
    if not isinstance(at, datetime):
        kind = type(at).__name__
        raise RequestError(
            f"at is a {kind}; give a datetime with a time zone, e.g. datetime.now(UTC)"
        )
    if at.tzinfo is None:
        raise RequestError(
            f"at is {at}, which has no time zone; write at.replace(tzinfo=datetime.UTC)"
            " if it is meant in UTC"
        )
    return (at - _EPOCH) // _US
