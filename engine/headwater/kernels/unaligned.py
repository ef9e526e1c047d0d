"""Words at any byte of a byte array: unaligned loads, stores, copies and comparisons.

A word is 4 or 8 little-endian bytes. The loads and stores are LLVM instructions with alignment 1,
which is one machine instruction on every target; none checks bounds or wraps a negative index, so
the caller answers for both. Numba's targets with caching and 64-bit words are all little-endian.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from headwater.kernels.compiled import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "copy_bytes",
    "load_half",
    "load_word",
    "same_bytes",
    "store_half",
    "store_word",
    "swap_bytes",
]


def _is_place(data: Any, at: Any) -> bool:  # noqa: ANN401
    """Whether the types are a byte array and an index."""
    is_bytes = isinstance(data, types.Array) and data.dtype == types.uint8 and data.ndim == 1
    return is_bytes and data.layout == "C" and isinstance(at, types.Integer)


def _place(context: Any, builder: Any, signature: Any, arguments: Any, bits: int) -> Any:  # noqa: ANN401
    """Return a pointer to the word of `bits` at the first two arguments."""
    array_type, at_type = signature.args[:2]
    array = context.make_array(array_type)(context, builder, arguments[0])
    at = context.cast(builder, arguments[1], at_type, types.intp)
    return builder.bitcast(builder.gep(array.data, [at]), ir.IntType(bits).as_pointer())


def _load(data: Any, at: Any, word: Any) -> Any:  # noqa: ANN401
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        pointer = _place(context, builder, signature, arguments, word.bitwidth)
        return builder.load(pointer, align=1)

    return (word(data, at), emit) if _is_place(data, at) else None


def _store(data: Any, at: Any, value: Any, word: Any) -> Any:  # noqa: ANN401
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        pointer = _place(context, builder, signature, arguments, word.bitwidth)
        builder.store(arguments[2], pointer, align=1)
        return context.get_dummy_value()

    fits = _is_place(data, at) and data.mutable and value == word
    return (types.void(data, at, value), emit) if fits else None


def _typed_load_word(_typing: Any, data: Any, at: Any) -> Any:  # noqa: ANN401
    return _load(data, at, types.uint64)


def _typed_load_half(_typing: Any, data: Any, at: Any) -> Any:  # noqa: ANN401
    return _load(data, at, types.uint32)


def _typed_store_word(_typing: Any, data: Any, at: Any, value: Any) -> Any:  # noqa: ANN401
    return _store(data, at, value, types.uint64)


def _typed_store_half(_typing: Any, data: Any, at: Any, value: Any) -> Any:  # noqa: ANN401
    return _store(data, at, value, types.uint32)


def _typed_swap_bytes(_typing: Any, value: Any) -> Any:  # noqa: ANN401
    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.bswap(arguments[0])

    return (value(value), emit) if value in {types.uint32, types.uint64} else None


# Return the 8 bytes at an index as a uint64.
load_word: Callable[[NDArray[np.uint8], int], np.uint64] = intrinsic(_typed_load_word)

# Return the 4 bytes at an index as a uint32.
load_half: Callable[[NDArray[np.uint8], int], np.uint32] = intrinsic(_typed_load_half)

# Write a uint64 as the 8 bytes at an index.
store_word: Callable[[NDArray[np.uint8], int, np.uint64], None] = intrinsic(_typed_store_word)

# Write a uint32 as the 4 bytes at an index.
store_half: Callable[[NDArray[np.uint8], int, np.uint32], None] = intrinsic(_typed_store_half)

# Return a word with its bytes in reverse.
swap_bytes: Callable[[np.uint64], np.uint64] = intrinsic(_typed_swap_bytes)


@kernel
def copy_bytes(
    source: NDArray[np.uint8], source_at: int, target: NDArray[np.uint8], target_at: int, count: int
) -> None:
    """Copy `count` bytes between arrays that don't overlap."""
    if count >= 8:
        # Whole words, then a last one that ends with the bytes and may overlap the one before.
        for k in range(0, count - 8, 8):
            store_word(target, target_at + k, load_word(source, source_at + k))
        last = count - 8
        store_word(target, target_at + last, load_word(source, source_at + last))
    elif count >= 4:
        last = count - 4
        first_half = load_half(source, source_at)
        store_half(target, target_at + last, load_half(source, source_at + last))
        store_half(target, target_at, first_half)
    elif count > 0:
        target[target_at] = source[source_at]
        target[target_at + count // 2] = source[source_at + count // 2]
        target[target_at + count - 1] = source[source_at + count - 1]


@kernel
def same_bytes(
    left: NDArray[np.uint8], left_at: int, right: NDArray[np.uint8], right_at: int, count: int
) -> bool:
    """Whether `count` bytes of two arrays are equal."""
    if count >= 8:
        for k in range(0, count - 8, 8):
            if load_word(left, left_at + k) != load_word(right, right_at + k):
                return False
        last = count - 8
        return load_word(left, left_at + last) == load_word(right, right_at + last)
    if count >= 4:
        last = count - 4
        return load_half(left, left_at) == load_half(right, right_at) and load_half(
            left, left_at + last
        ) == load_half(right, right_at + last)
    equal = True
    for k in range(count):
        equal &= left[left_at + k] == right[right_at + k]
    return equal
