"""Events as a user has them, frames or dictionaries, into the records of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from headwater.errors import did_you_mean
from headwater.flow.answer import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headwater.definitions.stream import Stream

__all__ = ["json_records"]


def json_records(
    stream: Stream, rows: pl.DataFrame | pl.LazyFrame | Sequence[Mapping[str, Any]]
) -> list[bytes]:
    """Return one JSON record per row.

    Raises RequestError for a stream of another format, and for a frame that can't be the stream's:
    without its event time, or with datetimes that name no moment. Single rows that are bad become
    dead letters later.
    """
    where = f'stream "{stream.topic}"'
    if stream.format.name != "json":
        msg = (
            f"{where} is read as {stream.format}, and rows are pushed as JSON; encode them and"
            " use push_bytes"
        )
        raise RequestError(msg)
    frame = _frame(rows)
    column = stream.event_time.column
    if column not in frame.columns and frame.height:
        hint = did_you_mean(column, frame.columns)
        msg = f'{where}: the rows have no event time "{column}".{hint}'
        raise RequestError(msg)
    for name, dtype in frame.schema.items():
        aware = stream.schema.get(name)
        if (
            isinstance(dtype, pl.Datetime)
            and dtype.time_zone is None
            and isinstance(aware, pl.Datetime)
            and aware.time_zone is not None
        ):
            msg = (
                f'{where}: column "{name}" has no time zone; write'
                f' pl.col("{name}").dt.replace_time_zone("UTC") if it is UTC'
            )
            raise RequestError(msg)
    # In UTC: an old local time may differ from it by seconds, which JSON text would lose.
    zoned = [name for name, dtype in frame.schema.items() if getattr(dtype, "time_zone", None)]
    utc = frame.with_columns(pl.col(name).dt.convert_time_zone("UTC") for name in zoned)
    return utc.write_ndjson().encode().splitlines()


def _frame(rows: pl.DataFrame | pl.LazyFrame | Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    if isinstance(rows, pl.LazyFrame):
        return rows.collect()
    if isinstance(rows, pl.DataFrame):
        return rows
    return pl.DataFrame(list(rows), infer_schema_length=None)
