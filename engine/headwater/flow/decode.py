"""Decoding: records of a source topic into typed rows, and what can't be one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import polars as pl

from headwater_connectors.formats.codec import CODECS, CodecOptions, Decoded, Reject
from headwater_connectors.log.packed_column import BytesColumn
from headwater_connectors.replay_header import elsewhere

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headwater.definitions.stream import Stream
    from headwater_connectors.formats.schema_registry import RegistrySettings
    from headwater_connectors.log.log import Records

__all__ = ["EARLIEST_US", "LATEST_US", "VALUE_BYTES_MAX", "Decoder", "Rows"]

# A decoded row is at most about twice its JSON (once as key, once as column), and must fit one
# exchange record of 512 KiB.
VALUE_BYTES_MAX = 192 * 1024

# Years 1 to 9999, so that every event time can be shown as a date.
EARLIEST_US = -62_135_596_800_000_000
LATEST_US = 253_402_300_799_999_999


@dataclass(frozen=True, slots=True)
class Rows:
    """Decoded rows of one run of records: `frame` has the system columns and the stream's."""

    records: Records
    frame: pl.DataFrame
    rejects: list[Reject]


class Decoder:
    """Decodes one stream for a namespace; every decision is a function of the record alone.

    A dead letter that was sent again for another namespace is neither a row nor a reject here: this
    one has had the record before. `registry` says where writers' schemas are; without it the
    environment does.
    """

    def __init__(
        self, stream: Stream, namespace: str, registry: RegistrySettings | None = None
    ) -> None:
        self.stream = stream
        self._namespace = namespace
        options = CodecOptions(stream.format.options(), registry)
        self._codec = CODECS[stream.format.name](stream.schema, VALUE_BYTES_MAX, options)
        self._time = stream.event_time.microseconds(stream.schema).alias("__ts")

    def decode(self, records: Records) -> Rows:
        """Return the rows that decode, in order, and a reject for each record that doesn't."""
        decoded = self._codec.decode(records.values)
        return self._timed(records, decoded)

    def decode_all(self, runs: Sequence[Records]) -> list[Rows]:
        """Return the rows of each run, as `decode` does, for the cost of one small batch.

        A codec takes values one by one or together with the same outcome, so runs may share a call.
        """
        values = [run.values for run in runs]
        if len(runs) < 2 or not all(isinstance(each, BytesColumn) for each in values):
            return [self.decode(run) for run in runs]
        together = self._codec.decode(BytesColumn.join(cast("list[BytesColumn]", values)))
        ends = np.cumsum([0, *map(len, runs)])
        cuts = np.searchsorted(together.rows, ends)
        refused = np.searchsorted([reject.row for reject in together.rejects], ends)
        found = []
        for at, run in enumerate(runs):
            begin = int(ends[at])
            rows = slice(*cuts[at : at + 2].tolist())
            rejects = together.rejects[slice(*refused[at : at + 2].tolist())]
            decoded = Decoded(
                together.frame[rows],
                together.rows[rows] - begin,
                [replace(reject, row=reject.row - begin) for reject in rejects],
            )
            found.append(self._timed(run, decoded))
        return found

    def _timed(self, records: Records, decoded: Decoded) -> Rows:
        """Add the system columns, and refuse rows whose time can't be."""
        if others := elsewhere(records.headers, self._namespace):
            decoded = _without(decoded, others)
        frame = decoded.frame.with_columns(
            pl.Series("__offset", records.offsets[decoded.rows]),
            pl.Series("__arrival", records.timestamps_us[decoded.rows]),
            self._time,
        )
        times = frame["__ts"]
        if times.null_count():
            times = times.fill_null(LATEST_US + 1)  # as impossible as any other
        stamps = times.to_numpy()
        possible = (stamps >= EARLIEST_US) & (stamps <= LATEST_US)
        in_time = possible & (stamps <= frame["__arrival"].to_numpy() + self.stream.skew_us)
        rejects = list(decoded.rejects)
        if not in_time.all():
            rejects += [
                self._time_reject(
                    int(decoded.rows[i]), frame["__ts"][int(i)], possible=bool(possible[i])
                )
                for i in np.flatnonzero(~in_time)
            ]
            rejects.sort(key=lambda reject: reject.row)
            frame = frame.filter(pl.Series(in_time))
        return Rows(records, frame, rejects)

    def _time_reject(self, row: int, time_us: int | None, *, possible: bool) -> Reject:
        column = self.stream.event_time.column
        if time_us is None:
            return Reject(row, "no_event_time", f'column "{column}" is missing, null or not a time')
        if not possible:
            return Reject(
                row, "event_time_range", f'column "{column}" is outside the years 1 to 9999'
            )
        text = (
            f'column "{column}" is more than {self.stream.skew_us / 1e6:g} s after the record\'s'
            " own timestamp"
        )
        return Reject(row, "future_event_time", text)


def _without(decoded: Decoded, rows: list[int]) -> Decoded:
    kept = ~np.isin(decoded.rows, rows)
    rejects = [reject for reject in decoded.rejects if reject.row not in set(rows)]
    return Decoded(decoded.frame.filter(pl.Series(kept)), decoded.rows[kept], rejects)
