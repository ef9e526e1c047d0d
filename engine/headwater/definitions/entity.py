"""Entities: what a feature is about, and the columns that name one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.definitions.name import checked_name
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

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
    columns = (key,) if isinstance(key, str) else tuple(key)
    if not columns or len(set(columns)) != len(columns):
        msg = f'entity "{name}": key {list(columns)} must name one or more different columns'
        raise DefinitionError(msg)
    dtypes = None
    if dtype is not None:
        given = list(dtype) if isinstance(dtype, list | tuple) else [dtype]
        if len(given) != len(columns):
            msg = (
                f'entity "{name}": {len(columns)} key columns but {len(given)} types; give one each'
            )
            raise DefinitionError(msg)
        dtypes = tuple(_instance(one) for one in given)
    return Entity(name, columns, dtypes, description)


def _instance(dtype: object) -> pl.DataType:
    return dtype() if isinstance(dtype, type) else dtype  # type: ignore[return-value]
