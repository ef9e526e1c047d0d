"""Streams: a topic, its schema, and the row logic written on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import polars as pl

from headwater.definitions.duration import duration_us
from headwater.definitions.entity import Entity
from headwater.definitions.event_time import EventTime, event_time_of
from headwater.definitions.expression import Filter, WithColumns, check_row_wise
from headwater.definitions.features import Grouped
from headwater.definitions.format import format_of
from headwater.definitions.name import checked_name
from headwater.errors import DefinitionError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from headwater.definitions.expression import Step
    from headwater.definitions.format import Format

__all__ = ["Rows", "Stream", "stream"]

# What an event can carry, whatever its format; datetimes of any unit as well.
COLUMN_TYPES = frozenset(
    {
        pl.String(),
        pl.Boolean(),
        pl.Date(),
        pl.Float32(),
        pl.Float64(),
        pl.Int8(),
        pl.Int16(),
        pl.Int32(),
        pl.Int64(),
        pl.UInt8(),
        pl.UInt16(),
        pl.UInt32(),
        pl.UInt64(),
    }
)


@dataclass(frozen=True, slots=True)
class Stream:
    """A topic of events: its columns, which of them is the event time, and where history begins."""

    topic: str
    schema: Mapping[str, pl.DataType]
    event_time: EventTime
    start: str | datetime
    format: Format
    skew_us: int

    def filter(self, predicate: pl.Expr) -> Rows:
        """Keep the rows for which a row-wise predicate is true."""
        return Rows(self, (), self.schema).filter(predicate)

    def with_columns(self, /, *exprs: pl.Expr, **named: pl.Expr) -> Rows:
        """Add columns computed row by row."""
        return Rows(self, (), self.schema).with_columns(*exprs, **named)

    def group_by(self, entity: Entity, *, on: str | list[str] | None = None) -> Grouped:
        """Group by an entity; `on` names the columns where they differ from the entity's key."""
        return Rows(self, (), self.schema).group_by(entity, on=on)


@dataclass(frozen=True, slots=True)
class Rows:
    """A stream's rows after some row-wise steps."""

    stream: Stream
    steps: tuple[Step, ...]
    schema: Mapping[str, pl.DataType]

    def filter(self, predicate: pl.Expr) -> Rows:
        """Keep the rows for which a row-wise predicate is true."""
        where = f'stream "{self.stream.topic}", filter'
        dtype = check_row_wise(predicate, self.schema, where)
        if dtype != pl.Boolean:
            msg = f"{where}: the predicate is {dtype}, not Boolean; compare it with something"
            raise DefinitionError(msg)
        return replace(self, steps=(*self.steps, Filter(predicate)))

    def with_columns(self, /, *exprs: pl.Expr, **named: pl.Expr) -> Rows:
        """Add columns computed row by row; keys and the event time stay as they arrived."""
        where = f'stream "{self.stream.topic}", with_columns'
        columns = [(_output_name(expr, where), expr) for expr in exprs]
        columns += [(name, _expression(value)) for name, value in named.items()]
        schema = dict(self.schema)
        for name, expr in columns:
            if name == self.stream.event_time.column:
                msg = (
                    f'{where}: "{name}" is the event time, which belongs to the event; use another'
                    " name"
                )
                raise DefinitionError(msg)
            if [column for column, _ in columns].count(name) > 1:
                msg = f'{where}: "{name}" is defined twice; give the columns different names'
                raise DefinitionError(msg)
            _check_column(name, where)
            schema[name] = check_row_wise(expr, self.schema, f'{where} "{name}"')
        step = WithColumns(tuple(columns))
        return replace(self, steps=(*self.steps, step), schema=MappingProxyType(schema))

    def group_by(self, entity: Entity, *, on: str | list[str] | None = None) -> Grouped:
        """Group by an entity; `on` names the columns where they differ from the entity's key."""
        if not isinstance(entity, Entity):
            msg = (
                f'stream "{self.stream.topic}", group_by: {entity!r} is not an entity;'
                ' write group_by(hw.entity("name", key="column"))'
            )
            raise DefinitionError(msg)
        where = f'stream "{self.stream.topic}", group_by("{entity.name}")'
        columns = entity.key if on is None else (on,) if isinstance(on, str) else tuple(on)
        if len(columns) != len(entity.key):
            msg = f"{where}: the entity has {len(entity.key)} key columns, on= names {len(columns)}"
            raise DefinitionError(msg)
        for position, column in enumerate(columns):
            self._check_key(column, entity, position, where)
        return Grouped(self, entity, columns)

    def _check_key(self, column: str, entity: Entity, position: int, where: str) -> None:
        if column not in self.stream.schema:
            derived = column in self.schema
            hint = (
                " Keys come from the event itself; with_columns can't define them."
                if derived
                else did_you_mean(column, self.stream.schema)
            )
            msg = (
                f'{where}: no column "{column}" in the stream.{hint} Write on= if it has another'
                " name."
            )
            raise DefinitionError(msg)
        for step in self.steps:
            if isinstance(step, WithColumns) and column in dict(step.exprs):
                msg = (
                    f'{where}: key column "{column}" is redefined by with_columns; use another'
                    " name there"
                )
                raise DefinitionError(msg)
        dtype = self.stream.schema[column]
        if entity.dtypes is not None and entity.dtypes[position] != dtype:
            msg = (
                f'{where}: key column "{column}" is {dtype}, the entity says'
                f" {entity.dtypes[position]};"
                " make the two agree"
            )
            raise DefinitionError(msg)
        if not (
            dtype.is_integer() or dtype in (pl.String, pl.Boolean, pl.Binary, pl.Date, pl.Datetime)
        ):
            msg = (
                f'{where}: key column "{column}" is {dtype}; keys are text, integers, Booleans,'
                " binary, dates"
            )
            raise DefinitionError(msg)


def stream(
    topic: str,
    *,
    schema: Mapping[str, pl.DataType | type[pl.DataType]],
    event_time: str | EventTime,
    start: str | datetime = "earliest",
    format: str | Format = "json",  # noqa: A002 - the word users look for
    skew: str | timedelta = "5m",
) -> Stream:
    """Return a stream: a topic with a schema and an event time.

    `format` is "json", "avro" (schemas from the deployment's registry) or `hw.avro(...)`. An event
    later than `skew` after its record's own timestamp goes to the dead-letter topic.
    Raises DefinitionError for an unknown format, start, column or unit.
    """
    checked_name(topic, "stream", topic=True)
    where = f'stream "{topic}"'
    if not schema:
        msg = f"{where}: the schema is empty; name the columns and their Polars types"
        raise DefinitionError(msg)
    types = {name: _instance(name, dtype, where) for name, dtype in schema.items()}
    carried = format_of(format, where)
    carried.check(types, where)
    if isinstance(start, str) and start not in ("earliest", "latest"):
        msg = f'{where}: start "{start}" is neither "earliest" nor "latest" nor a datetime'
        raise DefinitionError(msg)
    if not isinstance(start, str) and start.tzinfo is None:
        msg = f"{where}: start {start} has no time zone; write tzinfo=datetime.UTC"
        raise DefinitionError(msg)
    return Stream(
        topic,
        MappingProxyType(types),
        event_time_of(event_time, types, where),
        start,
        carried,
        duration_us(skew, f"{where}, skew"),
    )


def _instance(name: str, dtype: object, where: str) -> pl.DataType:
    found = dtype() if isinstance(dtype, type) and issubclass(dtype, pl.DataType) else dtype
    if not isinstance(found, pl.DataType):
        msg = f'{where}, column "{name}": {dtype!r} is not a Polars type such as pl.Float64'
        raise DefinitionError(msg)
    _check_column(name, where)
    if name == "*" or (name.startswith("^") and name.endswith("$")):
        msg = f"{where}, column {name!r}: Polars takes this name for a pattern; rename it"
        raise DefinitionError(msg)
    if found not in COLUMN_TYPES and not isinstance(found, pl.Datetime):
        msg = (
            f"{where}, column \"{name}\": type {found} can't be an event's; flatten it or leave"
            " it out"
        )
        raise DefinitionError(msg)
    return found


def _check_column(name: str, where: str) -> None:
    if name.startswith("__"):
        msg = f'{where}: column "{name}": names that begin with "__" are the engine\'s; rename it'
        raise DefinitionError(msg)


def _output_name(expr: pl.Expr, where: str) -> str:
    try:
        return expr.meta.output_name()
    except pl.exceptions.PolarsError as error:
        msg = (
            f"{where}: {expr} has no single name; write with_columns(name=...) with one column each"
        )
        raise DefinitionError(msg) from error


def _expression(value: object) -> pl.Expr:
    return value if isinstance(value, pl.Expr) else pl.lit(value)
