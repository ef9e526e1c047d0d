"""Rows of a frame as event words, and feature words as columns of a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from headwater.plan.ops import EVENT_HEADER_WORDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headwater.plan.layout import Layout
    from headwater.state.group import Values

__all__ = ["POSITION_BITS", "SYSTEM_COLUMNS", "event_words", "feature_columns", "positions_of"]

# What every decoded row carries beside the stream's own columns.
SYSTEM_COLUMNS = ("__offset", "__ts", "__arrival")

# (partition, offset) as one ordered word: 15 bits of partition, 48 bits of offset.
POSITION_BITS = 48


def positions_of(
    partition: int | NDArray[np.int64], offsets: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return one ordered word per (partition, offset); offsets stay below 2⁴⁸."""
    assert not len(offsets) or int(offsets[-1]) < 1 << POSITION_BITS
    found: NDArray[np.int64] = (np.int64(partition) << np.int64(POSITION_BITS)) | offsets
    return found


def event_words(
    layout: Layout, frame: pl.DataFrame, times: NDArray[np.int64], positions: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], int]:
    """Return event words (n, event words) of a frame's rows, and how many values can't be used.

    NaN and infinities become null, −0.0 becomes 0.0. `times` are µs, `positions` from
    `positions_of`. Values outside a sum's or a variance's range count as unusable too: the kernels
    leave them out of that aggregate.
    """
    events = np.zeros((frame.height, layout.event_words), np.uint64)
    events[:, 0] = times.view(np.uint64)
    events[:, 1] = positions.view(np.uint64)
    mask = events[:, 2]
    unusable = 0
    for i, one in enumerate(layout.inputs):
        series = frame[one.column]
        present = series.is_not_null().to_numpy()
        if one.kind == "float":
            values = series.cast(pl.Float64).to_numpy()
            finite = np.isfinite(values)
            unusable += int(np.count_nonzero(present & ~finite))
            present = present & finite
            values = np.where(present, values, 0.0) + 0.0
            if one.sum_bound or one.moments_bound:
                bound = 2.0**64 if one.moments_bound else 2.0**96
                unusable += int(np.count_nonzero(np.abs(values) >= bound))
            words = values.view(np.uint64)
        elif one.kind == "presence":
            words = np.zeros(len(series), np.uint64)
        elif one.kind == "uint":
            words = series.fill_null(0).to_numpy()
        else:
            whole = series.to_physical() if one.dtype.is_temporal() else series
            words = whole.cast(pl.Int64).fill_null(0).to_numpy().view(np.uint64)
        events[:, EVENT_HEADER_WORDS + i] = words
        mask |= present.astype(np.uint64) << np.uint64(i)
    return events, unusable


def feature_columns(layout: Layout, names: tuple[str, ...], values: Values) -> list[pl.Series]:
    """Return the features as typed columns, null where there is no value."""
    rows = len(values.bits)
    # Through Arrow, all at once: a Polars call for each column would cost more than the read.
    words = np.ascontiguousarray(values.bits.T)
    masks = np.ascontiguousarray(np.packbits(values.valid.T, axis=1, bitorder="little"))
    nulls = (rows - np.count_nonzero(values.valid, axis=0)).tolist()
    arrays = []
    for j, dtype in enumerate(layout.output_dtypes):
        kind = _ARROW_KINDS.get(dtype, _WORD)
        mask = pa.py_buffer(masks[j]) if nulls[j] else None
        arrays.append(pa.Array.from_buffers(kind, rows, [mask, pa.py_buffer(words[j])], nulls[j]))
    frame = pl.DataFrame(pa.RecordBatch.from_arrays(arrays, names=list(names)))
    return [_typed(*one) for one in zip(frame.get_columns(), layout.output_dtypes, strict=True)]


_WORD = pa.int64()
_ARROW_KINDS: dict[pl.DataType, pa.DataType] = {
    pl.Float32(): pa.float64(),
    pl.Float64(): pa.float64(),
    pl.UInt64(): pa.uint64(),
}


def _typed(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    if column.dtype == dtype:
        return column
    if dtype == pl.Boolean:
        return column != 0
    if dtype == pl.Date:
        return column.cast(pl.Int32).cast(dtype)
    return column.cast(dtype)
