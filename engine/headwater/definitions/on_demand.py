"""On-demand features: computed from a view's values and the request, when it is asked."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import polars as pl

from headwater.definitions.capture import Captured, capture
from headwater.definitions.name import checked_name
from headwater.definitions.view import View
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["OnDemand", "RequestInput", "input_schema", "on_demand", "request"]


@dataclass(frozen=True, slots=True)
class RequestInput:
    """A value the caller sends with the request, e.g. the amount of this very payment."""

    name: str
    dtype: pl.DataType


@dataclass(frozen=True, slots=True)
class OnDemand:
    """A captured on-demand function: its inputs, its plan and the columns it adds."""

    name: str
    views: tuple[View, ...]
    request: tuple[RequestInput, ...]
    captured: Captured
    description: str = ""

    @property
    def outputs(self) -> Mapping[str, pl.DataType]:
        """The features it adds, in order."""
        return self.captured.outputs


def request(name: str, dtype: pl.DataType | type[pl.DataType]) -> RequestInput:
    """Return a request-time input, as it is named in the request."""
    checked_name(name, "request input")
    found = dtype() if isinstance(dtype, type) else dtype
    if not isinstance(found, pl.DataType):
        msg = f'request input "{name}": {dtype!r} is not a Polars type such as pl.Float64'
        raise DefinitionError(msg)
    return RequestInput(name, found)


def on_demand(
    *, inputs: Sequence[View | RequestInput]
) -> Callable[[Callable[[pl.LazyFrame], pl.LazyFrame]], OnDemand]:
    """Turn a function of a lazy frame into on-demand features.

    The function runs once, here, on an empty typed frame; its plan is what is stored and run.
    """

    def decorate(function: Callable[[pl.LazyFrame], pl.LazyFrame]) -> OnDemand:
        name = checked_name(function.__name__, "on-demand")
        where = f'on-demand "{name}"'
        views = tuple(one for one in inputs if isinstance(one, View))
        requests = tuple(one for one in inputs if isinstance(one, RequestInput))
        if len(views) + len(requests) != len(inputs):
            odd = next(one for one in inputs if not isinstance(one, View | RequestInput))
            msg = f"{where}: input {odd!r} is neither a view nor hw.request(...)"
            raise DefinitionError(msg)
        captured = capture(function, input_schema(views, requests, where), where)
        return OnDemand(name, views, requests, captured, inspect.getdoc(function) or "")

    return decorate


def input_schema(
    views: tuple[View, ...], requests: tuple[RequestInput, ...], where: str
) -> Mapping[str, pl.DataType]:
    """Return the columns of the frame a function is given; raise DefinitionError for a twin."""
    schema: dict[str, pl.DataType] = {}
    columns = [(f.name, f.dtype) for view in views for f in view.features.features]
    columns += [(one.name, one.dtype) for one in requests]
    for name, dtype in columns:
        if name in schema:
            msg = (
                f'{where}: input "{name}" comes twice; rename it in one of the views or the request'
            )
            raise DefinitionError(msg)
        schema[name] = dtype
    return MappingProxyType(schema)
