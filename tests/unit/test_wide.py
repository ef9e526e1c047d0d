"""Exact sums and moments: pinned limbs, ranges, carries and results rounded once."""

from __future__ import annotations

import math
import random
import struct

import numpy as np
import pytest

from headwater.kernels import rounding, wide
from headwater.kernels.limbs import divide
from headwater.kernels.wide_reference import (
    SUM_GRID_BITS,
    reference_mean,
    reference_variance,
    to_limbs,
    to_signed,
    to_unsigned,
)

ONES = (1 << 64) - 1
LARGEST_SUM_VALUE = math.nextafter(2.0**96, 0.0)
LARGEST_MOMENT_VALUE = math.nextafter(2.0**64, 0.0)
GUARD = 0xDEADBEEF


def bits_of(x):
    return np.uint64(struct.unpack("<Q", struct.pack("<d", x))[0])


def filled(words, value=0):
    """Return an arena with `value` at offset 3 and guard words around it."""
    arena = np.full(words + 6, GUARD, np.uint64)
    arena[3 : 3 + words] = to_limbs(value, words)
    return arena


def limbs_of(arena):
    assert set(arena[:3].tolist() + arena[-3:].tolist()) == {GUARD}
    return arena[3:-3].tolist()


def moments_of(values):
    arena = filled(8)
    for x in values:
        wide.add_moments_bits(arena, 3, bits_of(x))
    return arena


def variance(arena, n, ddof):
    scratch = np.full(rounding.SCRATCH_WORDS, ONES, np.uint64)
    return rounding.variance_to_double(arena, 3, n, ddof, scratch)


@pytest.mark.parametrize(
    ("x", "limbs"),
    [
        (0.0, [0, 0, 0, 0]),
        (-0.0, [0, 0, 0, 0]),
        (1.0, [0, 0, 1, 0]),
        (-1.0, [0, 0, ONES, ONES]),
        (0.1, [0, 0x1999999999999A00, 0, 0]),
        (-0.1, [0, 0xE666666666666600, ONES, ONES]),
        (123456.789, [0, 0xC9FBE76C90000000, 123456, 0]),
        (LARGEST_SUM_VALUE, [0, 0, 0xFFFFF80000000000, 0xFFFFFFFF]),
        (-LARGEST_SUM_VALUE, [0, 0, 0x0000080000000000, 0xFFFFFFFF00000000]),
        (2.0**-128, [1, 0, 0, 0]),
        (-(2.0**-128), [ONES, ONES, ONES, ONES]),
        (2.0**-129, [0, 0, 0, 0]),
        (-(2.0**-129), [0, 0, 0, 0]),
        (math.nextafter(2.0**-129, 1.0), [1, 0, 0, 0]),
        (3 * 2.0**-129, [2, 0, 0, 0]),
        (5 * 2.0**-129, [2, 0, 0, 0]),
        (-3 * 2.0**-129, [ONES - 1, ONES, ONES, ONES]),
        ((2.0**53 - 1) * 2.0**-129, [1 << 52, 0, 0, 0]),
        (5e-324, [0, 0, 0, 0]),
        (-2.2250738585072014e-308, [0, 0, 0, 0]),
    ],
)
def test_a_double_enters_a_sum_as_pinned(x, limbs):
    arena = filled(4)
    wide.add_bits_256(arena, 3, bits_of(x))
    assert limbs_of(arena) == limbs
    again = filled(4)
    wide.add_double_256(again, 3, x)
    assert limbs_of(again) == limbs


@pytest.mark.parametrize(
    ("x", "total", "squares"),
    [
        (1.0, 1 << 48, 1 << 96),
        (-1.5, -3 << 47, 9 << 94),
        (0.1, 28147497671066, 28147497671066**2),
        (2.0**-49, 0, 0),
        (3 * 2.0**-49, 2, 4),
        (-3 * 2.0**-49, -2, 4),
        (16.0 - 2.0**-49, 1 << 52, 1 << 104),
        (math.nextafter(16.0, 17.0), (1 << 52) + 1, ((1 << 52) + 1) ** 2),
        (LARGEST_MOMENT_VALUE, (1 << 112) - (1 << 59), ((1 << 112) - (1 << 59)) ** 2),
        (-LARGEST_MOMENT_VALUE, (1 << 59) - (1 << 112), ((1 << 112) - (1 << 59)) ** 2),
        (-0.0, 0, 0),
        (-5e-324, 0, 0),
    ],
)
def test_a_double_enters_moments_as_pinned(x, total, squares):
    assert limbs_of(moments_of([x])) == to_limbs(total, 4) + to_limbs(squares, 4)


@pytest.mark.parametrize("start", [(1 << 64) - 1, (1 << 128) - 1, (1 << 192) - 1, -1])
def test_a_carry_runs_through_every_limb_and_back(start):
    arena = filled(4, start)
    wide.add_double_256(arena, 3, 2.0**-128)
    assert to_signed(limbs_of(arena)) == start + 1
    wide.add_double_256(arena, 3, -(2.0**-128))
    assert to_signed(limbs_of(arena)) == start


def test_limbs_come_back_after_an_overflow_in_between():
    arena = filled(4, (1 << 255) - 1)
    wide.add_double_256(arena, 3, 2.0**90)
    wide.add_double_256(arena, 3, -(2.0**90))
    assert to_signed(limbs_of(arena)) == (1 << 255) - 1


@pytest.mark.parametrize("x", [-(1 << 63), -1, 0, 1, (1 << 63) - 1])
def test_signed_integers_enter_exactly(x):
    arena = filled(2, -5)
    wide.add_int_128(arena, 3, x)
    assert to_signed(limbs_of(arena)) == x - 5
    moments = filled(8)
    wide.add_moments_int(moments, 3, x)
    assert limbs_of(moments) == to_limbs(x << 48, 4) + to_limbs(x * x << 96, 4)


@pytest.mark.parametrize("x", [0, 1, 1 << 63, (1 << 64) - 1])
def test_unsigned_integers_enter_exactly(x):
    arena = filled(2, -5)
    wide.add_uint_128(arena, 3, np.uint64(x))
    assert to_signed(limbs_of(arena)) == x - 5
    moments = filled(8)
    wide.add_moments_uint(moments, 3, np.uint64(x))
    assert limbs_of(moments) == to_limbs(x << 48, 4) + to_limbs(x * x << 96, 4)


@pytest.mark.parametrize(
    ("x", "in_sum", "in_moment"),
    [
        (0.0, True, True),
        (-5e-324, True, True),
        (LARGEST_MOMENT_VALUE, True, True),
        (-LARGEST_MOMENT_VALUE, True, True),
        (2.0**64, True, False),
        (-(2.0**64), True, False),
        (LARGEST_SUM_VALUE, True, False),
        (2.0**96, False, False),
        (-(2.0**96), False, False),
        (math.inf, False, False),
        (-math.inf, False, False),
        (math.nan, False, False),
        (-math.nan, False, False),
    ],
)
def test_ranges_end_where_they_say(x, in_sum, in_moment):
    assert wide.in_sum_range(bits_of(x)) is in_sum
    assert wide.in_moment_range(bits_of(x)) is in_moment


def test_cancellation_leaves_the_exact_sum():
    arena = filled(4)
    for x in (1e16, 1.0, 2.0**-128, -1e16, 1e-5, -1.0):
        wide.add_double_256(arena, 3, x)
    assert rounding.sum_256_to_double(arena, 3) == 1e-5
    wide.add_double_256(arena, 3, -1e-5)
    assert rounding.sum_256_to_double(arena, 3) == 2.0**-128


def test_exact_zeros_are_positive():
    arena = filled(4)
    wide.add_double_256(arena, 3, -0.0)
    results = [
        rounding.sum_256_to_double(arena, 3),
        rounding.mean_256_to_double(arena, 3, 7),
        rounding.mean_128_to_double(arena, 3, 7),
        variance(moments_of([-0.0]), 1, 0),
    ]
    assert [math.copysign(1.0, result) for result in results] == [1.0] * 4
    assert results == [0.0] * 4


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        ((1 << 53) + 1, 2.0**53),
        ((1 << 53) + 3, 2.0**53 + 4),
        (-(1 << 53) - 1, -(2.0**53)),
        (((1 << 53) + 1 << 150) + 1, (2.0**53 + 2) * 2.0**150),
        (((1 << 53) + 1 << 150) - 1, 2.0**203),
        ((1 << 54) - 1, 2.0**54),
        ((1 << 255) - 1, 2.0**255),
        (-(1 << 255), -(2.0**255)),
        (1, 1.0),
        (-1, -1.0),
    ],
)
def test_a_sum_is_rounded_once_half_to_even(total, expected):
    assert rounding.sum_256_to_double(filled(4, total), 3) == expected * 2.0**-128


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 0.0, 0.0], 1 / 3),
        ([0.1, 0.2, 0.3], 0.2),
        ([0.1] * 10, 0.1),
        ([-2.5, 1.25], -0.625),
        ([1e-3, 1e6, 7.7], 333335.90033333335),
    ],
)
def test_a_mean_is_the_double_nearest_to_the_exact_quotient(values, expected):
    arena = filled(4)
    for x in values:
        wide.add_double_256(arena, 3, x)
    assert rounding.mean_256_to_double(arena, 3, len(values)) == expected


@pytest.mark.parametrize("n", [1, 3, (1 << 32) - 1, 1 << 32, (1 << 47) - 1, (1 << 62) + 1])
@pytest.mark.parametrize("total", [1, -1, (1 << 53) + 1, -(1 << 127), (1 << 127) - 1])
def test_a_mean_of_integers_is_rounded_once_for_any_count(total, n):
    assert rounding.mean_128_to_double(filled(2, total), 3, n) == total / n


# 53 kept bits, odd, and one half: an exact tie goes up. Two more: even, and it goes down.
ODD_HALF = (1 << 54) - 5


@pytest.mark.parametrize("length", [127, 128, 129, 192, 193, 220])
@pytest.mark.parametrize("n", [1, 3, (1 << 32) + 1, (1 << 47) - 1])
@pytest.mark.parametrize("half", [ODD_HALF, ODD_HALF + 2])
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_last_bit_of_a_sum_decides_a_tie_of_the_mean(half, off, n, length):
    total = (half * n << length - (half * n).bit_length()) + off
    result = rounding.mean_256_to_double(filled(4, total), 3, n)
    assert result == reference_mean(total, SUM_GRID_BITS, n)


@pytest.mark.parametrize("length", [180, 191, 192, 193, 200, 210, 225, 257])
@pytest.mark.parametrize("n", [2, 7, (1 << 32) - 1, (1 << 32) + 1, 1 << 33, (1 << 47) - 1])
@pytest.mark.parametrize("half", [ODD_HALF, ODD_HALF + 2])
@pytest.mark.parametrize(("total", "off"), [(0, -1), (0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_last_bit_of_the_moments_decides_a_tie_of_the_variance(half, total, off, n, length):
    for ddof in (0, 1):
        squares = half * (n - ddof)
        squares = (squares << length - (squares * n).bit_length()) + off
        arena = filled(8)
        arena[3:11] = to_limbs(total, 4) + to_limbs(squares, 4)
        assert variance(arena, n, ddof) == reference_variance(total, squares, n, ddof)


def test_squares_and_borrows_run_through_every_limb_of_the_numerator():
    seeded = random.Random(7)
    for _ in range(2000):
        n = seeded.randrange(2, 1 << seeded.choice([8, 32, 47]))
        total = seeded.getrandbits(seeded.randrange(60, 158)) | 1
        squares = total * total // n + 1 + seeded.getrandbits(seeded.randrange(1, 250))
        arena = filled(8)
        arena[3:11] = to_limbs(total, 4) + to_limbs(squares, 4)
        if squares < 1 << 255:
            assert variance(arena, n, 1) == reference_variance(total, squares, n, 1)


@pytest.mark.parametrize(
    ("total", "fits"),
    [
        (0, True),
        (-1, True),
        ((1 << 63) - 1, True),
        (-(1 << 63), True),
        (1 << 63, False),
        (-(1 << 63) - 1, False),
        (1 << 64, False),
        (-(1 << 127), False),
    ],
)
def test_an_integer_sum_tells_whether_it_fits(total, fits):
    arena = filled(2, total)
    assert rounding.int_128_fits_64(arena, 3) is fits
    if fits:
        assert arena[3].astype(np.int64) == total


@pytest.mark.parametrize(
    ("values", "ddof", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], 1, 5 / 3),
        ([1.0, 2.0, 3.0, 4.0], 0, 1.25),
        ([1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16], 1, 30.0),
        ([0.5, -0.5], 1, 0.5),
        ([2.0**-48, 0.0], 0, 2.0**-98),
        ([LARGEST_MOMENT_VALUE, -LARGEST_MOMENT_VALUE], 0, LARGEST_MOMENT_VALUE**2),
    ],
)
def test_a_variance_comes_from_the_exact_numerator(values, ddof, expected):
    assert variance(moments_of(values), len(values), ddof) == expected


@pytest.mark.parametrize("x", [0.1, -1e-9, 1e18, LARGEST_MOMENT_VALUE])
@pytest.mark.parametrize("ddof", [0, 1])
def test_a_variance_of_equal_values_is_zero(x, ddof):
    assert variance(moments_of([x] * 37), 37, ddof) == 0.0


def test_a_variance_of_the_most_rows_of_one_value_is_zero_and_one_unit_off_is_not():
    n = 1 << 47
    unit = 12_345_678_901_234_567
    arena = filled(8)
    arena[3:11] = to_limbs(n * unit, 4) + to_limbs(n * unit * unit, 4)
    assert variance(arena, n, 1) == 0.0
    arena[7] += np.uint64(1)
    assert variance(arena, n, 1) == 1 / ((n - 1) << 96)


@pytest.mark.parametrize("words", [2, 4])
def test_merging_reads_one_array_and_writes_the_other(words):
    add = {2: wide.add_128, 4: wide.add_256}[words]
    target = filled(words, -(1 << 60 * words))
    source = filled(words, (1 << 61 * words) + ONES)
    before = source.copy()
    add(target, 3, source, 3)
    assert to_signed(limbs_of(target)) == (1 << 61 * words) + ONES - (1 << 60 * words)
    assert (source == before).all()
    add(target, 3, target, 3)
    assert to_signed(limbs_of(target)) == 2 * ((1 << 61 * words) + ONES - (1 << 60 * words))


def test_short_division_corrects_both_digits():
    seeded = random.Random(11)
    cases = [
        ((1 << 63) - 1, ONES, 1 << 63),
        (ONES - 1, ONES, ONES),
        (0x80000000_00000000, 0, 0x80000000_FFFFFFFF),
        (0x7FFFFFFF_80000000, 0, 0x80000000_00000001),
        (0x80000000_FFFFFFFE, ONES, 0x80000000_FFFFFFFF),
    ]
    for _ in range(2000):
        d = seeded.getrandbits(64) | 1 << 63
        cases.append((seeded.randrange(d), seeded.getrandbits(64), d))
    for high, low, d in cases:
        quotient, remainder = divide(np.uint64(high), np.uint64(low), np.uint64(d))
        assert (int(quotient), int(remainder)) == divmod(to_unsigned([low, high]), d)
