"""Avro columns: which of a writer's types a column takes, and how the value gets there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import polars as pl

from headwater.errors import DefinitionError
from headwater_connectors.formats.avro_schema import dead_end, type_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headwater_connectors.formats.avro_schema import Guard, Part

__all__ = ["AvroColumn", "absent", "check_dtype", "resolve"]

# Years 1 to 9999: what Python can show as a date.
DAYS_MIN: Final = -719_162
DAYS_MAX: Final = 2_932_896
UNITS_PER_S: Final[Mapping[str, int]] = {"ms": 10**3, "us": 10**6, "ns": 10**9}
S_MIN: Final = DAYS_MIN * 86_400
S_MAX: Final = (DAYS_MAX + 1) * 86_400

# A value without a zone is taken as UTC, as a text without an offset is in JSON.
TIMESTAMPS: Final[Mapping[str, str]] = {
    "timestamp-millis": "ms",
    "timestamp-micros": "us",
    "timestamp-nanos": "ns",
    "local-timestamp-millis": "ms",
    "local-timestamp-micros": "us",
    "local-timestamp-nanos": "ns",
}
# Arrow's widest decimal. Beyond it a scale is an attack on our arithmetic, not a number.
DECIMAL_PRECISION_MAX: Final = 76
DECIMAL_BYTES_MAX: Final = 32
# One byte of a record names a symbol: longer ones would make rows far larger than their records.
SYMBOL_CHARS_MAX: Final = 512


class Conversion(NamedTuple):
    """From what fastavro gives for one branch (`python`) to a column of type `wire`.

    `form` is what the number means; `scalar` converts a single value, None where it doesn't fit.
    """

    python: type
    wire: pl.DataType
    form: str = ""
    scalar: Callable[[Any], object] | None = None


class AvroColumn(NamedTuple):
    """How the values of a writer's field become a column.

    `refusal` says why none can, where that is so for all but null.
    """

    name: str
    dtype: pl.DataType
    wire: pl.DataType
    scalars: Mapping[type, Callable[[Any], object]]
    narrow: pl.Expr
    refusal: str = ""

    def series(self, values: Sequence[Any]) -> pl.Series:
        """Return the values as read, before they are narrowed to the column's own type."""
        if self.scalars:
            scalars = self.scalars
            values = [
                scalars[type(value)](value) if type(value) in scalars else value for value in values
            ]
        return pl.Series(self.name, values, dtype=self.wire)


def check_dtype(name: str, dtype: pl.DataType) -> None:
    """Raise DefinitionError for a column of a type that nothing in Avro becomes."""
    takes = (pl.Boolean, pl.String, pl.Date, pl.Datetime)
    if not (dtype.is_integer() or dtype.is_float() or dtype in takes) or dtype == pl.Int128:
        raise DefinitionError(
            f'column "{name}": type {dtype} can\'t be read from Avro; use a text, Boolean, integer,'
            " float, Date or Datetime column, or leave it out"
        )


def absent(name: str, dtype: pl.DataType) -> AvroColumn:
    """Return the column of a field that the writer doesn't have: nulls."""
    return AvroColumn(name, dtype, pl.Null(), {}, pl.col(name).cast(dtype))


def resolve(
    name: str,
    dtype: pl.DataType,
    node: Any,  # noqa: ANN401 - any parsed schema
    guard: Guard,
) -> tuple[AvroColumn, Part]:
    """Match a writer's field to a column.

    Returns how its values are read, and the field's schema for fastavro, in which branches that
    the column has no place for are dead ends.
    """
    found: dict[type, Conversion] = {}
    refusals: list[str] = []

    def refused(text: str) -> Part:
        refusals.append(text)
        return dead_end("wrong_type", text)

    def branch(one: Any) -> Part:  # noqa: ANN401
        plain = guard.resolved(one)
        if plain == "null" or (isinstance(plain, dict) and plain["type"] == "null"):
            return guard.part(one, 2)
        conversion = conversion_of(plain, dtype)
        if conversion is None:
            return refused(f'column "{name}": {type_text(plain)} is not {dtype}')
        first = found.setdefault(conversion.python, conversion)
        if first != conversion:
            text = f"{type_text(plain)} can't be told from another type of its union"
            return refused(f'column "{name}": {text}')
        return guard.part(one, 2)

    part = guard.union([branch(one) for one in node]) if isinstance(node, list) else branch(node)
    column = _column(name, dtype, list(found.values()))
    return column._replace(refusal="" if found or not refusals else refusals[0]), part


def _column(name: str, dtype: pl.DataType, found: Sequence[Conversion]) -> AvroColumn:
    if not found:
        return absent(name, dtype)
    scalars = {one.python: one.scalar for one in found if one.scalar is not None}
    wire = found[0].wire
    if any(one.wire != wire for one in found):
        # Whole numbers beside floats: the one mix whose types in Arrow differ.
        wire = pl.Float64()
        scalars[int] = float
    form = next((one.form for one in found if one.form), "")
    return AvroColumn(name, dtype, wire, scalars, _narrow(name, dtype, form))


def conversion_of(node: Any, dtype: pl.DataType) -> Conversion | None:  # noqa: ANN401, C901, PLR0911 - a table
    """Return how a value of one of the writer's types becomes one of the column's, if it does."""
    kind = node["type"] if isinstance(node, dict) else node
    logical = str(node.get("logicalType")) if isinstance(node, dict) else ""
    match kind:
        case "boolean" if dtype == pl.Boolean:
            return Conversion(bool, pl.Boolean())
        case "int" | "long" if dtype.is_integer() or dtype.is_float():
            return Conversion(int, pl.Int64())
        case "int" if dtype == pl.Date and logical == "date":
            return Conversion(int, pl.Int64(), "date")
        case "long" if dtype == pl.Datetime and logical in TIMESTAMPS:
            return Conversion(int, pl.Int64(), TIMESTAMPS[logical])
        case "float" | "double" if dtype.is_float():
            return Conversion(float, pl.Float64())
        case "string" if dtype == pl.String:
            return Conversion(str, pl.String())
        case "enum" if dtype == pl.String and max(map(len, node["symbols"]), default=0) <= (
            SYMBOL_CHARS_MAX
        ):
            return Conversion(str, pl.String())
        case "bytes" | "fixed" if logical == "decimal" and _is_decimal(node):
            scale = int(node.get("scale", 0))
            if dtype.is_float():
                return Conversion(bytes, pl.Float64(), f"decimal {scale}", _Decimals(scale))
        case "bytes" if dtype == pl.String:
            return Conversion(bytes, pl.String(), scalar=_text)
    return None


def _is_decimal(node: Mapping[str, Any]) -> bool:
    precision, scale = node.get("precision"), node.get("scale", 0)
    return (
        isinstance(precision, int)
        and isinstance(scale, int)
        and 0 <= scale <= precision <= DECIMAL_PRECISION_MAX
    )


class _Decimals:
    """Turns the bytes of a decimal into the double nearest to it."""

    def __init__(self, scale: int) -> None:
        self._scale = scale

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Decimals) and other._scale == self._scale

    def __hash__(self) -> int:
        return hash(self._scale)

    def __call__(self, value: bytes) -> float | None:
        if len(value) > DECIMAL_BYTES_MAX:
            return None
        unscaled = int.from_bytes(value, "big", signed=True)
        # Division of whole numbers rounds once, to the nearest.
        return float(unscaled / 10**self._scale)


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _narrow(name: str, dtype: pl.DataType, form: str) -> pl.Expr:
    """Return a column in its own type; null where the value that was read has no place in it."""
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        return _datetime(column, dtype, form).alias(name)
    if dtype == pl.Date:
        fits = column.is_between(DAYS_MIN, DAYS_MAX)
        return pl.when(fits).then(column.cast(pl.Int32, strict=False)).cast(dtype).alias(name)
    if dtype == pl.Float32:
        narrow = column.cast(pl.Float64).cast(pl.Float32)
        # NaN and infinities are values of both types.
        fits = narrow.is_finite() | ~column.cast(pl.Float64).is_finite()
        return pl.when(fits).then(narrow).alias(name)
    return column.cast(dtype, strict=False)


def _datetime(column: pl.Expr, dtype: pl.Datetime, unit: str) -> pl.Expr:
    ours, theirs = UNITS_PER_S[dtype.time_unit], UNITS_PER_S[unit]
    low, high = S_MIN * theirs, S_MAX * theirs - 1
    if ours == UNITS_PER_S["ns"]:
        most = (2**63 - 1) // max(1, ours // theirs)
        low, high = max(low, -most), min(high, most)
    fits = column.is_between(max(low, -(2**63)), min(high, 2**63 - 1))
    whole = column * (ours // theirs) if ours >= theirs else column.floordiv(theirs // ours)
    return pl.when(fits).then(whole).cast(dtype)
