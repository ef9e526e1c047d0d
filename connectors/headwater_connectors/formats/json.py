"""JSON objects, one per record, decoded by Polars under the decode law."""

from __future__ import annotations

import re
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import msgspec
import numpy as np
import polars as pl

from headwater.errors import DefinitionError
from headwater_connectors.formats.decoded import Decoded, Reject
from headwater_connectors.formats.json_column import narrowed, wire_type
from headwater_connectors.formats.options import NO_OPTIONS, CodecOptions
from headwater_connectors.log.packed_column import BytesColumn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from headwater_connectors.formats.decoded import Reason

    _Positions: TypeAlias = NDArray[np.int64]
    _Bad: TypeAlias = tuple[int, Reason, str]
    _Failure: TypeAlias = pl.exceptions.PolarsError | pl.exceptions.PanicException

__all__ = ["VALUE_BYTES_MAX", "JsonCodec"]

# Exchange records stay below 512 KiB; the rest is room for their header and keys.
VALUE_BYTES_MAX: Final = 512 * 1024 - 16 * 1024

MESSAGE_CHARS_MAX: Final = 300
SHOWN_CHARS_MAX: Final = 80

# Polars writes any JSON value into a String column as its JSON text. These texts could have been
# such a value; reading the column once more as the type beside it tells: null means it was text.
NOT_TEXT: Final[tuple[tuple[str, pl.DataType], ...]] = (
    (r"^-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$", pl.Float64()),
    (r"^(?:true|false)$", pl.Boolean()),
    (r"^\[", pl.List(pl.String())),
    (r"^\{", pl.Struct({"": pl.Boolean()})),
)
MAYBE_NOT_TEXT: Final = "|".join(f"(?:{pattern})" for pattern, _ in NOT_TEXT)

# Pairs and all other escapes are passed over; what the group holds is a surrogate without its half.
ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)

SKIM: Final = msgspec.json.Decoder(msgspec.Raw)


class JsonCodec:
    """Decodes JSON objects of one schema.

    Columns are the schema's, in its order. A missing member or a null is null, unknown members
    are passed over, of a repeated member the first counts. Nothing is converted: a number in a
    String column, `1.0` in an integer column or a value out of range is a reject. Datetime and
    Date columns take texts: RFC 3339 with any offset, kept as UTC (a text without an offset is
    UTC; what is finer than the column's unit, or than 1 µs, is cut). Numbers are rounded correctly
    to Float64; Float32 is that double rounded once more.

    One call holds a few times the bytes of its batch; callers bound the batch. Raises
    DefinitionError for an empty schema, a type that JSON can't carry here, a name that Polars
    takes for a pattern, or any option: JSON has none.
    """

    def __init__(
        self,
        schema: Mapping[str, pl.DataType],
        value_bytes_max: int = VALUE_BYTES_MAX,
        options: CodecOptions = NO_OPTIONS,
    ) -> None:
        if not schema:
            raise DefinitionError("the schema is empty; name the columns and their Polars types")
        if options.format:
            raise DefinitionError(
                f"JSON takes no options, these were given: {', '.join(options.format)}; leave them"
                " out"
            )
        self._value_bytes_max = value_bytes_max
        self._schema = dict(schema)
        self._wire = {name: wire_type(name, dtype) for name, dtype in schema.items()}
        # Nothing where every column is read as its own type.
        self._narrow = [
            narrowed(name, dtype) for name, dtype in schema.items() if self._wire != self._schema
        ]
        self._all_text = dict.fromkeys(schema, pl.String())
        self._text_columns = [name for name, dtype in schema.items() if dtype == pl.String]

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode a batch of values; see `Codec` for the law this holds to."""
        records, rows, rejects = _screened(values, self._value_bytes_max)
        lines = _lines(records)
        if _has_surrogates(lines):
            records, rows, halves = _without_half_pairs(records, rows)
            rejects += halves
            lines = _lines(records) if halves else lines
        frame = self._strict(records, lines)
        if frame is None:
            frame, kept, bad = self._patient(records)
            rejects += [Reject(int(rows[at]), reason, message) for at, reason, message in bad]
            rows = rows[kept]
        rejects.sort(key=attrgetter("row"))
        assert frame.height == rows.size
        assert rows.size + len(rejects) == len(values)
        return Decoded(frame, rows, rejects)

    def _strict(self, records: Sequence[bytes], lines: bytes) -> pl.DataFrame | None:
        """Read records that are all good, in one pass; None if any is not."""
        wide = _read(lines, len(records), self._wire)
        if not isinstance(wide, pl.DataFrame):
            return None
        frame = self._narrowed(wide)
        if frame is not wide and frame.null_count().row(0) != wide.null_count().row(0):
            return None
        not_text = self._not_text(frame, records, lines)
        if not isinstance(not_text, dict) or any(mask.any() for mask in not_text.values()):
            return None
        return frame.rechunk()

    def _patient(self, records: Sequence[bytes]) -> tuple[pl.DataFrame, _Positions, list[_Bad]]:
        """Read records of which some are bad, bisecting down to each one that does not parse.

        `b` of `n` such records cost O(b log n) parses.
        """
        count = len(records)
        order = np.arange(count)
        frames, kept = [pl.DataFrame(schema=self._schema)], [order[:0]]
        bad: list[_Bad] = []
        stack = [(0, count)]
        while stack:
            start, end = stack.pop()
            part = order[start:end]
            outcome = self._lenient([records[at] for at in part])
            if isinstance(outcome, tuple):
                frame, fits, misfits = outcome
                frames.append(frame)
                kept.append(part[fits])
                bad += [(int(part[at]), "wrong_type", text) for at, text in misfits.items()]
            elif end - start == 1:
                bad.append((int(part[0]), *_verdict(records[part[0]], outcome)))
            else:
                middle = (start + end) // 2
                if end - start == count:
                    order, middle = _suspects_last(records)
                stack += [(middle, end), (start, middle)]
        rows = np.concatenate(kept)
        ascending = np.argsort(rows)
        return pl.concat(frames)[ascending].rechunk(), rows[ascending], bad

    def _lenient(
        self, records: Sequence[bytes]
    ) -> tuple[pl.DataFrame, _Positions, dict[int, str]] | _Failure:
        """Read objects whose members may have wrong types, or return why some are no objects.

        Returns the rows that fit, their positions, and for each other position what is wrong. A
        member that is there when read as text, and null when read as its type, has a wrong type.
        """
        lines, count = _lines(records), len(records)
        texts = _read(lines, count, self._all_text)
        if not isinstance(texts, pl.DataFrame):
            return texts
        wide = _read(lines, count, self._wire, ignore_errors=True)
        if not isinstance(wide, pl.DataFrame):
            return wide
        not_text = self._not_text(texts, records, lines)
        if not isinstance(not_text, dict):
            return not_text
        frame = self._narrowed(wide)
        misfits: dict[int, str] = {}
        for name, dtype in self._schema.items():
            lost = (texts[name].is_not_null() & frame[name].is_null()).to_numpy()
            for at in np.flatnonzero(not_text.get(name, lost)).tolist():
                message = f'column "{name}": {_shown(texts[name][at])} is not {dtype}'
                misfits.setdefault(at, f"{message} (JSON type, format or range)")
        fits = np.delete(np.arange(count), list(misfits))
        return frame[fits], fits, misfits

    def _narrowed(self, wide: pl.DataFrame) -> pl.DataFrame:
        """Return what was read in the schema's types: the frame itself where it has them."""
        return wide.select(self._narrow) if self._narrow else wide

    def _not_text(
        self, texts: pl.DataFrame, records: Sequence[bytes], lines: bytes
    ) -> dict[str, NDArray[np.bool_]] | _Failure:
        """Tell, for the String columns in doubt, which rows hold a JSON value other than text."""
        doubts = texts.select(pl.col(self._text_columns).str.contains(MAYBE_NOT_TEXT).any())
        names = [name for name in self._text_columns if doubts[name][0]]
        found = {name: np.zeros(texts.height, dtype=np.bool_) for name in names}
        for pattern, dtype in NOT_TEXT if names else ():
            may_be = texts.select(pl.col(names).str.contains(pattern).fill_null(value=False))
            rows = may_be.select(pl.any_horizontal(pl.all())).to_series().arg_true().to_numpy()
            if rows.size:
                again = lines if rows.size == len(records) else _lines([records[i] for i in rows])
                values = _read(again, rows.size, dict.fromkeys(names, dtype), ignore_errors=True)
                if not isinstance(values, pl.DataFrame):
                    return values
                for name in names:
                    found[name][rows] |= values[name].is_not_null().to_numpy()
        return found


def _screened(
    values: Sequence[bytes | None], bytes_max: int
) -> tuple[Sequence[bytes], _Positions, list[Reject]]:
    """Set apart absent, empty and oversized values; return the others and their rows."""
    rows = np.arange(len(values))
    if isinstance(values, BytesColumn) and _are_plain(values, bytes_max):
        return cast("Sequence[bytes]", values), rows, []
    # `all` is False for None, so the casts hold where they are evaluated.
    if (
        all(values)
        and max(map(len, cast("Sequence[bytes]", values)), default=0) <= bytes_max
        and not any(map(bytes.isspace, cast("Sequence[bytes]", values)))
    ):
        return cast("Sequence[bytes]", values), rows, []
    kept: list[bytes] = []
    rejects: list[Reject] = []
    for row, value in enumerate(values):
        if value is None:
            rejects.append(Reject(row, "tombstone", "the record has no value"))
        elif not value or value.isspace():
            rejects.append(Reject(row, "empty", f"{len(value)} bytes of white space are no row"))
        elif len(value) > bytes_max:
            message = f"the value has {len(value)} bytes; at most {bytes_max} are taken"
            rejects.append(Reject(row, "oversized", message))
        else:
            kept.append(value)
    return kept, np.delete(rows, [reject.row for reject in rejects]), rejects


def _are_plain(values: BytesColumn, bytes_max: int) -> bool:
    """Tell at a glance that none is absent, empty, white space or oversized; False: look closer."""
    lengths = values.lengths()
    if not lengths.size or lengths.min() == 0 or lengths.max() > bytes_max:
        return False
    # All white space is ASCII, and none of it above the space.
    return bool(values.first_bytes().min() > ord(" "))


def _has_surrogates(data: bytes) -> bool:
    # One byte is found much faster than three, and most data has no backslash at all.
    return b"\\" in data and (b"\\ud" in data or b"\\uD" in data)


def _without_half_pairs(
    records: Sequence[bytes], rows: _Positions
) -> tuple[Sequence[bytes], _Positions, list[Reject]]:
    """Set apart records with half a surrogate pair.

    Polars reads such an escape as U+0000, or fails, by what follows it.
    """
    halves = [
        at
        for at, record in enumerate(records)
        if _has_surrogates(record) and any(ESCAPE.findall(record))
    ]
    if not halves:
        return records, rows, []
    message = "an escape is half of a surrogate pair, which is no character"
    rejects = [Reject(row, "not_utf8", message) for row in rows[halves].tolist()]
    rows = np.delete(rows, halves)
    dropped = set(halves)
    return [record for at, record in enumerate(records) if at not in dropped], rows, rejects


def _lines(records: Sequence[bytes]) -> bytes:
    """Join records to one line each."""
    # The newline in front keeps Polars from taking a first record that begins like gzip, zlib or
    # zstd data for a compressed file.
    lines = records.lines() if isinstance(records, BytesColumn) else b"\n".join([b"", *records])
    if lines.count(b"\n") == len(records):
        return lines
    # A raw newline would end the record. As a carriage return it is still white space between
    # tokens, and still illegal inside a text.
    return b"\n".join([b"", *(record.replace(b"\n", b"\r") for record in records)])


def _read(
    lines: bytes, count: int, schema: Mapping[str, pl.DataType], *, ignore_errors: bool = False
) -> pl.DataFrame | _Failure:
    """Read `count` lines into as many rows with Polars, or return why it did not.

    A row depends on its own line only: the schema is given, so nothing is inferred.
    """
    try:
        frame = pl.read_ndjson(lines, schema=schema, ignore_errors=ignore_errors)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        return error
    if frame.height != count:
        return pl.exceptions.ShapeError(f"{count} lines were read as {frame.height} rows")
    return frame


def _verdict(record: bytes, failure: _Failure) -> tuple[Reason, str]:
    """Say why one record, alone, is no object."""
    try:
        text = record.decode()
    except UnicodeDecodeError as error:
        return "not_utf8", f"byte {error.start} of the value: {error.reason}"
    if isinstance(failure, pl.exceptions.PanicException):
        return "decoder_failed", "the JSON reader broke on this record; report it with the value"
    # Lenient about types, the reader takes any JSON value for an object.
    if not text.lstrip().startswith("{"):
        value = _read(_lines([record]), 1, {"": pl.String()}, ignore_errors=True)
        if isinstance(value, pl.DataFrame):
            return "not_an_object", f"the value is {_shown(text)}, not a JSON object"
    return "not_json", _shortened(str(failure).partition("\n")[0], MESSAGE_CHARS_MAX)


def _suspects_last(records: Sequence[bytes]) -> tuple[_Positions, int]:
    """Order the records so that those that look bad come last; return where to cut.

    Bisecting is cheaper when the bad are together. The look decides about order, nothing else.
    """
    looks = np.array([_looks_good(record) for record in records])
    good = int(looks.sum())
    cut = good if 0 < good < len(records) else len(records) // 2
    return np.argsort(~looks, kind="stable"), cut


def _looks_good(record: bytes) -> bool:
    try:
        record.decode()
        SKIM.decode(record)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return record.lstrip().startswith(b"{")


def _shown(text: str) -> str:
    return _shortened(repr(text), SHOWN_CHARS_MAX)


def _shortened(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
