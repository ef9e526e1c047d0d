"""Avro records, one per value, decoded by fastavro under the decode law."""

from __future__ import annotations

import os
import threading
import time
from io import BytesIO
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

import msgspec
import numpy as np
import polars as pl
from fastavro import schemaless_reader

from headwater.errors import DefinitionError
from headwater_connectors.formats.avro_column import AvroColumn, absent, check_dtype, resolve
from headwater_connectors.formats.avro_schema import Guard, dead_end_of, read_writer_schema
from headwater_connectors.formats.confluent_framing import HEADER_BYTES, schema_id_of
from headwater_connectors.formats.decoded import Decoded, Reject
from headwater_connectors.formats.options import NO_OPTIONS, CodecOptions
from headwater_connectors.formats.schema_registry import (
    RegistrySettings,
    SchemaRegistry,
    UnusableSchemaError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headwater_connectors.formats.decoded import Reason
    from headwater_connectors.formats.schema_registry import SchemaTexts

    # The row of a value, and the value.
    _Record: TypeAlias = tuple[int, bytes]

__all__ = ["VALUE_BYTES_MAX", "AvroCodec"]

# Exchange records stay below 512 KiB; the rest is room for their header and keys.
VALUE_BYTES_MAX: Final = 512 * 1024 - 16 * 1024

SCHEMAS_MAX: Final = 1000
# A registry is asked again for an id it didn't know: the schema may be registered by then.
UNKNOWN_FOR_S: Final = 30.0
MESSAGE_CHARS_MAX: Final = 300
SHOWN_CHARS_MAX: Final = 80

# What fastavro raises for bytes that don't follow the schema.
BAD_BYTES: Final = (ArithmeticError, EOFError, LookupError, StopIteration, TypeError, ValueError)


class AvroOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `hw.avro` says: a schema of all records, or a registry, and fields' former names."""

    schema: str = ""
    registry: str = ""
    framing: str = "confluent"
    aliases: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)


class AvroCodec:
    """Decodes Avro records into the columns of one schema.

    A column is the writer's field of its name, or of the first of its aliases that the writer has;
    null where there is none. Other fields are read and dropped. Numbers follow Avro's promotions
    (int, long, float, double) and, as in JSON, any integer column takes a whole number in its
    range, and Float32 a double rounded once more. Text columns take strings, symbols of enums and
    bytes in UTF-8; Date takes dates; Datetime takes timestamps of any unit (what is finer than the
    column's is cut); float columns take decimals, as the nearest double. Anything else is a reject,
    and so is a date outside the years 1 to 9999.

    With Confluent's framing a record names its writer's schema, which is asked of the registry
    once; the last 1000 are kept. Where the definition has a schema, all records follow that one.
    A registry that gives no answer raises RegistryError, one that refuses us ConfigError: no
    record is rejected for it. The values of a record are bounded by its bytes, so that one call
    holds a few times the bytes of its batch and, for its largest record alone, at the very worst
    1.5 KB for each byte.
    """

    def __init__(
        self,
        schema: Mapping[str, pl.DataType],
        value_bytes_max: int = VALUE_BYTES_MAX,
        options: CodecOptions = NO_OPTIONS,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not schema:
            raise DefinitionError("the schema is empty; name the columns and their Polars types")
        for name, dtype in schema.items():
            check_dtype(name, dtype)
        self._schema = dict(schema)
        self._value_bytes_max = value_bytes_max
        self._clock_s = clock_s
        try:
            found = msgspec.convert(dict(options.format), AvroOptions)
        except msgspec.ValidationError as error:
            raise DefinitionError(f"Avro's options: {error}; see hw.avro") from None
        self._aliases = found.aliases
        self._framed = found.framing == "confluent"
        self._layouts: dict[int, _Layout | _Refusal] = {}
        self._lock = threading.Lock()
        self._only: _Layout | None = None
        if found.schema:
            self._only = self._given(found.schema)
        else:
            settings = options.registry or RegistrySettings.from_environment(os.environ)
            self._registry = SchemaRegistry(found.registry, settings, clock_s=clock_s, sleep=sleep)

    def _given(self, text: str) -> _Layout:
        """Return how all records are read; what none of them can have is refused at once."""
        try:
            layout = _Layout((text,), self._schema, self._aliases)
        except UnusableSchemaError as error:
            raise DefinitionError(f"the Avro schema can't be used: {error}") from None
        if layout.refusals:
            raise DefinitionError(
                f"by the Avro schema, {layout.refusals[0]}; give the column the type of the field"
            )
        return layout

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode a batch of values; see `Codec` for the law this holds to."""
        groups, rejects = self._screened(values)
        parts = []
        for schema_id, records in groups.items():
            layout = self._only or self._layout(schema_id)
            if isinstance(layout, _Refusal):
                rejects += [Reject(row, layout.reason, layout.message) for row, _ in records]
                continue
            parts.append(layout.decode(records, HEADER_BYTES if self._framed else 0))
            rejects += parts[-1].rejects
        rejects.sort(key=attrgetter("row"))
        if len(parts) == 1:
            return Decoded(parts[0].frame, parts[0].rows, rejects)
        positions = np.concatenate([np.empty(0, np.int64), *(part.rows for part in parts)])
        ascending = np.argsort(positions)
        frames = [pl.DataFrame(schema=self._schema), *(part.frame for part in parts)]
        return Decoded(pl.concat(frames)[ascending].rechunk(), positions[ascending], rejects)

    def _screened(
        self, values: Sequence[bytes | None]
    ) -> tuple[dict[int, list[_Record]], list[Reject]]:
        """Return the records of each schema id, and rejects that no schema is needed for.

        Where all records follow one schema, they are under id 0.
        """
        groups: dict[int, list[_Record]] = {}
        rejects: list[Reject] = []
        for row, value in enumerate(values):
            schema_id: int | None = 0
            if value is None:
                rejects.append(Reject(row, "tombstone", "the record has no value"))
            elif not value:
                rejects.append(Reject(row, "empty", "no bytes are no row"))
            elif len(value) > self._value_bytes_max:
                limit = f"at most {self._value_bytes_max} are taken"
                message = f"the value has {len(value)} bytes; {limit}"
                rejects.append(Reject(row, "oversized", message))
            elif self._framed and (schema_id := schema_id_of(value)) is None:
                rejects.append(Reject(row, "not_framed", _not_framed(value)))
            else:
                assert schema_id is not None
                groups.setdefault(0 if self._only else schema_id, []).append((row, value))
        return groups, rejects

    def _layout(self, schema_id: int) -> _Layout | _Refusal:
        """Return how records of a schema are read, from what was kept or the registry."""
        found = self._layouts.get(schema_id)
        if found is None or (isinstance(found, _Refusal) and self._clock_s() >= found.until_s):
            found = self._asked(schema_id)
            with self._lock:
                self._layouts.pop(schema_id, None)
                while len(self._layouts) >= SCHEMAS_MAX:
                    del self._layouts[next(iter(self._layouts))]
                self._layouts[schema_id] = found
        return found

    def _asked(self, schema_id: int) -> _Layout | _Refusal:
        try:
            texts = self._registry.schema(schema_id)
            if texts is not None:
                return _Layout(texts, self._schema, self._aliases)
        except UnusableSchemaError as error:
            message = _shortened(f"schema {schema_id}: {error}", MESSAGE_CHARS_MAX)
            return _Refusal("unusable_schema", message, float("inf"))
        message = f"the schema registry has no schema {schema_id}"
        return _Refusal("unknown_schema", message, self._clock_s() + UNKNOWN_FOR_S)


class _Refusal(NamedTuple):
    """Why no record of a schema can be read, and until when that is taken for granted."""

    reason: Reason
    message: str
    until_s: float


class _Layout:
    """How the records of one writer's schema become rows."""

    def __init__(
        self,
        texts: SchemaTexts,
        schema: Mapping[str, pl.DataType],
        aliases: Mapping[str, Sequence[str]],
    ) -> None:
        writer = read_writer_schema(texts)
        guard = Guard(writer.named)
        names = {one["name"] for one in writer.fields}
        column_of: dict[str, str] = {}
        for column in schema:
            field = next((x for x in (column, *aliases.get(column, ())) if x in names), None)
            if field is not None and field not in column_of:
                column_of[field] = column
        found: dict[str, AvroColumn] = {}
        parts = []
        for one in writer.fields:
            name = one["name"]
            if name in column_of:
                column = column_of[name]
                found[column], part = resolve(column, schema[column], one["type"], guard)
            else:
                part = guard.part(one["type"])
            parts.append((name, part))
        self._record = guard.record(parts)
        fields = {column: field for field, column in column_of.items()}
        self._pick = _picker([fields[name] for name in schema if name in fields])
        self._read = [name for name in schema if name in fields]
        self.refusals = [one.refusal for one in found.values() if one.refusal]
        self._columns = [found.get(name) or absent(name, dtype) for name, dtype in schema.items()]

    def decode(self, records: Sequence[_Record], start: int) -> Decoded:
        """Decode some values, whose records begin at a byte."""
        picked: list[tuple[Any, ...]] = []
        kept: list[int] = []
        rejects: list[Reject] = []
        for row, value in records:
            stream = BytesIO(value)
            stream.seek(start)
            try:
                record = cast("dict[str, Any]", schemaless_reader(stream, self._record, None))
            except BAD_BYTES as error:
                rejects.append(Reject(row, *_verdict(error)))
                continue
            left = len(value) - stream.tell()
            if left:
                message = f"{left} bytes are left over after the record"
                rejects.append(Reject(row, "not_avro", message))
                continue
            picked.append(self._pick(record))
            kept.append(row)
        frame, fits, misfits = self._frame(picked)
        positions = np.array(kept, dtype=np.int64)
        rejects += [Reject(kept[at], "wrong_type", text) for at, text in misfits.items()]
        return Decoded(frame, positions[fits], rejects)

    def _frame(
        self, picked: Sequence[tuple[Any, ...]]
    ) -> tuple[pl.DataFrame, np.ndarray[Any, Any], dict[int, str]]:
        """Return the rows that fit, their positions, and for each other one what is wrong."""
        cells: dict[str, Sequence[Any]] = dict.fromkeys(self._read, ())
        if picked:
            cells = dict(zip(self._read, zip(*picked, strict=True), strict=True))
        nothing = [None] * len(picked)
        wide = pl.DataFrame(
            [column.series(cells.get(column.name, nothing)) for column in self._columns]
        )
        frame = wide.select([column.narrow for column in self._columns])
        misfits: dict[int, str] = {}
        for name, values in cells.items():
            if frame[name].null_count() == values.count(None):
                continue
            lost = frame[name].is_null().arg_true().to_list()
            for at in lost:
                if values[at] is not None:
                    shown = _shortened(repr(values[at]), SHOWN_CHARS_MAX)
                    text = f'column "{name}": {shown} is not {frame[name].dtype} (range or text)'
                    misfits.setdefault(at, text)
        fits = np.delete(np.arange(len(picked)), sorted(misfits))
        return (frame[fits] if misfits else frame).rechunk(), fits, misfits


def _picker(fields: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return what takes some fields out of a record, as a tuple."""
    if len(fields) > 1:
        return itemgetter(*fields)
    return lambda record: tuple(record[field] for field in fields)


def _not_framed(value: bytes) -> str:
    shown = _shortened(repr(value[:HEADER_BYTES]), SHOWN_CHARS_MAX)
    return f"the value begins with {shown}, not with a zero byte and a schema id"


def _verdict(error: Exception) -> tuple[Reason | str, str]:
    """Say why the bytes of one record follow no schema."""
    if isinstance(error, KeyError):
        return dead_end_of(error) or (
            "not_avro",
            f"{error.args[0]} is no branch of the union or symbol of the enum there",
        )
    if isinstance(error, UnicodeDecodeError):
        return "not_utf8", f"byte {error.start} of a text: {error.reason}"
    if isinstance(error, EOFError | IndexError | StopIteration):
        return "not_avro", "the record ends before its schema does"
    return "not_avro", _shortened(f"the bytes don't follow the schema: {error}", MESSAGE_CHARS_MAX)


def _shortened(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
