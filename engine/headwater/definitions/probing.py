"""Random frames, and the search for a row whose result depends on the rows around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from polars.datatypes import DataTypeClass

__all__ = ["find_leak", "identical", "random_frame"]

_NULL_SHARE = 0.2
_LONE_ROWS = 12
_DAY_US = 86_400_000_000
_EPOCH_DAYS = (-719_162, 2_932_896)  # 0001-01-01 and 9999-12-31: what a calendar holds
_NS_DAYS = (-106_751, 106_751)  # what 64 bits of nanoseconds hold

_INFINITY = float("inf")
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 2.5, 1e-300, 1e300, 1e16, float("nan"), _INFINITY, -_INFINITY)
_STRINGS = (
    *("", " ", "a", "A", "ab", "b", "x,y", "é", "e\u0301", "ß", "東京", "\U0001f6eb", "a\nb"),
    *("0", "1", "-7", "2.5", "1e3", "NaN", "true", "2024-03-31", "2024-03-31 02:30:00", "12:34"),
    *("2024-03-31T02:30:00Z", '{"a":1}', "[0]", "N14228", "%"),
)
_BYTES = (b"", b"\x00", b"a", b"\xff\xfe")

_INTEGERS: Mapping[type[pl.DataType], tuple[int, int]] = {
    pl.Int8: (-(1 << 7), (1 << 7) - 1),
    pl.Int16: (-(1 << 15), (1 << 15) - 1),
    pl.Int32: (-(1 << 31), (1 << 31) - 1),
    pl.Int64: (-(1 << 63), (1 << 63) - 1),
    pl.Int128: (-(1 << 127), (1 << 127) - 1),
    pl.UInt8: (0, (1 << 8) - 1),
    pl.UInt16: (0, (1 << 16) - 1),
    pl.UInt32: (0, (1 << 32) - 1),
    pl.UInt64: (0, (1 << 64) - 1),
}
# The widest steps from a unit of time to a day, and the days it reaches.
_PER_DAY = {"ms": _DAY_US // 1_000, "us": _DAY_US, "ns": _DAY_US * 1_000}


def random_frame(
    schema: Mapping[str, pl.DataType],
    rows: int,
    rng: np.random.Generator,
    *,
    nulls: bool,
    literals: Sequence[object] = (),
) -> pl.DataFrame:
    """Return a frame of awkward values: extremes, ±0, NaN, ±∞, empty and wide text, many ties.

    `literals` are values the expression under test compares with: they come up often. A type
    nobody can draw from comes as nulls.
    """
    columns = [_series(dtype, rows, rng, literals).alias(name) for name, dtype in schema.items()]
    if nulls:
        masks = (rng.random(rows) < _NULL_SHARE for _ in columns)
        columns = [
            pl.select(pl.when(pl.Series(~mask)).then(column).alias(column.name)).to_series()
            for column, mask in zip(columns, masks, strict=True)
        ]
    return pl.DataFrame(columns)


def _series(
    dtype: pl.DataType, rows: int, rng: np.random.Generator, literals: Sequence[object]
) -> pl.Series:
    if isinstance(dtype, pl.List | pl.Array):
        return _lists(dtype, rows, rng, literals)
    if isinstance(dtype, pl.Struct):
        fields = [_series(_plain(f.dtype), rows, rng, literals).alias(f.name) for f in dtype.fields]
        return pl.DataFrame(fields).to_struct().cast(dtype)
    pool, physical = _pool(dtype, rng, literals)
    if not pool:
        return pl.Series(values=[None] * rows, dtype=dtype)
    picks = rng.integers(len(pool), size=rows)
    return pl.Series(values=[pool[pick] for pick in picks], dtype=physical).cast(dtype)


def _plain(dtype: pl.DataType | DataTypeClass) -> pl.DataType:
    return dtype() if isinstance(dtype, type) else dtype


def _lists(
    dtype: pl.List | pl.Array, rows: int, rng: np.random.Generator, literals: Sequence[object]
) -> pl.Series:
    lengths = [dtype.size] * rows if isinstance(dtype, pl.Array) else rng.integers(0, 4, size=rows)
    inner = _series(_plain(dtype.inner), int(sum(lengths)), rng, literals)
    stops = np.cumsum(lengths)
    values = [inner[int(stop - n) : int(stop)] for stop, n in zip(stops, lengths, strict=True)]
    return pl.Series(values=values, dtype=pl.List(dtype.inner)).cast(dtype)


def _pool(  # noqa: PLR0911 - one for each kind of type
    dtype: pl.DataType, rng: np.random.Generator, literals: Sequence[object]
) -> tuple[list[object], pl.DataType]:
    """Return the values to draw from, and the type they are written in before the last cast."""
    kind = type(dtype)
    texts = [one for one in literals if isinstance(one, str)]
    numbers = [one for one in literals if isinstance(one, int | float) and one == one]  # noqa: PLR0124
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        close = [int(n) + d for n in numbers if abs(n) < 1e18 for d in (-1, 0, 1)]
        drawn = [int(n) for n in rng.integers(-100, 100, size=6)]
        found = [low, low + 1, high, high - 1, 0, 1, 2, 5, *close, *drawn]
        return [n for n in found if low <= n <= high], dtype
    if kind in (pl.Float32, pl.Float64):
        near = [float(n) + d for n in numbers if abs(n) < 1e300 for d in (0.0, 0.5, -0.5)]
        return [*_FLOATS, *near, *rng.normal(0.0, 100.0, size=8).tolist()], dtype
    if kind is pl.Boolean:
        return [True, False], dtype
    if kind in (pl.String, pl.Categorical):
        return [*_STRINGS, *texts, *texts], pl.String()
    if isinstance(dtype, pl.Enum):
        return dtype.categories.to_list(), pl.String()
    if kind is pl.Binary:
        return [*_BYTES, *(one.encode() for one in texts)], dtype
    if isinstance(dtype, pl.Decimal):
        return [0, 1, -1, 7, -12], pl.Int64()
    return _times(dtype, rng)


def _times(dtype: pl.DataType, rng: np.random.Generator) -> tuple[list[object], pl.DataType]:
    if isinstance(dtype, pl.Date):
        low, high = _EPOCH_DAYS
        drawn = [int(n) for n in rng.integers(19_000, 21_000, size=8)]
        return [low, high, 0, -1, 11_016, 19_813, *drawn], pl.Int32()
    if isinstance(dtype, pl.Time):
        last = _DAY_US * 1_000 - 1
        return [0, 1, last, *map(int, rng.integers(last, size=8))], pl.Int64()
    if isinstance(dtype, pl.Datetime | pl.Duration):
        day = _PER_DAY[dtype.time_unit]
        low, high = _NS_DAYS if dtype.time_unit == "ns" else _EPOCH_DAYS
        # Around the European change of clocks on 2024-03-31, at 01:00 UTC, and in October.
        clocks = [19_813 * day + day // 24 * hours // 2 for hours in range(6)]
        clocks += [20_023 * day + day // 24 * hours // 2 for hours in range(6)]
        drawn = [int(n) * day // 1_000 for n in rng.integers(0, 25_000_000, size=8)]
        return [(low + 1) * day, (high - 1) * day + day - 1, 0, -1, 1, *clocks, *drawn], pl.Int64()
    return [], dtype


def find_leak(
    evaluate: Callable[[pl.DataFrame], tuple[pl.DataFrame, NDArray[np.int64]]],
    frame: pl.DataFrame,
    rng: np.random.Generator,
) -> str | None:
    """Return how a row's result differs from its result in the whole frame, or None.

    `evaluate` returns the values of the good rows and the indices of the rows that raise. Tried:
    two halves at several points, the rows one by one, a permutation, and a row repeated.
    """
    rows = frame.height
    whole, failed = evaluate(frame)
    if whole.schema != evaluate(frame.clear())[0].schema:
        return "the type depends on the rows"
    place = np.full(rows, -1)
    place[np.setdiff1d(np.arange(rows), failed)] = np.arange(whole.height)
    everything = np.arange(rows)
    trials = [("alone", everything[row : row + 1]) for row in range(min(rows, _LONE_ROWS))]
    for cut in (1, rows // 3, rows - 1):
        trials += [("split", everything[:cut]), ("split", everything[cut:])]
    trials += [("permuted", rng.permutation(rows)), ("repeated", np.zeros(3, np.int64))]
    for how, picks in trials:
        part, part_failed = evaluate(frame[picks])
        if not np.array_equal(np.flatnonzero(place[picks] < 0), part_failed):
            return f"a row raises or not depending on the others: {how}"
        good = place[picks][place[picks] >= 0]
        if not identical(part, whole[good]):
            return f"a row's value depends on the others: {how}"
    return None


def identical(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    """Tell whether two frames agree in names, types and values, floats bit for bit."""
    return left.schema == right.schema and all(
        _same(left.get_column(name), right.get_column(name)) for name in left.columns
    )


def _same(left: pl.Series, right: pl.Series) -> bool:
    if left.len() != right.len() or not (left.is_null() == right.is_null()).all():
        return False
    if left.dtype.is_float():
        bits = np.uint32 if left.dtype == pl.Float32 else np.uint64
        ours, theirs = (one.fill_null(0.0).to_numpy().view(bits) for one in (left, right))
        return bool(np.array_equal(ours, theirs))
    if isinstance(left.dtype, pl.List):
        lengths = left.list.len().equals(right.list.len(), null_equal=True)
        return lengths and _same(_flat(left), _flat(right))
    if isinstance(left.dtype, pl.Struct):
        names = [one.name for one in left.dtype.fields]
        return all(_same(left.struct.field(n), right.struct.field(n)) for n in names)
    return left.equals(right, null_equal=True)


def _flat(lists: pl.Series) -> pl.Series:
    """Return the elements of the lists, without a stand-in for an empty or missing list."""
    return lists.filter(lists.list.len().fill_null(0) > 0).explode()
