"""Limb arithmetic that Numba lacks: full products, carries, leading zeros, short division.

A limb is a uint64. The two intrinsics emit LLVM integers of 64 and 128 bits, which every 64-bit
target lowers to its own instructions without a call; a 128-bit *division* would call the compiler's
run-time library, which the JIT doesn't link, so `divide` works on 32-bit halves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from headwater.kernels.compiled import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_carry", "divide", "leading_zeros", "multiply_add", "subtract_borrow"]

_HALF = np.uint64(32)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_BASE = np.uint64(1 << 32)
_ONE = np.uint64(1)


def _limbs_only(arguments: tuple[Any, ...]) -> bool:
    return all(argument == types.uint64 for argument in arguments)


def _typed_leading_zeros(_typing: Any, a: Any) -> Any:  # noqa: ANN401
    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return (types.uint64(types.uint64), emit) if _limbs_only((a,)) else None


def _typed_multiply_add(_typing: Any, a: Any, b: Any, c: Any, d: Any) -> Any:  # noqa: ANN401
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        limb, wide = ir.IntType(64), ir.IntType(128)
        x, y, z, t = (builder.zext(argument, wide) for argument in arguments)
        total = builder.add(builder.add(builder.mul(x, y), z), t)
        low = builder.trunc(total, limb)
        high = builder.trunc(builder.lshr(total, ir.Constant(wide, 64)), limb)
        return context.make_tuple(builder, signature.return_type, (low, high))

    pair: Any = cast("Any", types.UniTuple)(types.uint64, 2)
    signature = pair(types.uint64, types.uint64, types.uint64, types.uint64)
    return (signature, emit) if _limbs_only((a, b, c, d)) else None


# Return the zero bits above the highest set bit: 0 to 64.
leading_zeros: Callable[[np.uint64], np.uint64] = cast("Any", intrinsic(_typed_leading_zeros))

# Return a·b + c + d as (low, high); the largest, (B-1)² + 2(B-1) = B² - 1, still fits.
multiply_add: Callable[[np.uint64, np.uint64, np.uint64, np.uint64], tuple[np.uint64, np.uint64]]
multiply_add = cast("Any", intrinsic(_typed_multiply_add))


@kernel
def add_carry(a: np.uint64, b: np.uint64, carry: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return a + b + carry as (low, carry); both carries are 0 or 1."""
    partial = a + b
    total = partial + carry
    return total, np.uint64(partial < a) | np.uint64(total < partial)


@kernel
def subtract_borrow(a: np.uint64, b: np.uint64, borrow: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return a - b - borrow as (low, borrow); both borrows are 0 or 1."""
    partial = a - b
    total = partial - borrow
    return total, np.uint64(a < b) | np.uint64(partial < borrow)


@kernel
def _digit(u: np.uint64, next_half: np.uint64, d1: np.uint64, d0: np.uint64) -> np.uint64:
    """Return one 32-bit quotient digit of (u, next_half) by (d1, d0), with u < (d1, d0)."""
    q = u // d1
    r = u - q * d1
    # The estimate is at most 2 too large, because the divisor's top bit is set.
    for _ in range(2):
        if r < _BASE and (q >= _BASE or q * d0 > ((r << _HALF) | next_half)):
            q -= _ONE
            r += d1
    return q


@kernel
def divide(high: np.uint64, low: np.uint64, d: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return quotient and remainder of (high, low) by `d`; d ≥ 2⁶³ and high < d.

    Knuth, The Art of Computer Programming, volume 2, 4.3.1, algorithm D with two 32-bit digits.
    """
    d1 = d >> _HALF
    d0 = d & _LOW_HALF
    half1 = low >> _HALF
    half0 = low & _LOW_HALF
    q1 = _digit(high, half1, d1, d0)
    middle = ((high << _HALF) | half1) - q1 * d
    q0 = _digit(middle, half0, d1, d0)
    return (q1 << _HALF) + q0, ((middle << _HALF) | half0) - q0 * d
