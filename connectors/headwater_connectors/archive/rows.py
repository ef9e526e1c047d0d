"""Rows on their way into the archive: checked, in the order of columns of a file, described."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from headwater.errors import did_you_mean
from headwater_connectors.archive.errors import ArchiveConflictError, ArchiveError
from headwater_connectors.archive.manifest import FileEntry
from headwater_connectors.archive.parquet import BLOCK_BYTES, block_checksums
from headwater_connectors.archive.schema import ARRIVAL, OFFSET, RAW, SYSTEM, TS, dtype_name

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_offsets", "column_types", "described", "ordered"]


def ordered(frame: pl.DataFrame, where: str, *, keep_raw: bool) -> pl.DataFrame:
    """Return rows with system columns first and the payload last, or without it.

    ArchiveError if a system column is absent, has another type or a null.
    """
    system = {**SYSTEM, **({RAW: pl.Binary()} if keep_raw else {})}
    for name, dtype in system.items():
        if name not in frame.schema:
            hint = did_you_mean(name, frame.columns)
            or_not = ", or append with keep_raw=False" if name == RAW else ""
            msg = f"{where}: the rows have no column {name}.{hint} Add it{or_not}."
            raise ArchiveError(msg)
        if frame.schema[name] != dtype:
            msg = f"{where}: column {name} is {frame.schema[name]}; cast it to {dtype}"
            raise ArchiveError(msg)
        if name != RAW and frame[name].null_count():
            msg = f"{where}: column {name} has a null; such a record belongs to the dead letters"
            raise ArchiveError(msg)
    typed = [name for name in frame.columns if name not in SYSTEM and name != RAW]
    return frame.select([*SYSTEM, *typed, *([RAW] if keep_raw else [])])


def column_types(frame: pl.DataFrame, where: str) -> dict[str, str]:
    """Return the stream's own columns, and their types as a manifest spells them."""
    types = {}
    for name, dtype in frame.schema.items():
        if name not in SYSTEM and name != RAW:
            try:
                types[name] = dtype_name(dtype)
            except ArchiveError as error:
                msg = f'{where}: column "{name}": {error}'
                raise ArchiveError(msg) from error
    return types


def check_offsets(frame: pl.DataFrame, from_offset: int, to_offset: int, where: str) -> None:
    """Check that offsets ascend and lie in (from_offset, to_offset]."""
    offsets = frame[OFFSET]
    first, last = int(offsets[0]), int(offsets[-1])
    if not (offsets.diff().slice(1) > 0).all():
        msg = f"{where}: the rows' offsets do not ascend; append records in the order of the log"
        raise ArchiveError(msg)
    if first <= from_offset:
        msg = (
            f"{where}: the rows begin at offset {first}, but all up to {from_offset} are archived;"
            " another writer was here: go on from the archive's position"
        )
        raise ArchiveConflictError(msg)
    if last > to_offset:
        msg = f"{where}: the rows end at offset {last}, beyond to_offset={to_offset}; raise it"
        raise ArchiveError(msg)


def described(name: str, data: memoryview, frame: pl.DataFrame, layout: str) -> FileEntry:
    """Return the manifest's entry for a file with these bytes and rows."""
    return FileEntry(
        name=name,
        size_bytes=len(data),
        block_bytes=BLOCK_BYTES,
        crc32=block_checksums(data, BLOCK_BYTES),
        rows=frame.height,
        layout=layout,
        **_ranges(frame, {"offset": OFFSET}),
        **_ranges(frame, {"ts": TS, "arrival": ARRIVAL}, unit="_us"),
    )


def _ranges(frame: pl.DataFrame, columns: Mapping[str, str], unit: str = "") -> dict[str, Any]:
    ranges = {}
    for label, column in columns.items():
        ranges[f"{label}_min{unit}"] = frame[column].min()
        ranges[f"{label}_max{unit}"] = frame[column].max()
    return ranges
