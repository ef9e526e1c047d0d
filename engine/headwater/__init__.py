"""Headwater: a feature defined once, streamed, served and trained on, to the last bit the same."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwater.archive_store import archive
    from headwater.definitions.aggregate import Count as count
    from headwater.definitions.aggregate import First as first
    from headwater.definitions.aggregate import Last as last
    from headwater.definitions.aggregate import Max as max
    from headwater.definitions.aggregate import Mean as mean
    from headwater.definitions.aggregate import Min as min
    from headwater.definitions.aggregate import Std as std
    from headwater.definitions.aggregate import Sum as sum
    from headwater.definitions.aggregate import Variance as var
    from headwater.definitions.entity import entity
    from headwater.definitions.event_time import epoch
    from headwater.definitions.format import avro
    from headwater.definitions.on_demand import on_demand, request
    from headwater.definitions.service import service
    from headwater.definitions.stream import stream
    from headwater.definitions.view import view
    from headwater.definitions.window import window
    from headwater.errors import (
        ConfigError,
        DefinitionError,
        HeadwaterError,
        NotFoundError,
        StateError,
    )
    from headwater.flow.answer import RequestError, Status
    from headwater.flow.settings import WorkerSettings
    from headwater.local_store import local
    from headwater.remote_store import connect

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "DefinitionError",
    "HeadwaterError",
    "NotFoundError",
    "RequestError",
    "StateError",
    "Status",
    "WorkerSettings",
    "archive",
    "avro",
    "connect",
    "count",
    "entity",
    "epoch",
    "first",
    "last",
    "local",
    "max",
    "mean",
    "min",
    "on_demand",
    "request",
    "service",
    "std",
    "stream",
    "sum",
    "var",
    "view",
    "window",
]

# Loaded when first used, so that `headwater --help` waits for neither Numba nor Polars.
_HOMES = {
    "ConfigError": ("errors", "ConfigError"),
    "DefinitionError": ("errors", "DefinitionError"),
    "RequestError": ("flow.answer", "RequestError"),
    "Status": ("flow.answer", "Status"),
    "WorkerSettings": ("flow.settings", "WorkerSettings"),
    "HeadwaterError": ("errors", "HeadwaterError"),
    "NotFoundError": ("errors", "NotFoundError"),
    "StateError": ("errors", "StateError"),
    "archive": ("archive_store", "archive"),
    "avro": ("definitions.format", "avro"),
    "connect": ("remote_store", "connect"),
    "count": ("definitions.aggregate", "Count"),
    "entity": ("definitions.entity", "entity"),
    "epoch": ("definitions.event_time", "epoch"),
    "first": ("definitions.aggregate", "First"),
    "last": ("definitions.aggregate", "Last"),
    "local": ("local_store", "local"),
    "max": ("definitions.aggregate", "Max"),
    "mean": ("definitions.aggregate", "Mean"),
    "min": ("definitions.aggregate", "Min"),
    "on_demand": ("definitions.on_demand", "on_demand"),
    "request": ("definitions.on_demand", "request"),
    "service": ("definitions.service", "service"),
    "std": ("definitions.aggregate", "Std"),
    "stream": ("definitions.stream", "stream"),
    "sum": ("definitions.aggregate", "Sum"),
    "var": ("definitions.aggregate", "Variance"),
    "view": ("definitions.view", "view"),
    "window": ("definitions.window", "window"),
}


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name not in _HOMES:
        msg = f"module 'headwater' has no attribute {name!r}"
        raise AttributeError(msg)
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(f"headwater.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
