"""Feature services: the features a model is served and trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.definitions.name import checked_name
from headwater.definitions.on_demand import OnDemand
from headwater.definitions.view import View
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

__all__ = ["Service", "service"]


@dataclass(frozen=True, slots=True)
class Service:
    """A feature service: views and on-demand functions, in the order of its columns."""

    name: str
    parts: tuple[View | OnDemand, ...]
    owner: str = ""
    description: str = ""

    @property
    def views(self) -> tuple[View, ...]:
        """Every view needed, also those that only an on-demand function reads."""
        found: dict[str, View] = {}
        for part in self.parts:
            for one in (part,) if isinstance(part, View) else part.views:
                found.setdefault(one.name, one)
        return tuple(found.values())

    @property
    def on_demands(self) -> tuple[OnDemand, ...]:
        """The on-demand functions, in order."""
        return tuple(part for part in self.parts if isinstance(part, OnDemand))

    @property
    def columns(self) -> tuple[tuple[str, str, pl.DataType], ...]:
        """Each answer column as (part, feature, dtype), in order."""
        found = []
        for part in self.parts:
            if isinstance(part, View):
                found += [(part.name, f.name, f.dtype) for f in part.features.features]
            else:
                found += [(part.name, name, dtype) for name, dtype in part.outputs.items()]
        return tuple(found)

    def column_names(self) -> tuple[str, ...]:
        """Return the answer's column names: short, or `view.feature` where short ones collide."""
        short = [feature for _, feature, _ in self.columns]
        return tuple(
            feature if short.count(feature) == 1 else f"{part}.{feature}"
            for part, feature, _ in self.columns
        )


def service(
    name: str,
    parts: View | OnDemand | Sequence[View | OnDemand],
    *,
    owner: str = "",
    description: str = "",
) -> Service:
    """Return a feature service of views and on-demand functions."""
    checked_name(name, "service")
    where = f'service "{name}"'
    parts = [parts] if isinstance(parts, View | OnDemand) else list(parts)
    if not parts:
        msg = f"{where}: is empty; list at least one view"
        raise DefinitionError(msg)
    for part in parts:
        if not isinstance(part, View | OnDemand):
            msg = f"{where}: {part!r} is neither a view nor an on-demand function"
            raise DefinitionError(msg)
    names = [part.name for part in parts]
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        msg = f'{where}: "{twice[0]}" is listed twice; leave one out'
        raise DefinitionError(msg)
    made = Service(name, tuple(parts), owner, description)
    _check_versions(made, where)
    _check_inputs(made, where)
    return made


def _check_versions(made: Service, where: str) -> None:
    seen: dict[str, View] = {}
    for part in made.parts:
        for one in (part,) if isinstance(part, View) else part.views:
            if seen.setdefault(one.name, one).version != one.version:
                msg = (
                    f'{where}: view "{one.name}" is used in versions {seen[one.name].version} and'
                    f" {one.version}; pin one of them"
                )
                raise DefinitionError(msg)


def _check_inputs(made: Service, where: str) -> None:
    """Refuse inputs that are two things under one name: a request has one column for each."""
    views = {view.name for view in made.views}
    for on_demand in made.on_demands:
        if on_demand.name in views:
            msg = f'{where}: "{on_demand.name}" is a view and an on-demand function; rename one'
            raise DefinitionError(msg)
    keys: dict[str, pl.DataType] = {}
    for view in made.views:
        features = view.features
        for key, column in zip(features.entity.key, features.on, strict=True):
            dtype = features.rows.stream.schema[column]
            if keys.setdefault(key, dtype) != dtype:
                msg = (
                    f'{where}: key "{key}" is {keys[key]} in one view and {dtype} in view'
                    f' "{view.name}"; give one of the entities another key name, and group_by it'
                    " with on="
                )
                raise DefinitionError(msg)
    asked: dict[str, pl.DataType] = {}
    for one in (one for on_demand in made.on_demands for one in on_demand.request):
        if one.name in keys:
            msg = f'{where}: "{one.name}" is a key and a request input; rename the request input'
            raise DefinitionError(msg)
        if asked.setdefault(one.name, one.dtype) != one.dtype:
            msg = (
                f'{where}: request input "{one.name}" is {asked[one.name]} in one on-demand'
                f" function and {one.dtype} in another; make them agree"
            )
            raise DefinitionError(msg)
