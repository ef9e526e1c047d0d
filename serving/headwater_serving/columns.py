"""Columns on the wire: Polars series to and from the buffers of a message, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from headwater.flow.answer import RequestError
from headwater_proto.v1.column_pb2 import Column, VarBytes
from headwater_serving.dtypes import default_dtype, dtype_from_name, wire_type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from headwater_serving.dtypes import WireType

__all__ = ["decode_column", "decode_frame", "decode_matrix", "encode_column", "encode_frame"]

# Arrow's long-offset layouts, which both sides know; the newest level has string views.
_COMPAT = pl.CompatLevel.oldest()
# Types whose own bits are a buffer: sent without the way through Arrow, at a fifth of its cost.
_PLAIN: Mapping[pl.DataType | type[pl.DataType], str] = {
    pl.Float64: "float64",
    pl.Int64: "int64",
    pl.UInt64: "uint64",
}
_ZERO = {"boolean": False, "string": "", "binary": b"", "float64": 0.0}


def encode_column(series: pl.Series, *, named: bool = True) -> Column:
    """Return the message of a series; without `named`, the receiver knows its name and type.

    Buffers are copied as they lie (strings 10 times faster than as repeated fields). What lies
    under a null is zeroed: it may be a value the caller was not meant to see.
    Raises RequestError for a type that can't travel.
    """
    dtype, rows, nulls = series.dtype, len(series), series.null_count()
    column = Column(rows=rows)
    if not nulls and rows and (plain := _PLAIN.get(dtype)):
        if named:
            column.name = series.name
        setattr(column, plain, series.to_numpy().tobytes())
        return column
    kind = wire_type(dtype)
    if named:
        column.name = series.name
        if nulls == rows or not kind.default:
            column.dtype = kind.name
    if nulls == rows:
        return column
    carried = series if dtype == kind.carrier else series.cast(kind.carrier)
    array = carried.to_arrow(compat_level=_COMPAT)
    if nulls:
        column.validity = _packed(array.is_valid())
        array = array.fill_null(_ZERO.get(kind.buffer, 0))
    if kind.buffer == "boolean":
        column.boolean = _packed(array) if array.offset else _bits(array.buffers()[1], rows)
    elif kind.width:
        start = array.offset * kind.width
        data = array.buffers()[1]
        setattr(column, kind.buffer, data.slice(start, rows * kind.width).to_pybytes())
    else:
        getattr(column, kind.buffer).CopyFrom(_var_bytes(array))
    return column


def encode_frame(frame: pl.DataFrame, *, named: bool = True) -> list[Column]:
    """Return the messages of a frame's columns, in order."""
    return [encode_column(series, named=named) for series in frame.get_columns()]


def decode_column(column: Column) -> pl.Series:
    """Return the series of a message that names its type, or uses the default of its buffer.

    The length is the sender's word: check `column.rows` against a limit first.
    Raises RequestError where buffers, rows and type don't fit together.
    """
    where = f'column "{column.name}"'
    dtype = _own_dtype(column, where)
    array = _array(column, wire_type(dtype), where)
    return _restored(pl.Series(column.name, array), dtype, where)


def decode_frame(columns: Sequence[Column], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return the frame of messages that come in the order and with the types of `schema`.

    Raises RequestError where they don't.
    """
    _check_rows(columns, schema)
    arrays = [
        _array(column, wire_type(dtype), f'column "{name}"')
        for column, (name, dtype) in zip(columns, schema.items(), strict=True)
    ]
    # One conversion for all columns costs a third of one for each.
    frame = pl.from_arrow(pa.RecordBatch.from_arrays(arrays, names=list(schema)))
    assert isinstance(frame, pl.DataFrame)
    narrow = [
        _restored(frame[name], dtype, f'column "{name}"')
        for name, dtype in schema.items()
        if wire_type(dtype).carrier != dtype
    ]
    return frame.with_columns(narrow) if narrow else frame


def decode_matrix(
    columns: Sequence[Column], schema: Mapping[str, pl.DataType]
) -> NDArray[np.float64]:
    """Return numbers and Booleans as a matrix of shape (rows, columns), NaN for null.

    Straight from the buffers: for one row a tenth of the cost of the way through a frame.
    Raises RequestError where the messages don't fit `schema`, or a type is no number.
    """
    rows = _check_rows(columns, schema)
    matrix = np.empty((rows, len(columns)), dtype=np.float64)
    for position, (column, (name, dtype)) in enumerate(zip(columns, schema.items(), strict=True)):
        kind = wire_type(dtype)
        if not (dtype.is_numeric() or kind.buffer == "boolean"):
            raise RequestError(f'"{name}" is {dtype}, which a matrix of numbers can\'t hold')
        if column.WhichOneof("values") is None:
            matrix[:, position] = np.nan
            continue
        _check_buffers(column, kind, f'column "{name}"')
        data = getattr(column, kind.buffer)
        matrix[:, position] = (
            _unpacked(data, rows) if kind.width == 0 else np.frombuffer(data, dtype=kind.buffer)
        )
        if column.validity:
            matrix[_unpacked(column.validity, rows) == 0, position] = np.nan
    return matrix


def _check_rows(columns: Sequence[Column], schema: Mapping[str, pl.DataType]) -> int:
    if len(columns) != len(schema):
        raise RequestError(f"{len(columns)} columns where {len(schema)} were described")
    if len({column.rows for column in columns}) > 1:
        raise RequestError("the columns differ in their number of rows")
    return columns[0].rows if columns else 0


def _own_dtype(column: Column, where: str) -> pl.DataType:
    buffer = column.WhichOneof("values")
    if column.dtype:
        return dtype_from_name(column.dtype)
    if buffer is None:
        raise RequestError(f"{where}: has neither a buffer nor a dtype; set one of the two")
    return default_dtype(buffer)


def _array(column: Column, kind: WireType, where: str) -> pa.Array:
    """Return a view of the message's buffers, checked so that no read can leave them."""
    buffer, rows = column.WhichOneof("values"), column.rows
    if buffer is None:
        return pa.nulls(rows, kind.arrow)
    _check_buffers(column, kind, where)
    validity = pa.py_buffer(column.validity) if column.validity else None
    values = getattr(column, buffer)
    if isinstance(values, VarBytes):
        buffers = [validity, pa.py_buffer(values.offsets), pa.py_buffer(values.data)]
    else:
        buffers = [validity, pa.py_buffer(values)]
    try:
        array = pa.Array.from_buffers(kind.arrow, rows, buffers)
        if isinstance(values, VarBytes):
            # Offsets inside the data and valid UTF-8: Polars would take both on trust.
            array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise RequestError(f"{where}: {_first_line(error)}") from error
    return array


def _check_buffers(column: Column, kind: WireType, where: str) -> None:
    buffer, rows = column.WhichOneof("values"), column.rows
    if buffer != kind.buffer:
        raise RequestError(f"{where}: {kind.name} travels as {kind.buffer}, not as {buffer}")
    if column.validity:
        _check_size(column.validity, (rows + 7) // 8, "validity", where)
    values = getattr(column, buffer)
    if isinstance(values, VarBytes):
        _check_size(values.offsets, (rows + 1) * 8, "offsets", where)
    else:
        size = rows * kind.width if kind.width else (rows + 7) // 8
        _check_size(values, size, buffer, where)


def _restored(series: pl.Series, dtype: pl.DataType, where: str) -> pl.Series:
    if series.dtype == dtype:
        return series
    try:
        return series.cast(dtype)
    except pl.exceptions.PolarsError as error:
        raise RequestError(f"{where}: a value lies outside of {dtype}") from error


def _check_size(data: bytes, expected: int, buffer: str, where: str) -> None:
    if len(data) != expected:
        raise RequestError(f"{where}: {buffer} has {len(data)} bytes where {expected} are needed")


def _var_bytes(array: pa.Array) -> VarBytes:
    _, offsets_buffer, data = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)
    offsets = offsets[array.offset : array.offset + len(array) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    if first:
        offsets = offsets - first
    # All values empty: Arrow may leave the data out.
    content = data.slice(first, last - first).to_pybytes() if last > first else b""
    return VarBytes(offsets=offsets.tobytes(), data=content)


def _bits(buffer: pa.Buffer, rows: int) -> bytes:
    bits = bytearray(buffer.slice(0, (rows + 7) // 8).to_pybytes())
    if rows % 8:
        bits[-1] &= (1 << rows % 8) - 1
    return bytes(bits)


def _packed(flags: pa.Array) -> bytes:
    return np.packbits(flags.to_numpy(zero_copy_only=False), bitorder="little").tobytes()


def _unpacked(bits: bytes, rows: int) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=rows, bitorder="little")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
