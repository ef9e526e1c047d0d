"""The wide kernels against plain integers and fractions, for any values in any order."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headwater.kernels import rounding, wide
from headwater.kernels.wide_reference import (
    MOMENT_GRID_BITS,
    SUM_GRID_BITS,
    on_grid,
    reference_in_moment_range,
    reference_in_sum_range,
    reference_mean,
    reference_moments,
    reference_sum,
    reference_variance,
    reference_wide_sum,
    to_limbs,
    to_signed,
    to_unsigned,
)

COUNT_MAX = 1 << 47


def doubles(bound, grid_bits):
    """Any double below the bound, with ties of the grid and everyday magnitudes well mixed in."""
    largest = math.nextafter(bound, 0.0)
    halves = st.integers(-(2**53), 2**53).map(lambda m: math.ldexp(m, -grid_bits - 1))
    scaled = st.builds(
        math.ldexp,
        st.integers(-(2**53), 2**53),
        st.integers(-grid_bits - 60, int(math.log2(bound)) - 54),
    )
    edges = st.sampled_from([0.0, -0.0, 5e-324, -2.2250738585072014e-308, largest, -largest])
    return st.floats(-largest, largest) | halves | scaled | edges


def signed(bits):
    """Integers of any length up to `bits`, short and long alike."""
    lengths = st.integers(1, bits)
    magnitudes = lengths.flatmap(lambda length: st.integers(0, (1 << length) - 1))
    ties = st.builds(
        lambda m, shift, off: ((2 * m + 1 << shift) + off) & ((1 << bits) - 1),
        st.integers(1 << 52, (1 << 53) - 1),
        st.integers(0, max(bits - 55, 0)),
        st.sampled_from([-1, 0, 1]),
    )
    return st.builds(lambda m, sign: m * sign, magnitudes | ties, st.sampled_from([1, -1]))


counts = (
    st.integers(1, 1000)
    | st.integers(1, COUNT_MAX)
    | st.integers(1 << 32, 1 << 34)
    | st.sampled_from([(1 << 32) - 1, 1 << 32, (1 << 32) + 1, COUNT_MAX - 1, COUNT_MAX])
)
# Doubles and the points half way between two of them: what rounding has to get right.
halves = st.integers(1 << 53, (1 << 54) - 1)
# Where an integer's top bit sits among the limbs decides which bits are read and which only
# tell that something is left.
lengths = st.sampled_from([127, 128, 129, 191, 192, 193]) | st.integers(120, 250)
sum_values = doubles(2.0**96, SUM_GRID_BITS)
moment_values = doubles(2.0**64, MOMENT_GRID_BITS)


def bits_of(values):
    return np.array(values, np.float64).view(np.uint64)


def summed(values):
    arena = np.zeros(4, np.uint64)
    for bits in bits_of(values):
        wide.add_bits_256(arena, 0, bits)
    return arena


def moments(values):
    arena = np.zeros(8, np.uint64)
    for bits in bits_of(values):
        wide.add_moments_bits(arena, 0, bits)
    return arena


def same(actual, expected):
    return bits_of([actual]) == bits_of([expected])


@given(x=sum_values, start=signed(254))
def test_adding_a_double_is_the_reference_from_any_start(x, start):
    arena = np.array(to_limbs(start, 4), np.uint64)
    wide.add_bits_256(arena, 0, bits_of([x])[0])
    assert to_signed(arena.tolist()) == start + on_grid(x, SUM_GRID_BITS)


@given(x=moment_values, start=signed(200), squares=st.integers(0, (1 << 255) - 1))
def test_adding_moments_is_the_reference_from_any_start(x, start, squares):
    arena = np.array(to_limbs(start, 4) + to_limbs(squares, 4), np.uint64)
    wide.add_moments_bits(arena, 0, bits_of([x])[0])
    unit = on_grid(x, MOMENT_GRID_BITS)
    assert to_signed(arena[:4].tolist()) == start + unit
    assert to_unsigned(arena[4:].tolist()) == squares + unit * unit


@given(x=st.floats())
def test_ranges_are_the_reference(x):
    bits = bits_of([x])[0]
    assert wide.in_sum_range(bits) == reference_in_sum_range(x)
    assert wide.in_moment_range(bits) == reference_in_moment_range(x)


@given(values=st.lists(sum_values, max_size=60), repeats=st.integers(1, 16), data=st.data())
def test_a_sum_is_the_same_in_any_order_and_any_split(values, repeats, data):
    values = values * repeats
    whole = summed(values)
    assert whole.tolist() == to_limbs(reference_wide_sum(values), 4)
    shuffled = data.draw(st.randoms(use_true_random=False)).sample(values, len(values))
    assert summed(shuffled).tolist() == whole.tolist()
    cut = data.draw(st.integers(0, len(values)))
    left, right = summed(shuffled[:cut]), summed(shuffled[cut:])
    wide.add_256(left, 0, right, 0)
    assert left.tolist() == whole.tolist()


@given(values=st.lists(moment_values, max_size=60), repeats=st.integers(1, 16), data=st.data())
def test_moments_are_the_same_in_any_order_and_any_split(values, repeats, data):
    values = values * repeats
    whole = moments(values)
    total, squares = reference_moments(values)
    assert whole.tolist() == to_limbs(total, 4) + to_limbs(squares, 4)
    shuffled = data.draw(st.randoms(use_true_random=False)).sample(values, len(values))
    assert moments(shuffled).tolist() == whole.tolist()
    cut = data.draw(st.integers(0, len(values)))
    left, right = moments(shuffled[:cut]), moments(shuffled[cut:])
    wide.add_256(left, 0, right, 0)
    wide.add_256(left, 4, right, 4)
    assert left.tolist() == whole.tolist()


@given(values=st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=50), cut=st.integers(0, 50))
def test_integer_sums_are_exact_and_merge(values, cut):
    left, right = np.zeros(2, np.uint64), np.zeros(2, np.uint64)
    for x in values[:cut]:
        wide.add_int_128(left, 0, x)
    for x in values[cut:]:
        wide.add_int_128(right, 0, x)
    wide.add_128(left, 0, right, 0)
    total = sum(values)
    assert to_signed(left.tolist()) == total
    assert rounding.int_128_fits_64(left, 0) == (-(1 << 63) <= total < 1 << 63)


@given(total=signed(255))
def test_a_sum_rounds_as_the_reference(total):
    arena = np.array(to_limbs(total, 4), np.uint64)
    assert same(rounding.sum_256_to_double(arena, 0), reference_sum(total))


@given(total=signed(255), n=counts, multiple=st.booleans())
def test_a_mean_rounds_as_the_reference(total, n, multiple):
    if multiple:
        total -= total % n if total >= 0 else -(-total % n)
    arena = np.array(to_limbs(total, 4), np.uint64)
    expected = reference_mean(total, SUM_GRID_BITS, n)
    assert same(rounding.mean_256_to_double(arena, 0, n), expected)


@given(
    half=halves,
    n=counts | st.integers(1, 1 << 62),
    length=lengths,
    off=st.sampled_from([-1, 0, 1]),
    sign=st.sampled_from([1, -1]),
)
def test_a_mean_beside_a_tie_goes_the_right_way(half, n, length, off, sign):
    total = half * n
    total = sign * ((total << max(length - total.bit_length(), 1)) + off)
    arena = np.array(to_limbs(total, 4), np.uint64)
    expected = reference_mean(total, SUM_GRID_BITS, n)
    assert same(rounding.mean_256_to_double(arena, 0, n), expected)


@given(total=st.integers(1, (1 << 53) - 1), n=st.integers(1 << 53, (1 << 63) - 1))
def test_a_count_that_is_no_double_divides_exactly(total, n):
    arena = np.array(to_limbs(total, 2), np.uint64)
    assert same(rounding.mean_128_to_double(arena, 0, n), reference_mean(total, 0, n))


@given(total=signed(127), n=counts)
def test_a_mean_of_integers_rounds_as_the_reference(total, n):
    arena = np.array(to_limbs(total, 2), np.uint64)
    assert same(rounding.mean_128_to_double(arena, 0, n), reference_mean(total, 0, n))


@given(
    total=signed(159),
    above=st.just(0) | signed(224).map(abs),
    n=counts.filter(lambda n: n > 1),
    ddof=st.sampled_from([0, 1]),
)
def test_a_variance_rounds_as_the_reference_and_is_never_negative(total, above, n, ddof):
    # Cauchy and Schwarz: no moments have a smaller sum of squares than this.
    squares = -(-total * total // n) + above
    if squares >= 1 << 256:
        squares, total = above, 0
    arena = np.array(to_limbs(total, 4) + to_limbs(squares, 4), np.uint64)
    scratch = np.full(rounding.SCRATCH_WORDS, (1 << 64) - 1, np.uint64)
    result = rounding.variance_to_double(arena, 0, n, ddof, scratch)
    assert same(result, reference_variance(total, squares, n, ddof))
    assert result >= 0.0


@given(
    half=halves,
    n=counts.filter(lambda n: n > 1),
    ddof=st.sampled_from([0, 1]),
    length=lengths,
    off=st.sampled_from([-1, 0, 1]),
    total=st.sampled_from([0, 1, -1]),
)
def test_a_variance_beside_a_tie_goes_the_right_way(half, n, ddof, length, off, total):
    # With Σx = 0 the variance is Σx² / (n - ddof); Σx = ±1 leaves a remainder by n alone.
    squares = half * (n - ddof)
    squares = (squares << max(length - (squares * n).bit_length(), 1)) + off
    arena = np.array(to_limbs(total, 4) + to_limbs(squares, 4), np.uint64)
    scratch = np.full(rounding.SCRATCH_WORDS, (1 << 64) - 1, np.uint64)
    result = rounding.variance_to_double(arena, 0, n, ddof, scratch)
    assert same(result, reference_variance(total, squares, n, ddof))


@given(values=st.lists(moment_values, min_size=2, max_size=50), ddof=st.sampled_from([0, 1]))
def test_a_variance_of_values_is_zero_exactly_where_all_are_equal_on_the_grid(values, ddof):
    scratch = np.zeros(rounding.SCRATCH_WORDS, np.uint64)
    result = rounding.variance_to_double(moments(values), 0, len(values), ddof, scratch)
    units = {on_grid(x, MOMENT_GRID_BITS) for x in values}
    assert (result == 0.0) == (len(units) == 1)
    equal = moments(values[:1] * len(values))
    assert rounding.variance_to_double(equal, 0, len(values), ddof, scratch) == 0.0
