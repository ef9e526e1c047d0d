"""Types on the wire: the names of Polars types and the buffer each travels in."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from headwater.errors import did_you_mean
from headwater.flow.answer import RequestError

__all__ = ["WireType", "default_dtype", "dtype_from_name", "dtype_name", "wire_type"]


@dataclass(frozen=True, slots=True)
class WireType:
    """How a type travels: its name, the buffer, and the wider type whose bits fill the buffer.

    `default` says that the buffer alone names the type. `width` is in bytes, 0 where it varies.
    """

    name: str
    dtype: pl.DataType
    buffer: str
    carrier: pl.DataType
    arrow: pa.DataType
    width: int
    default: bool


_ARROW = {
    "float64": pa.float64(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "boolean": pa.bool_(),
    "string": pa.large_string(),
    "binary": pa.large_binary(),
    "datetime_us": pa.int64(),
}
_CARRIER = {
    "float64": pl.Float64(),
    "int64": pl.Int64(),
    "uint64": pl.UInt64(),
    "boolean": pl.Boolean(),
    "string": pl.String(),
    "binary": pl.Binary(),
    "datetime_us": pl.Int64(),
}
_DEFAULTS: dict[str, pl.DataType] = {**_CARRIER, "datetime_us": pl.Datetime("us", "UTC")}
_BY_NAME: dict[str, tuple[pl.DataType, str]] = {
    "Boolean": (pl.Boolean(), "boolean"),
    "String": (pl.String(), "string"),
    "Binary": (pl.Binary(), "binary"),
    "Float32": (pl.Float32(), "float64"),
    "Float64": (pl.Float64(), "float64"),
    "Int8": (pl.Int8(), "int64"),
    "Int16": (pl.Int16(), "int64"),
    "Int32": (pl.Int32(), "int64"),
    "Int64": (pl.Int64(), "int64"),
    "UInt8": (pl.UInt8(), "uint64"),
    "UInt16": (pl.UInt16(), "uint64"),
    "UInt32": (pl.UInt32(), "uint64"),
    "UInt64": (pl.UInt64(), "uint64"),
    "Date": (pl.Date(), "int64"),
    "Time": (pl.Time(), "int64"),
    "Duration(ms)": (pl.Duration("ms"), "int64"),
    "Duration(us)": (pl.Duration("us"), "int64"),
    "Duration(ns)": (pl.Duration("ns"), "int64"),
}
_DATETIME = re.compile(r"Datetime\((ms|us|ns)(?:, ([A-Za-z0-9_+\-/]{1,64}))?\)")
_FIXED_WIDTH_BYTES = 8


def dtype_name(dtype: pl.DataType) -> str:
    """Return the name of a type on the wire; raises RequestError for one that can't travel."""
    return wire_type(dtype).name


@functools.lru_cache(maxsize=1024)
def wire_type(dtype: pl.DataType) -> WireType:
    """Return how a type travels; raises RequestError for one that can't."""
    if isinstance(dtype, pl.Datetime):
        zone = "" if dtype.time_zone is None else f", {dtype.time_zone}"
        name = f"Datetime({dtype.time_unit}{zone})"
        return _wire_type(name, dtype, "datetime_us" if dtype.time_unit == "us" else "int64")
    name = f"Duration({dtype.time_unit})" if isinstance(dtype, pl.Duration) else str(dtype)
    if name not in _BY_NAME:
        raise RequestError(
            f"type {dtype} can't be sent; cast it to a number, text, a Boolean, binary or a time"
        )
    return _wire_type(name, *_BY_NAME[name])


@functools.lru_cache(maxsize=1024)
def dtype_from_name(name: str) -> pl.DataType:
    """Return the type with a name on the wire; raises RequestError for an unknown one."""
    if name in _BY_NAME:
        return _BY_NAME[name][0]
    if found := _DATETIME.fullmatch(name):
        try:
            # Only a cast looks the zone up; an unknown one must fail here, not in a kernel.
            dtype = pl.Datetime(found[1], found[2])  # type: ignore[arg-type]
            pl.Series([0], dtype=pl.Int64).cast(dtype).to_list()
        except (pl.exceptions.PolarsError, ValueError, LookupError) as error:
            raise RequestError(f'type "{name}": unknown time zone "{found[2]}"') from error
        return dtype
    raise RequestError(f'unknown type "{name}".{did_you_mean(name, _BY_NAME)}')


def default_dtype(buffer: str) -> pl.DataType:
    """Return the type of a buffer that comes without a name."""
    return _DEFAULTS[buffer]


def _wire_type(name: str, dtype: pl.DataType, buffer: str) -> WireType:
    varies = buffer in ("string", "binary", "boolean")
    return WireType(
        name=name,
        dtype=dtype,
        buffer=buffer,
        carrier=_CARRIER[buffer],
        arrow=_ARROW[buffer],
        width=0 if varies else _FIXED_WIDTH_BYTES,
        default=dtype == _DEFAULTS[buffer],
    )
