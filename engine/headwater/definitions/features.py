"""Features in the making: rows grouped by an entity, over windows, aggregated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.definitions.aggregate import Aggregate
from headwater.definitions.expression import WithColumns
from headwater.definitions.name import checked_name
from headwater.definitions.window import Window
from headwater.definitions.window import window as make_window
from headwater.errors import DefinitionError, did_you_mean

if TYPE_CHECKING:
    from datetime import timedelta

    import polars as pl

    from headwater.definitions.entity import Entity
    from headwater.definitions.stream import Rows

__all__ = ["Feature", "Features", "Grouped", "Windowed"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of a view: an aggregate over a window."""

    name: str
    aggregate: Aggregate
    window: Window
    dtype: pl.DataType


@dataclass(frozen=True, slots=True)
class Features:
    """The whole dataflow of a view: rows, entity, windows and aggregates."""

    rows: Rows
    entity: Entity
    on: tuple[str, ...]
    windows: tuple[Window, ...]
    features: tuple[Feature, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The stream's columns that row logic and aggregates read; keys and event time apart.

        A column that `with_columns` has made is not the stream's, whatever its name. One that only
        an unused expression reads is among them: a row on which that raises is left out.
        """
        read: set[str] = set()
        made: set[str] = set()
        for step in self.rows.steps:
            read.update(name for name in step.columns if name not in made)
            if isinstance(step, WithColumns):
                made.update(name for name, _ in step.exprs)
        aggregated = {one.aggregate.column for one in self.features} - made
        return tuple(name for name in self.rows.stream.schema if name in read | aggregated)


@dataclass(frozen=True, slots=True)
class Windowed:
    """Rows of an entity over windows, not yet aggregated."""

    grouped: Grouped
    windows: tuple[Window, ...]

    def agg(self, /, *unnamed: Aggregate, **aggregates: Aggregate) -> Features:
        """Name the aggregates; each is computed over each window as `name_window`."""
        rows = self.grouped.rows
        where = f'stream "{rows.stream.topic}", agg'
        if unnamed:
            msg = f"{where}: {unnamed[0]} has no name; write e.g. agg(n=hw.count())"
            raise DefinitionError(msg)
        if not aggregates:
            msg = f"{where}: names no aggregate; write e.g. agg(n=hw.count())"
            raise DefinitionError(msg)
        features = []
        for name, aggregate in aggregates.items():
            checked_name(name, f"{where}: feature")
            if not isinstance(aggregate, Aggregate):
                missing_call = isinstance(aggregate, type) and issubclass(aggregate, Aggregate)
                given = f"hw.{aggregate.kind}" if missing_call else repr(aggregate)
                cure = f"{given}(...)" if missing_call else 'hw.mean("column")'
                msg = f"{where}: {name}={given} is not an aggregate; write e.g. {cure}"
                raise DefinitionError(msg)
            if aggregate.column is not None and aggregate.column not in rows.schema:
                hint = did_you_mean(aggregate.column, rows.schema)
                msg = f'{where}: {name}={aggregate}: no column "{aggregate.column}".{hint}'
                raise DefinitionError(msg)
            dtype = aggregate.output_dtype(rows.schema)
            features += [Feature(f"{name}_{w.name}", aggregate, w, dtype) for w in self.windows]
        names = [checked_name(feature.name, f"{where}: feature") for feature in features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            msg = f"{where}: feature {twice[0]} is defined twice; rename an aggregate or a window"
            raise DefinitionError(msg)
        return Features(rows, self.grouped.entity, self.grouped.on, self.windows, tuple(features))


@dataclass(frozen=True, slots=True)
class Grouped:
    """Rows grouped by an entity; `on` are the stream's columns that hold its key."""

    rows: Rows
    entity: Entity
    on: tuple[str, ...]

    def agg(self, /, **_aggregates: Aggregate) -> Features:
        """Refuse to aggregate before windows are chosen."""
        msg = (
            f'stream "{self.rows.stream.topic}", agg: choose windows first, e.g.'
            ' .window("1h", "lifetime").agg(...)'
        )
        raise DefinitionError(msg)

    def window(
        self,
        *windows: str | timedelta | Window,
        hop: str | timedelta | None = None,
        exact: bool = False,
    ) -> Windowed:
        """Choose windows, e.g. `window("1h", "lifetime")`; `hop` and `exact` apply to each."""
        where = f'stream "{self.rows.stream.topic}", window'
        if not windows:
            msg = f'{where}: names no window; write e.g. window("1h", "7d")'
            raise DefinitionError(msg)
        made = tuple(
            w if isinstance(w, Window) else make_window(w, hop=hop, exact=exact) for w in windows
        )
        names = [w.name for w in made]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            msg = f'{where}: window "{twice[0]}" is given twice; give one of them a name='
            raise DefinitionError(msg)
        return Windowed(self, made)
