"""The naive reference of every aggregate and window: filter the raw events, fold Python integers.

Slow and obvious on purpose; the kernels must agree with it to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from headwater.definitions.aggregate import (
    Aggregate,
    Count,
    First,
    Last,
    Max,
    Mean,
    Min,
    Std,
    Sum,
    Variance,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headwater.definitions.window import Window

__all__ = ["Event", "reference_value", "usable", "window_start"]

_SUM_UNIT = 1 << 128
_SUM_BOUND = 2.0**96
_MOMENT_UNIT = 1 << 48
_MOMENT_BOUND = 2.0**64
_INT64_MAX = (1 << 63) - 1
_UINT64_MAX = (1 << 64) - 1

Number = int | float


@dataclass(frozen=True, slots=True)
class Event:
    """A raw event: µs, its place in the log, and its columns."""

    ts: int
    partition: int
    offset: int
    values: Mapping[str, Number | None]


def window_start(window: Window, t: int) -> int | None:
    """Return the first µs in the window at `t`, or None for a lifetime."""
    if window.width_us is None:
        return None
    if window.hop_us == 0:
        return t - window.width_us
    return (t - window.width_us) // window.hop_us * window.hop_us


def usable(value: Number | None) -> Number | None:
    """Return the value as it counts: None for null, NaN and ±∞; 0.0 for −0.0."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value + 0.0 if isinstance(value, float) else value


def reference_value(
    aggregate: Aggregate, window: Window, events: Sequence[Event], t: int, *, unsigned: bool = False
) -> Number | None:
    """Return an aggregate over the events of one entity that its window at `t` holds.

    `unsigned` says that the column is UInt64, whose sums may reach 2⁶⁴ − 1.
    """
    start = window_start(window, t)
    inside = [event for event in events if event.ts < t and (start is None or event.ts >= start)]
    if isinstance(aggregate, Count) and aggregate.column is None:
        return len(inside)
    column = aggregate.column
    assert column is not None
    inside = [event for event in inside if usable(event.values[column]) is not None]
    values = [value for event in inside if (value := usable(event.values[column])) is not None]
    if isinstance(aggregate, Count):
        return len(values)
    if isinstance(aggregate, First | Last):
        choose = min if isinstance(aggregate, First) else max
        if not inside:
            return None
        return usable(choose(inside, key=lambda e: (e.ts, e.partition, e.offset)).values[column])
    if isinstance(aggregate, Min | Max):
        return (min if isinstance(aggregate, Min) else max)(values, default=None)
    if isinstance(aggregate, Sum | Mean):
        return _sum_or_mean(aggregate, values, unsigned=unsigned)
    assert isinstance(aggregate, Variance | Std)
    return _spread(aggregate, values)


def _sum_or_mean(aggregate: Sum | Mean, values: list[Number], *, unsigned: bool) -> Number | None:
    floats = [value for value in values if isinstance(value, float)]
    if floats:
        grid = [round(Fraction(x) * _SUM_UNIT) for x in floats if abs(x) < _SUM_BOUND]
        if not grid:
            return None
        exact = Fraction(sum(grid), _SUM_UNIT)
        return _double(exact if isinstance(aggregate, Sum) else exact / len(grid))
    if not values:
        return None
    total = sum(int(value) for value in values)
    if isinstance(aggregate, Mean):
        return _double(Fraction(total, len(values)))
    if unsigned:
        return total if total <= _UINT64_MAX else None
    return total if -_INT64_MAX - 1 <= total <= _INT64_MAX else None


def _spread(aggregate: Variance | Std, values: list[Number]) -> float | None:
    grid = [
        round(Fraction(x) * _MOMENT_UNIT)
        for x in values
        if not isinstance(x, float) or abs(x) < _MOMENT_BOUND
    ]
    n = len(grid)
    if n <= aggregate.ddof:
        return None
    exact = Fraction(
        n * sum(x * x for x in grid) - sum(grid) ** 2,
        n * (n - aggregate.ddof) * _MOMENT_UNIT * _MOMENT_UNIT,
    )
    variance = _double(exact)
    return variance if isinstance(aggregate, Variance) else math.sqrt(variance)


def _double(exact: Fraction) -> float:
    # Division of Python integers rounds half to even, once.
    return exact.numerator / exact.denominator
