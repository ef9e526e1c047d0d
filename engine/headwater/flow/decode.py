"""Decoding: records of a source topic into typed rows, and what can't be one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, cast

import numpy as np
import polars as pl

from headwater_connectors.formats.codec import CODECS, CodecOptions, Decoded, Reject
from headwater_connectors.log.packed_column import BytesColumn
from headwater_connectors.replay_header import elsewhere

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

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
        self._registry = registry
        options = CodecOptions(stream.format.options(), registry)
        self._codec = CODECS[stream.format.name](stream.schema, VALUE_BYTES_MAX, options)
        self._time = stream.event_time.microseconds(stream.schema).alias("__ts")

    def of(self, stream: Stream) -> Decoder:
        """Return a decoder of another definition of the stream."""
        return Decoder(stream, self._namespace, self._registry)

    def decode(self, records: Records) -> Rows:
        """Return the rows that decode, in order, and a reject for each record that doesn't."""
        (rows,) = self.decode_all([records])
        return rows

    def decode_all(self, runs: Sequence[Records]) -> list[Rows]:
        """Return the rows of each run, all for the cost of one small batch.

        A codec takes values one by one or together with the same outcome, so runs may share a call.
        """
        if not runs:
            return []
        decoded = self._codec.decode(_joined([run.values for run in runs]))
        if others := self._elsewhere(runs):
            decoded = _without(decoded, others)
        offsets = np.concatenate([run.offsets for run in runs])
        arrivals = np.concatenate([run.timestamps_us for run in runs])
        frame, at, rejects = self._timed(decoded, offsets, arrivals)
        ends = np.cumsum([0, *map(len, runs)])
        cuts = np.searchsorted(at, ends).tolist()
        refused = np.searchsorted([reject.row for reject in rejects], ends).tolist()
        return [
            Rows(
                run,
                frame[slice(*cuts[number : number + 2])],
                [
                    replace(reject, row=reject.row - int(ends[number]))
                    for reject in rejects[slice(*refused[number : number + 2])]
                ],
            )
            for number, run in enumerate(runs)
        ]

    def _elsewhere(self, runs: Sequence[Records]) -> list[int]:
        found, first = [], 0
        for run in runs:
            found += [first + row for row in elsewhere(run.headers, self._namespace)]
            first += len(run)
        return found

    def _timed(
        self, decoded: Decoded, offsets: NDArray[np.int64], arrivals: NDArray[np.int64]
    ) -> tuple[pl.DataFrame, NDArray[np.int64], list[Reject]]:
        """Add the system columns, and refuse rows whose time can't be.

        Returns the rows, the places of their records among `offsets`, and the rejects by place.
        """
        frame = decoded.frame.with_columns(
            pl.Series("__offset", offsets[decoded.rows]),
            pl.Series("__arrival", arrivals[decoded.rows]),
            self._time,
        )
        times = frame["__ts"]
        if times.null_count():
            times = times.fill_null(LATEST_US + 1)  # as impossible as any other
        stamps = times.to_numpy()
        possible = (stamps >= EARLIEST_US) & (stamps <= LATEST_US)
        in_time = possible & (stamps <= frame["__arrival"].to_numpy() + self.stream.skew_us)
        if in_time.all():
            return frame, decoded.rows, list(decoded.rejects)
        late = [
            self._time_reject(
                int(decoded.rows[i]), frame["__ts"][int(i)], possible=bool(possible[i])
            )
            for i in np.flatnonzero(~in_time)
        ]
        rejects = sorted([*decoded.rejects, *late], key=attrgetter("row"))
        return frame.filter(pl.Series(in_time)), decoded.rows[in_time], rejects

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


def _joined(columns: Sequence[Sequence[bytes | None]]) -> Sequence[bytes | None]:
    if len(columns) == 1:
        return columns[0]
    if all(isinstance(each, BytesColumn) for each in columns):
        return BytesColumn.join(cast("list[BytesColumn]", columns))
    return list(chain.from_iterable(columns))


def _without(decoded: Decoded, rows: list[int]) -> Decoded:
    kept = ~np.isin(decoded.rows, rows)
    rejects = [reject for reject in decoded.rejects if reject.row not in set(rows)]
    return Decoded(decoded.frame.filter(pl.Series(kept)), decoded.rows[kept], rejects)
