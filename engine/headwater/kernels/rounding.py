"""From wide integers to doubles: sums, means and variances, each rounded once, half to even.

No result here can be subnormal or overflow: the smallest that isn't zero is above 2⁻²²⁴, the
largest below 2¹⁶⁰. An exact zero is +0.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.compiled import kernel
from headwater.kernels.limbs import (
    add_carry,
    divide,
    leading_zeros,
    multiply_add,
    subtract_borrow,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "SCRATCH_WORDS",
    "int_128_fits_64",
    "mean_128_to_double",
    "mean_256_to_double",
    "sum_256_to_double",
    "variance_to_double",
]

# Three limbs of zeros below the five of a variance's numerator.
SCRATCH_WORDS = 8

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_IN_LIMB = np.uint64(63)

_FRACTION_SHIFT = np.uint64(52)
_DROPPED_BITS = np.uint64(11)
_DROPPED = np.uint64(0x7FF)
_HALFWAY = np.uint64(0x400)
_BIAS = np.int64(1023)

_SUM_GRID = np.int64(128)
_SQUARE_GRID = np.int64(96)
_LARGEST_EXACT = np.int64(1 << 53)
_LARGEST_NARROW = np.int64(1 << 32)


@kernel
def _rounded(limb: np.uint64, below: np.uint64, exponent: np.int64, sign: np.uint64) -> float:
    """Return ±(limb + δ) · 2^exponent, rounded half to even; limb > 0.

    0 < δ < 1 where `below` isn't zero, else δ = 0; then limb ≥ 2⁵⁴ is needed.
    """
    zeros = leading_zeros(limb)
    top = (limb << zeros) | np.uint64(below != _ZERO)
    kept = top >> _DROPPED_BITS
    up = np.uint64((top & _DROPPED) + (kept & _ONE) > _HALFWAY)
    # `kept` has the hidden bit, so the exponent goes in one too low; a carry out of the fraction
    # is a carry into the exponent, as it should be.
    biased = np.uint64(exponent + np.int64(62) + _BIAS - np.int64(zeros))
    bits = (biased << _FRACTION_SHIFT) + kept + up
    return np.uint64(bits | (sign << _IN_LIMB)).view(np.float64)


@kernel
def _magnitude_256(
    w: NDArray[np.uint64], o: int
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return |w[o:o+4]|, lowest limb first, and the sign (0 or 1)."""
    i = np.uint64(o)
    sign = w[i + _THREE] >> _IN_LIMB
    ones = _ZERO - sign
    m0, carry = add_carry(w[i] ^ ones, sign, _ZERO)
    m1, carry = add_carry(w[i + _ONE] ^ ones, _ZERO, carry)
    m2, carry = add_carry(w[i + _TWO] ^ ones, _ZERO, carry)
    m3 = (w[i + _THREE] ^ ones) + carry
    return m0, m1, m2, m3, sign


@kernel
def _normalised(
    a: np.uint64, b: np.uint64, c: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.int64]:
    """Shift (a, b, c), highest first and a > 0, until the top bit is set; return how far, too."""
    zeros = leading_zeros(a)
    rest = _IN_LIMB - zeros
    high = (a << zeros) | ((b >> _ONE) >> rest)
    low = (b << zeros) | ((c >> _ONE) >> rest)
    return high, low, c << zeros, np.int64(zeros)


@kernel
def _leading(
    m0: np.uint64, m1: np.uint64, m2: np.uint64, m3: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.int64]:
    """Return (high, low, below, exponent): m = ((high, low) + δ) · 2^exponent; m > 0.

    The top bit of `high` is set, 0 ≤ δ < 1, and δ = 0 exactly where below = 0.
    """
    if m3 != _ZERO:
        high, low, below, zeros = _normalised(m3, m2, m1)
        return high, low, below | m0, np.int64(128) - zeros
    if m2 != _ZERO:
        high, low, below, zeros = _normalised(m2, m1, m0)
        return high, low, below, np.int64(64) - zeros
    if m1 != _ZERO:
        high, low, below, zeros = _normalised(m1, m0, _ZERO)
        return high, low, below, -zeros
    high, low, below, zeros = _normalised(m0, _ZERO, _ZERO)
    return high, low, below, np.int64(-64) - zeros


@kernel
def _quotient(
    high: np.uint64, low: np.uint64, below: np.uint64, exponent: np.int64, divisor: np.uint64
) -> tuple[np.uint64, np.uint64, np.int64]:
    """Divide ((high, low) + δ) · 2^exponent by `divisor` > 0; high ≥ 2⁶².

    Returns (limb, below, exponent) as `_rounded` takes them, with limb ≥ 2⁶¹.
    """
    zeros = leading_zeros(divisor)
    # Halved, the numerator's upper limb is below the normalised divisor, as `divide` asks.
    limb, remainder = divide(high >> _ONE, (high << _IN_LIMB) | (low >> _ONE), divisor << zeros)
    lost = remainder | (low & _ONE) | below
    return limb, lost, exponent + np.int64(zeros) + np.int64(1)


@kernel
def _mean(
    m0: np.uint64,
    m1: np.uint64,
    m2: np.uint64,
    m3: np.uint64,
    sign: np.uint64,
    grid: np.int64,
    n: int,
) -> float:
    """Return ±m / (n · 2^grid); n ≥ 1."""
    if m0 | m1 | m2 | m3 == _ZERO:
        return 0.0
    high, low, below, exponent = _leading(m0, m1, m2, m3)
    exponent -= grid
    if low | below | (high & _DROPPED) == _ZERO and n <= _LARGEST_EXACT:
        # Both are doubles exactly, and IEEE division rounds their quotient once.
        return _rounded(high, _ZERO, exponent + np.int64(64), sign) / np.float64(n)
    limb, below, exponent = _quotient(high, low, below, exponent, np.uint64(n))
    return _rounded(limb, below, exponent, sign)


@kernel
def sum_256_to_double(w: NDArray[np.uint64], o: int) -> float:
    """Return the double nearest to w[o:o+4] · 2⁻¹²⁸."""
    m0, m1, m2, m3, sign = _magnitude_256(w, o)
    if m0 | m1 | m2 | m3 == _ZERO:
        return 0.0
    high, low, below, exponent = _leading(m0, m1, m2, m3)
    return _rounded(high, low | below, exponent + np.int64(64) - _SUM_GRID, sign)


@kernel
def mean_256_to_double(w: NDArray[np.uint64], o: int, n: int) -> float:
    """Return the double nearest to w[o:o+4] / (n · 2¹²⁸); n ≥ 1."""
    m0, m1, m2, m3, sign = _magnitude_256(w, o)
    return _mean(m0, m1, m2, m3, sign, _SUM_GRID, n)


@kernel
def mean_128_to_double(w: NDArray[np.uint64], o: int, n: int) -> float:
    """Return the double nearest to w[o:o+2] / n; n ≥ 1."""
    i = np.uint64(o)
    sign = w[i + _ONE] >> _IN_LIMB
    ones = _ZERO - sign
    m0, carry = add_carry(w[i] ^ ones, sign, _ZERO)
    m1 = (w[i + _ONE] ^ ones) + carry
    return _mean(m0, m1, _ZERO, _ZERO, sign, np.int64(0), n)


@kernel
def int_128_fits_64(w: NDArray[np.uint64], o: int) -> bool:
    """Tell whether w[o:o+2] is an int64; its value is then np.int64(w[o])."""
    i = np.uint64(o)
    return bool(w[i + _ONE] == _ZERO - (w[i] >> _IN_LIMB))


@kernel
def _store_numerator(w: NDArray[np.uint64], o: int, n: int, scratch: NDArray[np.uint64]) -> None:
    """Write n · Σx² - (Σx)² to scratch[3:8]; by Cauchy and Schwarz it is never negative.

    (Σx)² ≤ n · Σx² < 2³¹⁹ also bounds |Σx| to three limbs and its square to five.
    """
    s0, s1, s2, _, _ = _magnitude_256(w, o)
    q0, c = multiply_add(s0, s0, _ZERO, _ZERO)
    q1, c = multiply_add(s0, s1, c, _ZERO)
    q2, q3 = multiply_add(s0, s2, c, _ZERO)
    q1, c = multiply_add(s1, s0, q1, _ZERO)
    q2, c = multiply_add(s1, s1, q2, c)
    q3, q4 = multiply_add(s1, s2, q3, c)
    q2, c = multiply_add(s2, s0, q2, _ZERO)
    q3, c = multiply_add(s2, s1, q3, c)
    q4, _ = multiply_add(s2, s2, q4, c)

    i = np.uint64(o + 4)
    count = np.uint64(n)
    p0, c = multiply_add(w[i], count, _ZERO, _ZERO)
    p1, c = multiply_add(w[i + _ONE], count, c, _ZERO)
    p2, c = multiply_add(w[i + _TWO], count, c, _ZERO)
    p3, p4 = multiply_add(w[i + _THREE], count, c, _ZERO)

    scratch[0] = scratch[1] = scratch[2] = _ZERO
    scratch[3], borrow = subtract_borrow(p0, q0, _ZERO)
    scratch[4], borrow = subtract_borrow(p1, q1, borrow)
    scratch[5], borrow = subtract_borrow(p2, q2, borrow)
    scratch[6], borrow = subtract_borrow(p3, q3, borrow)
    scratch[7], borrow = subtract_borrow(p4, q4, borrow)


@kernel
def _quotient_wide(
    scratch: NDArray[np.uint64], top: int, n: np.uint64, m: np.uint64
) -> tuple[np.uint64, np.uint64, np.int64]:
    """Divide the numerator's four limbs from `top` down by n, then by m; as `_quotient` does.

    ⌊⌊N / n⌋ / m⌋ = ⌊N / (n · m)⌋, and the quotient is exact where both remainders are zero.
    """
    high, middle, _, zeros = _normalised(scratch[top], scratch[top - 1], scratch[top - 2])
    next_bits = (scratch[top - 3] >> _ONE) >> (_IN_LIMB - np.uint64(zeros))
    low = (scratch[top - 2] << np.uint64(zeros)) | next_bits
    shift = leading_zeros(n)
    divisor = n << shift
    upper, remainder = divide(high >> _ONE, (high << _IN_LIMB) | (middle >> _ONE), divisor)
    lower, remainder = divide(remainder, (middle << _IN_LIMB) | (low >> _ONE), divisor)
    exponent = np.int64(1 - 64) - zeros + np.int64(shift)
    # Of the fourth limb only what the shift didn't move into `low` is still below.
    below = remainder | (low & _ONE) | (scratch[top - 3] << np.uint64(zeros))
    limb, below, exponent = _quotient(upper, lower, below, exponent, m)
    return limb, below, exponent


@kernel
def variance_to_double(
    w: NDArray[np.uint64], o: int, n: int, ddof: int, scratch: NDArray[np.uint64]
) -> float:
    """Return the double nearest to the variance of the moments at w[o:o+8].

    (n · Σx² - (Σx)²) / (n · (n - ddof)), from the exact numerator; n > ddof ≥ 0. `scratch` is
    uint64[SCRATCH_WORDS]. Never negative, and zero where all values are equal.
    """
    _store_numerator(w, o, n, scratch)
    top = 7
    while top > 3 and scratch[top] == _ZERO:
        top -= 1
    if scratch[top] == _ZERO:
        return 0.0
    # `exponent` is that of the limb below the top one: scratch[3] is worth 2⁻⁹⁶.
    exponent = np.int64((top - 4) * 64) - _SQUARE_GRID
    if n < _LARGEST_NARROW:
        high, low, below, zeros = _normalised(scratch[top], scratch[top - 1], scratch[top - 2])
        below |= scratch[top - 3]
        divisor = np.uint64(n) * np.uint64(n - ddof)
        limb, below, exponent = _quotient(high, low, below, exponent - zeros, divisor)
    else:
        limb, below, change = _quotient_wide(scratch, top, np.uint64(n), np.uint64(n - ddof))
        exponent += change
    for index in range(top - 3):
        below |= scratch[index]
    return _rounded(limb, below, exponent, _ZERO)
