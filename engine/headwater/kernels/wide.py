"""Exact sums: doubles and integers added into wide two's complement integers of limbs.

An accumulator is a stretch of a uint64 array `w` at word offset `o`, lowest limb first. A double is
rounded once, half to even, to a grid when it enters; from there on all is integer arithmetic modulo
2²⁵⁶ (or 2¹²⁸), so the limbs do not depend on the order of the additions. They are the exact sum as
long as that fits: 2³¹ of the largest values allowed always do.

==================  =====  =======  ==========
accumulator         words  grid     range
==================  =====  =======  ==========
sum of doubles      4      2⁻¹²⁸    |x| < 2⁹⁶
sum of integers     2      1        all
moments: Σx, Σx²    4 + 4  2⁻⁴⁸     |x| < 2⁶⁴
==================  =====  =======  ==========
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.compiled import kernel
from headwater.kernels.limbs import add_carry, multiply_add

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "INT_SUM_WORDS",
    "MOMENTS_WORDS",
    "SUM_WORDS",
    "add_128",
    "add_256",
    "add_bits_256",
    "add_double_256",
    "add_int_128",
    "add_moments_bits",
    "add_moments_int",
    "add_moments_uint",
    "add_uint_128",
    "in_moment_range",
    "in_sum_range",
]

SUM_WORDS = 4
INT_SUM_WORDS = 2
MOMENTS_WORDS = 8

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_FOUR = np.uint64(4)

_EXPONENT = np.uint64(0x7FF)
_EXPONENT_SHIFT = np.uint64(52)
_FRACTION = np.uint64((1 << 52) - 1)
_SIGN_SHIFT = np.uint64(63)
_IN_LIMB = np.uint64(63)
_LIMB_SHIFT = np.int64(6)

# A double is m · 2^(exponent - 1075) with 2⁵² ≤ m < 2⁵³. On the grid 2⁻ᵍ, with one limb below the
# grid to round by, that is m shifted left by exponent - 1075 + g + 64 bits.
_SUM_SHIFT = np.int64(1075 - 128 - 64)
_MOMENT_SHIFT = np.int64(1075 - 48 - 64)
_SUM_EXPONENT = np.uint64(1023 + 96)
_MOMENT_EXPONENT = np.uint64(1023 + 64)


@kernel
def in_sum_range(bits: np.uint64) -> bool:
    """Tell whether the double with these bits is finite and |x| < 2⁹⁶."""
    return bool((bits >> _EXPONENT_SHIFT) & _EXPONENT < _SUM_EXPONENT)


@kernel
def in_moment_range(bits: np.uint64) -> bool:
    """Tell whether the double with these bits is finite and |x| < 2⁶⁴."""
    return bool((bits >> _EXPONENT_SHIFT) & _EXPONENT < _MOMENT_EXPONENT)


@kernel
def _shifted(bits: np.uint64, grid_shift: np.int64) -> tuple[np.int64, np.uint64, np.uint64]:
    """Return (k, low, high): |x| on the grid is (low, high) at limb k - 1; limb -1 is fraction."""
    exponent = (bits >> _EXPONENT_SHIFT) & _EXPONENT
    shift = np.int64(exponent) - grid_shift
    # Below the fraction limb lies less than a quarter of a unit: zero, like the subnormals.
    m = (bits & _FRACTION) | (_ONE << _EXPONENT_SHIFT) if shift >= 0 else _ZERO
    k = shift >> _LIMB_SHIFT if shift >= 0 else np.int64(0)
    r = np.uint64(shift) & _IN_LIMB
    return k, m << r, (m >> _ONE) >> (_IN_LIMB - r)


@kernel
def _rounds_up(fraction: np.uint64, units: np.uint64) -> np.uint64:
    """Return 1 where `fraction` (of 2⁶⁴) rounds the odd or even `units` up, half to even."""
    return (fraction >> _SIGN_SHIFT) & (np.uint64(fraction << _ONE != _ZERO) | (units & _ONE))


@kernel
def _propagate(w: NDArray[np.uint64], start: np.uint64, stop: np.uint64, ones: np.uint64) -> None:
    """Add +1 (`ones` = 0) or -1 (`ones` = 2⁶⁴ - 1) to the limbs from `start` on."""
    step = ones | _ONE
    index = start
    while index < stop:
        limb = w[index] + step
        w[index] = limb
        # A carry goes on from a limb that wrapped: to 0 going up, to all ones going down.
        if limb != ones:
            return
        index += _ONE


@kernel
def add_bits_256(w: NDArray[np.uint64], o: int, bits: np.uint64) -> None:
    """Add x · 2¹²⁸, rounded half to even, to w[o:o+4]; `bits` are a double's, |x| < 2⁹⁶."""
    k, shifted_low, shifted_high = _shifted(bits, _SUM_SHIFT)
    # Selects instead of a branch: zeros (k = 0) mixed with other values would mispredict.
    rounded = shifted_high + _rounds_up(shifted_low, shifted_high)
    low = rounded if k == 0 else shifted_low
    high = _ZERO if k == 0 else shifted_high
    base = np.uint64(o)
    i = base + (_ZERO if k == 0 else np.uint64(k - 1))
    j = i + _ONE
    sign = bits >> _SIGN_SHIFT
    ones = _ZERO - sign
    low, carry = add_carry(low ^ ones, _ZERO, sign)
    high, negated = add_carry(high ^ ones, _ZERO, carry)
    w[i], carry = add_carry(w[i], low, _ZERO)
    w[j], carry = add_carry(w[j], high, carry)
    # The limbs above get the sign and the carry: for a negative x these mostly cancel.
    if carry + negated != sign:
        _propagate(w, j + _ONE, base + _FOUR, ones)


@kernel
def add_double_256(w: NDArray[np.uint64], o: int, x: float) -> None:
    """Add x · 2¹²⁸, rounded half to even, to w[o:o+4]; x is finite and |x| < 2⁹⁶."""
    add_bits_256(w, o, np.float64(x).view(np.uint64))


@kernel
def add_256(w: NDArray[np.uint64], o: int, v: NDArray[np.uint64], p: int) -> None:
    """Add v[p:p+4] to w[o:o+4]."""
    i = np.uint64(o)
    j = np.uint64(p)
    w[i], carry = add_carry(w[i], v[j], _ZERO)
    w[i + _ONE], carry = add_carry(w[i + _ONE], v[j + _ONE], carry)
    w[i + _TWO], carry = add_carry(w[i + _TWO], v[j + _TWO], carry)
    w[i + _THREE] += v[j + _THREE] + carry


@kernel
def add_128(w: NDArray[np.uint64], o: int, v: NDArray[np.uint64], p: int) -> None:
    """Add v[p:p+2] to w[o:o+2]."""
    i = np.uint64(o)
    j = np.uint64(p)
    w[i], carry = add_carry(w[i], v[j], _ZERO)
    w[i + _ONE] += v[j + _ONE] + carry


@kernel
def add_uint_128(w: NDArray[np.uint64], o: int, x: np.uint64) -> None:
    """Add the unsigned x to w[o:o+2]."""
    i = np.uint64(o)
    w[i], carry = add_carry(w[i], np.uint64(x), _ZERO)
    w[i + _ONE] += carry


@kernel
def add_int_128(w: NDArray[np.uint64], o: int, x: int) -> None:
    """Add the signed x to w[o:o+2]."""
    i = np.uint64(o)
    limb = np.uint64(x)
    w[i], carry = add_carry(w[i], limb, _ZERO)
    w[i + _ONE] += carry - (limb >> _SIGN_SHIFT)


@kernel
def _add_moments(
    w: NDArray[np.uint64], o: int, x0: np.uint64, x1: np.uint64, sign: np.uint64
) -> None:
    """Add X to w[o:o+4] and X² to w[o+4:o+8]; |X| = (x0, x1) < 2¹¹² and `sign` is 0 or 1."""
    i = np.uint64(o)
    ones = _ZERO - sign
    w[i], carry = add_carry(w[i], x0 ^ ones, sign)
    w[i + _ONE], carry = add_carry(w[i + _ONE], x1 ^ ones, carry)
    w[i + _TWO], carry = add_carry(w[i + _TWO], ones, carry)
    w[i + _THREE] += ones + carry

    square0, carry = multiply_add(x0, x0, _ZERO, _ZERO)
    square1, square2 = multiply_add(x0, x1, carry, _ZERO)
    square1, carry = multiply_add(x1, x0, square1, _ZERO)
    square2, square3 = multiply_add(x1, x1, square2, carry)
    j = i + _FOUR
    w[j], carry = add_carry(w[j], square0, _ZERO)
    w[j + _ONE], carry = add_carry(w[j + _ONE], square1, carry)
    w[j + _TWO], carry = add_carry(w[j + _TWO], square2, carry)
    w[j + _THREE] += square3 + carry


@kernel
def add_moments_bits(w: NDArray[np.uint64], o: int, bits: np.uint64) -> None:
    """Add X = x · 2⁴⁸, rounded half to even, and X² to the moments at w[o:o+8]; |x| < 2⁶⁴."""
    k, low, high = _shifted(bits, _MOMENT_SHIFT)
    # Without branches: everyday data straddles k = 0 (|x| < 16) and k = 1.
    rounded = high + _rounds_up(low, high)
    x0 = rounded if k == 0 else low
    x1 = _ZERO if k == 0 else high
    _add_moments(w, o, x0, x1, bits >> _SIGN_SHIFT)


@kernel
def add_moments_uint(w: NDArray[np.uint64], o: int, x: np.uint64) -> None:
    """Add X = x · 2⁴⁸ and X² to the moments at w[o:o+8], exactly."""
    magnitude = np.uint64(x)
    _add_moments(w, o, magnitude << np.uint64(48), magnitude >> np.uint64(16), _ZERO)


@kernel
def add_moments_int(w: NDArray[np.uint64], o: int, x: int) -> None:
    """Add X = x · 2⁴⁸ and X² to the moments at w[o:o+8], exactly."""
    limb = np.uint64(x)
    sign = limb >> _SIGN_SHIFT
    ones = _ZERO - sign
    magnitude = (limb ^ ones) + sign
    _add_moments(w, o, magnitude << np.uint64(48), magnitude >> np.uint64(16), sign)
