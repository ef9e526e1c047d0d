"""NumPy views of Arrow buffers, without copying."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["int64_view", "view_of"]

_Scalar = TypeVar("_Scalar", bound=np.generic)


class _Exporter:
    """Hands a buffer to NumPy; the array that comes of it keeps this, and so the buffer, alive."""

    def __init__(self, buffer: pa.Buffer, dtype: np.dtype[Any], start: int, count: int) -> None:
        assert (start + count) * dtype.itemsize <= buffer.size
        self._buffer = buffer
        self.__array_interface__ = {
            "version": 3,
            "shape": (count,),
            "typestr": dtype.str,
            "data": (buffer.address + start * dtype.itemsize, False),
        }


def view_of(
    buffer: pa.Buffer | None, scalar: type[_Scalar], start: int, count: int
) -> NDArray[_Scalar]:
    """Return `count` elements from element `start` of a buffer, for reading only.

    The view isn't marked read-only, because Numba compiles every kernel a second time for an array
    that is, in the middle of serving. No buffer, as Arrow has for empty arrays, gives zeros;
    elements that aren't aligned, as in a message cut out of another, are copied.
    """
    if buffer is None or buffer.size == 0 or count == 0:
        return np.zeros(count, scalar)
    view: NDArray[_Scalar] = np.asarray(_Exporter(buffer, np.dtype(scalar), start, count))
    return view if view.flags.aligned else view.copy()


def int64_view(array: pa.Array) -> NDArray[np.int64]:
    """Return an Int64 array without nulls; Arrow's own way would import pandas first."""
    return view_of(array.buffers()[1], np.int64, array.offset, len(array))
