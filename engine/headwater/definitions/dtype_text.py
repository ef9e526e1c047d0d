"""Data types: from Polars' serialized form, and as canonical text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

if TYPE_CHECKING:
    from polars.datatypes import DataTypeClass

__all__ = ["dtype_of", "dtype_raw", "dtype_text"]

_UNITS: Mapping[str, str] = {"Nanoseconds": "ns", "Microseconds": "us", "Milliseconds": "ms"}
_PLAIN: Mapping[str, pl.DataType] = {
    dtype.__name__: dtype()
    for dtype in (
        *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128),
        *(pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
        *(pl.Float32, pl.Float64, pl.Boolean, pl.String, pl.Binary, pl.Date, pl.Time, pl.Null),
    )
}


def dtype_of(raw: object) -> pl.DataType:
    """Return the type that a serialized node names.

    Raises ValueError with the reason for a type that isn't fixed or depends on global state.
    """
    if isinstance(raw, str) and raw in _PLAIN:
        return _PLAIN[raw]
    if isinstance(raw, Mapping) and len(raw) == 1:
        ((kind, body),) = raw.items()
        if kind == "Literal":
            return dtype_of(body)
        if found := _nested(kind, body):
            return found
        raise ValueError(_refusal(kind))
    raise ValueError(_refusal(str(raw)))


def dtype_raw(dtype: pl.DataType) -> Any:  # noqa: ANN401 - plain data, as Polars has it
    """Return a type as the plain data that `dtype_of` reads; raise ValueError as that does."""
    raw = msgspec.msgpack.decode(pl.lit(None).cast(dtype).meta.serialize())["Cast"]["dtype"]
    dtype_of(raw)
    return raw.get("Literal", raw)


def _nested(kind: str, body: Any) -> pl.DataType | None:  # noqa: ANN401, PLR0911 - decoded, by kind
    if kind == "Datetime":
        zone = body[1]["inner"] if isinstance(body[1], Mapping) else body[1]
        return pl.Datetime(_UNITS[body[0]], zone)  # type: ignore[arg-type]
    if kind == "Duration":
        return pl.Duration(_UNITS[body])  # type: ignore[arg-type]
    if kind == "Decimal" and None not in body:
        return pl.Decimal(*body)
    if kind == "List":
        return pl.List(dtype_of(body))
    if kind == "Array":
        return pl.Array(dtype_of(body[0]), body[1])
    if kind == "Struct":
        return pl.Struct({field["name"]: dtype_of(field["dtype"]) for field in body})
    return None


def _refusal(kind: str) -> str:
    if kind in {"Categorical", "Enum"}:
        return f"pl.{kind} depends on the categories seen so far; keep the string"
    return f"the type {kind} isn't fixed; write one such as pl.Float64"


def dtype_text(dtype: pl.DataType) -> str:  # noqa: PLR0911 - one for each kind
    """Return the canonical text of a type: the same whatever the version of Polars prints."""
    name = type(dtype).__name__
    if isinstance(dtype, pl.Datetime):
        zone = f",{dtype.time_zone}" if dtype.time_zone else ""
        return f"{name}({dtype.time_unit}{zone})"
    if isinstance(dtype, pl.Duration):
        return f"{name}({dtype.time_unit})"
    if isinstance(dtype, pl.Decimal):
        return f"{name}({dtype.precision},{dtype.scale})"
    if isinstance(dtype, pl.Array):
        return f"{name}({_inner(dtype.inner)},{dtype.size})"
    if isinstance(dtype, pl.List):
        return f"{name}({_inner(dtype.inner)})"
    if isinstance(dtype, pl.Struct):
        fields = (f"{json.dumps(one.name)}:{_inner(one.dtype)}" for one in dtype.fields)
        return f"{name}({','.join(fields)})"
    return name


def _inner(dtype: pl.DataType | DataTypeClass) -> str:
    return dtype_text(dtype() if isinstance(dtype, type) else dtype)
