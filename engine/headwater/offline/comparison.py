"""Two versions of a view side by side: both computed for one spine, and told apart bit by bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from headwater.definitions.service import service
from headwater.flow.answer import RequestError
from headwater.offline.buckets import MEMORY_BUDGET_BYTES
from headwater.offline.training_set import training_set
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from headwater.definitions.view import View
    from headwater.offline.sources import EventSource
    from headwater.plan.plan import Plan, ViewPlan

__all__ = ["Comparison", "Example", "FeatureComparison"]

_EXAMPLES_MAX = 3


@dataclass(frozen=True, slots=True)
class Example:
    """One value that differs: of which entity, at which moment, and both values."""

    entity: Mapping[str, Any]
    at: Any
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class FeatureComparison:
    """What was found of one feature; `only_old` and `only_new` are values that the other lacks.

    Values of other types are compared as doubles, or not at all where one is no number. The largest
    difference is None where there is none; the relative one is to the larger of the two values.
    """

    name: str
    old_dtype: pl.DataType
    new_dtype: pl.DataType
    compared: int
    equal: int
    only_old: int
    only_new: int
    largest_absolute: float | None
    largest_relative: float | None
    examples: tuple[Example, ...]

    @property
    def differing(self) -> int:
        """How many values differ, those that only one version has among them."""
        return self.compared - self.equal

    @property
    def is_same(self) -> bool:
        """Whether every value was compared, and none differs."""
        return bool(self.compared) and not self.differing


class Comparison:
    """Computes two versions for one part of a spine after another, and keeps what was found.

    Raises RequestError for versions of entities with other keys.
    """

    def __init__(
        self, old: View, new: View, *, memory_budget_bytes: int = MEMORY_BUDGET_BYTES
    ) -> None:
        self._memory_budget_bytes = memory_budget_bytes
        # Of their own plans: the two may be written on different definitions of one stream.
        self._plans = _plan_of(old), _plan_of(new)
        self.old, self.new = map(_view_of, self._plans)
        if dict(self.old.key_dtypes) != dict(self.new.key_dtypes):
            keys = (
                f"{one.id} is keyed by "
                + ", ".join(f"{key} {dtype}" for key, dtype in one.key_dtypes.items())
                for one in (self.old, self.new)
            )
            msg = f"{' and '.join(keys)}: only versions with the same keys can be compared"
            raise RequestError(msg)
        self.rows = 0
        names = self.new.feature_names
        self._tallies = {
            name: _Tally(name, *self._dtypes(name))
            for name in self.old.feature_names
            if name in names
        }

    def _dtypes(self, name: str) -> tuple[pl.DataType, pl.DataType]:
        old, new = (
            dict(zip(v.feature_names, v.layout.output_dtypes, strict=True)) for v in self._views
        )
        return old[name], new[name]

    @property
    def _views(self) -> tuple[ViewPlan, ViewPlan]:
        return self.old, self.new

    @property
    def only_old(self) -> tuple[str, ...]:
        """The features that only the old version has."""
        return tuple(name for name in self.old.feature_names if name not in self._tallies)

    @property
    def only_new(self) -> tuple[str, ...]:
        """The features that only the new version has."""
        return tuple(name for name in self.new.feature_names if name not in self._tallies)

    @property
    def features(self) -> tuple[FeatureComparison, ...]:
        """What was found so far, in the order of the old version."""
        return tuple(one.found() for one in self._tallies.values())

    @property
    def is_same(self) -> bool:
        """Whether something was compared, and no value differs."""
        return bool(self.rows) and all(one.is_same for one in self.features)

    def add(
        self,
        spine: pl.DataFrame,
        *,
        time: str,
        source: EventSource,
        advance: Callable[[int], None] = lambda _events: None,
    ) -> pl.DataFrame:
        """Compare both versions for the rows of a spine; return the rows with a difference.

        They are keys and time, and of each feature that both have `old.NAME` and `new.NAME`. Each
        version reads history once; `source` has to give both the same.
        """
        wanted = (*self.old.entity.key, time)
        asked = spine.select(name for name in spine.columns if name in wanted)
        old, new = (
            training_set(
                plan,
                view.view.name,
                asked,
                time=time,
                source=source,
                memory_budget_bytes=self._memory_budget_bytes,
                advance=advance,
            ).collect()
            for plan, view in zip(self._plans, self._views, strict=True)
        )
        self.rows += asked.height
        differs = np.zeros(asked.height, np.bool_)
        columns = asked.get_columns()
        for name, tally in self._tallies.items():
            differs |= tally.add(asked, time, old[name], new[name])
            columns += [old[name].alias(f"old.{name}"), new[name].alias(f"new.{name}")]
        return pl.DataFrame(columns).filter(differs)


class _Tally:
    """One feature's values, counted."""

    def __init__(self, name: str, old: pl.DataType, new: pl.DataType) -> None:
        self._name = name
        self._dtypes = old, new
        self._is_number = all(one.is_numeric() or one == pl.Boolean for one in (old, new))
        self._compared = self._equal = self._only_old = self._only_new = 0
        self._absolute: float | None = None
        self._relative: float | None = None
        self._examples: list[Example] = []

    def add(
        self, asked: pl.DataFrame, time: str, old: pl.Series, new: pl.Series
    ) -> NDArray[np.bool_]:
        """Count a part's values; return which of them differ (n)."""
        if old.dtype != new.dtype and not self._is_number:
            return np.zeros(len(old), np.bool_)
        equal = _equal_bits(old, new)
        differs = ~equal
        self._compared += len(old)
        self._equal += int(np.count_nonzero(equal))
        self._only_old += int((old.is_not_null() & new.is_null()).sum())
        self._only_new += int((old.is_null() & new.is_not_null()).sum())
        if differs.any():
            if self._is_number:
                self._measure(old.filter(differs), new.filter(differs))
            self._show(asked, time, old, new, np.flatnonzero(differs))
        return differs

    def _measure(self, old: pl.Series, new: pl.Series) -> None:
        # Whole numbers are subtracted as such: as doubles the large ones would be alike.
        whole = not (old.dtype.is_float() or new.dtype.is_float())
        left, right = (one.cast(pl.Int128 if whole else pl.Float64) for one in (old, new))
        absolute = (left - right).abs().cast(pl.Float64)
        scale = pl.DataFrame([left.alias("l"), right.alias("r")]).select(
            pl.max_horizontal(pl.col("l").abs(), pl.col("r").abs()).cast(pl.Float64)
        )
        relative = absolute / scale.to_series()
        self._absolute = _larger(self._absolute, absolute)
        self._relative = _larger(self._relative, relative)

    def _show(
        self,
        asked: pl.DataFrame,
        time: str,
        old: pl.Series,
        new: pl.Series,
        rows: NDArray[np.int64],
    ) -> None:
        for row in rows[: _EXAMPLES_MAX - len(self._examples)].tolist():
            entity = asked.row(row, named=True)
            at = entity.pop(time)
            self._examples.append(Example(entity, at, old[row], new[row]))

    def found(self) -> FeatureComparison:
        """Return what was counted."""
        return FeatureComparison(
            self._name,
            *self._dtypes,
            compared=self._compared,
            equal=self._equal,
            only_old=self._only_old,
            only_new=self._only_new,
            largest_absolute=self._absolute,
            largest_relative=self._relative,
            examples=tuple(self._examples),
        )


def _plan_of(view: View) -> Plan:
    return compile_plan([service(view.name, [view])])


def _view_of(plan: Plan) -> ViewPlan:
    (view,) = plan.views.values()
    return view


def _equal_bits(old: pl.Series, new: pl.Series) -> NDArray[np.bool_]:
    """Return which values have the same bits, or are both null (n)."""
    if old.dtype != new.dtype:
        old, new = old.cast(pl.Float64), new.cast(pl.Float64)
    if not old.dtype.is_float():
        return old.eq_missing(new).to_numpy()
    both_null = (old.is_null() == new.is_null()).to_numpy()
    left, right = (one.fill_null(0.0).to_numpy() for one in (old, new))
    word = np.dtype(f"u{left.itemsize}")
    same: NDArray[np.bool_] = both_null & (left.view(word) == right.view(word))
    return same


def _larger(known: float | None, values: pl.Series) -> float | None:
    largest = values.drop_nulls().drop_nans().max()
    if largest is None:
        return known
    assert isinstance(largest, float)
    return largest if known is None else max(known, largest)
