"""Exchange records: a stretch of one lane's rows for one shard, as typed columns.

A record is a little-endian u32 header length, a msgpack header, and an Arrow record batch without
its schema (nothing for a progress record). Rows are ordered by source offset.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from headwater.errors import StateError
from headwater.kernels.keys import partition_rows, shard_of
from headwater.plan.fingerprint import canonical_stream, fingerprint
from headwater.state.keys import canonical_keys
from headwater.state.lane import lane_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from headwater.definitions.stream import Stream
    from headwater.plan.plan import Binding, Plan

__all__ = [
    "EXCHANGE_TOPIC",
    "RECORD_BYTES_MAX",
    "Header",
    "Keyed",
    "Wire",
    "split",
    "wires_of",
]

EXCHANGE_TOPIC = "exchange"
RECORD_BYTES_MAX = 512 * 1024
KEY = "__key"

_FORMAT = 1
_LENGTH_BYTES = 4


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What a record covers: the offsets `(from_offset, to_offset]` of one lane."""

    topic_id: str
    binding: str
    partition: int
    from_offset: int
    to_offset: int
    rows: int
    at_end: bool  # the source had nothing more when it was asked for its end
    format: int = _FORMAT
    after_offset: int = -1  # where the exchange ended, for this shard, before that was asked
    schema: int = 0  # of the rows, that of the wire they were written with

    @property
    def lane(self) -> str:
        """The lane this record belongs to."""
        return lane_of(self.topic_id, self.binding, self.partition)


@dataclass(frozen=True, slots=True)
class Keyed:
    """Rows of some runs by run and shard, and by offset within: the place of both is `r·S + s`.

    Place p has `rows[starts[p]:starts[p + 1]]`. Columns are the key, the source offset, the event
    time, then the stream's own.
    """

    rows: pa.RecordBatch
    starts: NDArray[np.int64]
    shards: int

    def of_shard(self, shard: int, run: int = 0) -> pa.RecordBatch:
        """Return what a run has for a shard, without copying."""
        place = run * self.shards + shard
        begin, end = int(self.starts[place]), int(self.starts[place + 1])
        return self.rows.slice(begin, end - begin)


@dataclass(frozen=True, slots=True)
class Wire:
    """How the rows of a binding are written to and read from exchange records.

    `schema_id` tells rows of this stream as it is defined from those of another definition of it.
    """

    binding: Binding
    stream: Stream
    schema: pa.Schema
    schema_id: int

    def keyed(self, frames: Sequence[pl.DataFrame], shards: int) -> Keyed:
        """Return decoded rows by run and shard: a frame is a run, together they cost one batch.

        A row with a null in its key has no place in a shard.
        """
        frame = frames[0] if len(frames) == 1 else pl.concat(frames, rechunk=True)
        keys = canonical_keys(frame, self.binding.columns)
        places = np.empty(len(keys), np.int32)
        shard_of(keys.hashes, shards, places)
        if len(frames) > 1:
            runs = np.arange(len(frames), dtype=np.int32)
            places += np.repeat(runs * np.int32(shards), [each.height for each in frames])
        places[~keys.valid] = -1
        order, starts = partition_rows(places, len(frames) * shards)
        return Keyed(self._record_batch(frame[order], keys.take(order).to_arrow()), starts, shards)

    def _record_batch(self, frame: pl.DataFrame, keys: pa.Array) -> pa.RecordBatch:
        names = ("__offset", "__ts", *self.stream.schema)
        columns = pl.DataFrame([frame.get_column(name) for name in names])
        arrow = columns.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
        arrays = [
            keys,
            *(column.chunk(0) if column.num_chunks else _empty(column) for column in arrow),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def encode(self, header: Header, rows: pa.RecordBatch | None) -> bytes:
        """Return the record's bytes."""
        head = msgspec.msgpack.encode(header)
        body = b"" if rows is None else rows.serialize().to_pybytes()
        return len(head).to_bytes(_LENGTH_BYTES, "little") + head + body

    def decode(self, body: memoryview) -> pa.RecordBatch:
        """Return a record's rows."""
        return pa.ipc.read_record_batch(pa.py_buffer(body), self.schema)


def _empty(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([], column.type)


def split(value: bytes) -> tuple[Header, memoryview]:
    """Return the header and the body of a record; raise StateError for another format."""
    view = memoryview(value)
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    header = msgspec.msgpack.decode(view[_LENGTH_BYTES : _LENGTH_BYTES + length], type=Header)
    if header.format != _FORMAT:
        msg = (
            f"exchange record of format {header.format}, this version reads {_FORMAT}; run workers"
            " of one version"
        )
        raise StateError(msg)
    return header, view[_LENGTH_BYTES + length :]


def wires_of(plan: Plan) -> dict[str, Wire]:
    """Return the wire of each binding, by its id."""
    return {binding.id: _wire(binding, plan.streams[binding.topic]) for binding in plan.bindings}


def _wire(binding: Binding, stream: Stream) -> Wire:
    empty = pl.DataFrame(schema={"__offset": pl.Int64, "__ts": pl.Int64, **stream.schema})
    fields = empty.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    # What decides about rows and their times, and the order of columns in a record.
    meaning = f"{canonical_stream(stream, stream.schema)} {json.dumps(list(stream.schema))}"
    schema = pa.schema([pa.field(KEY, pa.large_binary()), *fields])
    return Wire(binding, stream, schema, int(fingerprint(meaning), 16))
