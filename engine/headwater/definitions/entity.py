"""Entities: what a feature is about, and the columns that name one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from headwater.definitions.name import checked_name
from headwater.errors import DefinitionError

__all__ = ["Entity", "entity"]


@dataclass(frozen=True, slots=True)
class Entity:
    """A kind of thing, named by one or more key columns; `dtypes` None takes the stream's types."""

    name: str
    key: tuple[str, ...]
    dtypes: tuple[pl.DataType, ...] | None = None
    description: str = ""


def entity(
    name: str,
    *,
    key: str | Sequence[str],
    dtype: pl.DataType
    | type[pl.DataType]
    | Sequence[pl.DataType | type[pl.DataType]]
    | None = None,
    description: str = "",
) -> Entity:
    """Return an entity; `key` is its column or columns, in an order that is part of it."""
    checked_name(name, "entity")
    columns = (key,) if isinstance(key, str) else tuple(key) if isinstance(key, Sequence) else ()
    texts = all(isinstance(column, str) for column in columns)
    if not columns or not texts or len(set(columns)) != len(columns):
        msg = f'entity "{name}": key {key!r} must name one or more different columns'
        raise DefinitionError(msg)
    dtypes = None
    if dtype is not None:
        given = list(dtype) if isinstance(dtype, list | tuple) else [dtype]
        if len(given) != len(columns):
            msg = (
                f'entity "{name}": {len(columns)} key columns but {len(given)} types; give one each'
            )
            raise DefinitionError(msg)
        dtypes = tuple(_instance(one, name) for one in given)
    return Entity(name, columns, dtypes, description)


def _instance(dtype: object, name: str) -> pl.DataType:
    found = dtype() if isinstance(dtype, type) else dtype
    if not isinstance(found, pl.DataType):
        msg = f'entity "{name}": {dtype!r} is not a Polars type such as pl.String'
        raise DefinitionError(msg)
    return found
