"""The columns of an archived stream: system columns, type names, and how columns are added."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from headwater_connectors.archive.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ARRIVAL",
    "OFFSET",
    "RAW",
    "SYSTEM",
    "TS",
    "dtype_name",
    "dtype_of",
    "fingerprint",
    "merged",
]

OFFSET, TS, ARRIVAL, RAW = "__offset", "__ts", "__arrival", "__raw"
# Times are µs UTC; the raw payload comes on top, and last in a file.
SYSTEM: Mapping[str, pl.DataType] = {OFFSET: pl.Int64(), TS: pl.Int64(), ARRIVAL: pl.Int64()}

_PLAIN: Mapping[str, pl.DataType] = {
    str(dtype): dtype
    for dtype in (
        *(pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64()),
        *(pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64()),
        # Older versions of Polars lack it.
        *((pl.Float16(),) if hasattr(pl, "Float16") else ()),
        *(pl.Float32(), pl.Float64(), pl.Boolean(), pl.String(), pl.Binary(), pl.Date()),
    )
}
_TEMPORAL = re.compile(r"(Datetime|Duration)\[(ms|us|ns)(?:, ([^\]]+))?\]")


def dtype_name(dtype: pl.DataType) -> str:
    """Return how a manifest spells a type: `Int64`, `Datetime[us, Europe/Paris]`."""
    if isinstance(dtype, pl.Datetime):
        zone = f", {dtype.time_zone}" if dtype.time_zone else ""
        return f"Datetime[{dtype.time_unit}{zone}]"
    if isinstance(dtype, pl.Duration):
        return f"Duration[{dtype.time_unit}]"
    name = str(dtype)
    if name not in _PLAIN:
        msg = (
            f"type {dtype} can't be archived; use a number of at most 64 bits, text, a Boolean,"
            " binary, a date, a datetime or a duration"
        )
        raise ArchiveError(msg)
    return name


def dtype_of(name: str) -> pl.DataType:
    """Return the type that a manifest spells so."""
    if name in _PLAIN:
        return _PLAIN[name]
    match = _TEMPORAL.fullmatch(name)
    if match is None:
        msg = f'the archive holds the type "{name}", which this version does not know; upgrade'
        raise ArchiveError(msg)
    kind, unit, zone = match.groups()
    return (
        pl.Datetime(cast("Any", unit), zone)
        if kind == "Datetime"
        else pl.Duration(cast("Any", unit))
    )


def merged(known: Mapping[str, str], added: Mapping[str, str], where: str) -> dict[str, str]:
    """Return columns and type names of both; ArchiveError where a column has two types."""
    for name, dtype in added.items():
        if known.get(name, dtype) != dtype:
            msg = (
                f'{where}: column "{name}" is {known[name]} in the archive and {dtype} here;'
                " a column keeps its type: give the new one another name"
            )
            raise ArchiveError(msg)
    return {**known, **added}


def fingerprint(columns: Mapping[str, str], *more: str) -> str:
    """Return 16 hex digits that stand for columns, in their order, their types, and more."""
    text = json.dumps([*columns.items(), *more], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
