"""The plain Python peer: a careful program of lists, bisect, exact prefix sums and deques."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Row", "point_in_time"]

# One spine row's features: count, sum, mean, min and max of each window, one after the other.
Row = tuple[float | None, ...]

_EMPTY: Row = (0, None, None, None, None)
# Sums are exact, as ours are: values are whole multiples of 2⁻¹²⁸, which Python's integers add
# without rounding, and its division rounds once.
_UNIT = 1 << 128
# With few events in reach C's min and max of a slice win, with many a deque that slides.
_SLICED_EVENTS = 500


def point_in_time(
    keys: Sequence[int],
    times: Sequence[int],
    values: Sequence[float],
    spine: Sequence[tuple[int, int]],
    windows: Sequence[tuple[int, int]],
    deadline_s: float = math.inf,
) -> tuple[list[Row | None], int]:
    """Return the features of each spine row, and how many rows were done by the deadline.

    Events come in time order (µs), the spine is (key, time) pairs, windows are (width, hop) pairs
    in µs; the deadline is in `time.perf_counter` seconds.
    """
    history: dict[int, tuple[list[int], list[float]]] = {}
    for key, at, value in zip(keys, times, values, strict=True):
        mine = history.get(key)
        if mine is None:
            mine = history[key] = ([], [])
        mine[0].append(at)
        mine[1].append(value)
    asked: dict[int, list[tuple[int, int]]] = {}
    for i, (key, at) in enumerate(spine):
        asked.setdefault(key, []).append((at, i))
    rows: list[Row | None] = [None] * len(spine)
    done = 0
    for key, reads in asked.items():
        if time.perf_counter() > deadline_s:
            break
        reads.sort()
        mine = history.get(key, ([], []))
        features = _sliced if len(mine[0]) <= _SLICED_EVENTS else _sliding
        for (_, i), row in zip(reads, features(*mine, reads, windows), strict=True):
            rows[i] = row
        done += len(reads)
    return rows, done


def _prefix_sums(values: list[float]) -> list[int]:
    unit = float(_UNIT)
    return list(accumulate([int(value * unit) for value in values], initial=0))


def _sliced(
    times: list[int],
    values: list[float],
    reads: list[tuple[int, int]],
    windows: Sequence[tuple[int, int]],
) -> list[Row]:
    sums = _prefix_sums(values)
    rows = []
    for at, _ in reads:
        end = bisect_left(times, at)
        row: Row = ()
        for width, hop in windows:
            begin = bisect_left(times, (at - width) // hop * hop, 0, end)
            if begin < end:
                count, total = end - begin, sums[end] - sums[begin]
                inside = values[begin:end]
                row += (count, total / _UNIT, total / (count * _UNIT), min(inside), max(inside))
            else:
                row += _EMPTY
        rows.append(row)
    return rows


def _sliding(
    times: list[int],
    values: list[float],
    reads: list[tuple[int, int]],
    windows: Sequence[tuple[int, int]],
) -> list[Row]:
    sums = _prefix_sums(values)
    parts: list[list[Row]] = []
    for width, hop in windows:
        seen = 0
        lows: deque[int] = deque()
        highs: deque[int] = deque()
        part: list[Row] = []
        for at, _ in reads:
            end = bisect_left(times, at, seen)
            begin = bisect_left(times, (at - width) // hop * hop, 0, end)
            for i in range(max(seen, begin), end):
                value = values[i]
                while lows and values[lows[-1]] >= value:
                    lows.pop()
                lows.append(i)
                while highs and values[highs[-1]] <= value:
                    highs.pop()
                highs.append(i)
            seen = end
            while lows and lows[0] < begin:
                lows.popleft()
            while highs and highs[0] < begin:
                highs.popleft()
            if begin < end:
                count, total = end - begin, sums[end] - sums[begin]
                mean = total / (count * _UNIT)
                part.append((count, total / _UNIT, mean, values[lows[0]], values[highs[0]]))
            else:
                part.append(_EMPTY)
        parts.append(part)
    return [sum(row, ()) for row in zip(*parts, strict=True)]
