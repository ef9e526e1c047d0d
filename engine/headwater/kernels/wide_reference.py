"""What the wide kernels must compute, in Python integers and fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "MOMENT_GRID_BITS",
    "SUM_GRID_BITS",
    "on_grid",
    "reference_in_moment_range",
    "reference_in_sum_range",
    "reference_mean",
    "reference_moments",
    "reference_sum",
    "reference_variance",
    "reference_wide_sum",
    "to_limbs",
    "to_signed",
    "to_unsigned",
]

SUM_GRID_BITS = 128
MOMENT_GRID_BITS = 48


def on_grid(x: float, grid_bits: int) -> int:
    """Return x · 2^grid_bits rounded to an integer, half to even."""
    return round(Fraction(x) * (1 << grid_bits))


def reference_in_sum_range(x: float) -> bool:
    """Tell whether x may enter a sum: finite and |x| < 2⁹⁶."""
    return abs(x) < 2.0**96


def reference_in_moment_range(x: float) -> bool:
    """Tell whether x may enter moments: finite and |x| < 2⁶⁴."""
    return abs(x) < 2.0**64


def reference_wide_sum(values: Iterable[float]) -> int:
    """Return Σx in units of 2⁻¹²⁸."""
    return sum(on_grid(x, SUM_GRID_BITS) for x in values)


def reference_moments(values: Iterable[float]) -> tuple[int, int]:
    """Return (Σx, Σx²) in units of 2⁻⁴⁸ and 2⁻⁹⁶."""
    units = [on_grid(x, MOMENT_GRID_BITS) for x in values]
    return sum(units), sum(unit * unit for unit in units)


def reference_sum(total: int) -> float:
    """Return the double nearest to a sum in units of 2⁻¹²⁸."""
    return reference_mean(total, SUM_GRID_BITS, 1)


def reference_mean(total: int, grid_bits: int, n: int) -> float:
    """Return the double nearest to total / (n · 2^grid_bits)."""
    # The quotient of two Python integers is rounded once, half to even.
    return total / (n << grid_bits)


def reference_variance(total: int, squares: int, n: int, ddof: int) -> float:
    """Return the double nearest to (n · Σx² - (Σx)²) / (n · (n - ddof))."""
    return (n * squares - total * total) / (n * (n - ddof) << 2 * MOMENT_GRID_BITS)


def to_limbs(value: int, words: int) -> list[int]:
    """Return the two's complement of `value` in uint64 limbs, lowest first."""
    pattern = value % (1 << 64 * words)
    return [pattern >> 64 * index & (1 << 64) - 1 for index in range(words)]


def to_unsigned(limbs: Sequence[int]) -> int:
    """Return the unsigned integer held in `limbs`, lowest first."""
    return sum(int(limb) << 64 * index for index, limb in enumerate(limbs))


def to_signed(limbs: Sequence[int]) -> int:
    """Return the two's complement integer held in `limbs`, lowest first."""
    value = to_unsigned(limbs)
    return value - (1 << 64 * len(limbs)) if value >> 64 * len(limbs) - 1 else value
