"""Sketch: of history only the events that one of a spine's reads may see are kept."""

from __future__ import annotations

import numpy as np
import pytest

from headwater.flow.decode import EARLIEST_US, LATEST_US
from headwater.offline.sketch import Sketch
from headwater.state.keys import Keys

HOUR, DAY, YEAR = 3_600, 86_400, 365 * 86_400
LIFETIME = (-1, 0)
ANN, BOB, NOBODY = b"ann", b"bob", b""


def sketched(windows: list[tuple[int, int]], reads: list[tuple[bytes, int]]) -> Sketch:
    keys = Keys.from_list([key for key, _ in reads])
    times = np.array([at for _, at in reads], np.int64)
    entities = len({key for key, _ in reads if key})
    return Sketch.of_reads(keys, times, np.array(windows, np.int64), entities)


def seen(sketch: Sketch, events: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    hashes = Keys.from_list([key for key, _ in events]).hashes
    rows = sketch.rows(hashes, np.array([ts for _, ts in events], np.int64))
    return [events[row] for row in rows]


def test_the_span_reaches_from_the_widest_windows_hop_to_the_last_read() -> None:
    windows = [(HOUR, 60), (DAY, 1_800)]
    # The day before 100,000 begins at 13,600, and its hop at 12,600.
    assert sketched(windows, [(ANN, 100_000)]).span == (12_600, 100_000)
    assert sketched(windows, [(ANN, 100_000), (BOB, 700_000)]).span == (12_600, 700_000)
    # A narrow window with a wide hop may begin before a wide one.
    assert sketched([(HOUR, DAY), (2 * HOUR, 0)], [(ANN, 100_000)]).span == (DAY, 100_000)


def test_an_event_at_a_windows_left_edge_is_kept_and_one_at_the_read_is_not() -> None:
    one = sketched([(HOUR, 0)], [(ANN, 10_000)])
    events = [(ANN, ts) for ts in (6_399, 6_400, 9_999, 10_000)]
    assert seen(one, events) == events[1:3]


def test_an_event_between_the_windows_of_two_reads_is_left_out() -> None:
    one = sketched([(HOUR, 0)], [(ANN, DAY), (ANN, 30 * DAY), (BOB, 10 * DAY)])
    events = [(key, day * DAY - 1) for key in (ANN, BOB) for day in (1, 10, 20, 30)]
    assert seen(one, events) == [(ANN, DAY - 1), (ANN, 30 * DAY - 1), (BOB, 10 * DAY - 1)]


def test_a_lifetime_sees_all_that_is_before_its_reads() -> None:
    one = sketched([(HOUR, 0), LIFETIME], [(ANN, YEAR), (BOB, 2 * YEAR)])
    assert one.span == (None, 2 * YEAR)
    assert seen(one, [(ANN, EARLIEST_US), (ANN, YEAR - 1)]) == [(ANN, EARLIEST_US), (ANN, YEAR - 1)]
    assert seen(one, [(ANN, YEAR + YEAR // 2), (BOB, 2 * YEAR)]) == []
    assert seen(one, [(BOB, YEAR + YEAR // 2)]) == [(BOB, YEAR + YEAR // 2)]


def test_a_null_key_sees_nothing() -> None:
    assert sketched([(HOUR, 0)], [(NOBODY, DAY)]).span == (0, 0)
    one = sketched([(HOUR, 0), LIFETIME], [(NOBODY, 10 * YEAR), (ANN, DAY)])
    assert one.span == (None, DAY)
    assert seen(one, [(NOBODY, 10), (ANN, 10), (ANN, 2 * DAY)]) == [(ANN, 10)]


@pytest.mark.parametrize("windows", [[(HOUR, 0)], [LIFETIME]])
def test_reads_at_any_time_are_taken(windows: list[tuple[int, int]]) -> None:
    beyond = [-(1 << 63), EARLIEST_US - 1, LATEST_US + 2, (1 << 63) - 1]
    one = sketched(windows, [*((ANN, at) for at in beyond), (BOB, DAY)])
    events = [(BOB, DAY - 1), (ANN, DAY - 1)]
    assert (BOB, DAY - 1) in seen(one, events)
    assert ((ANN, DAY - 1) in seen(one, events)) == (LIFETIME in windows)
    first, last = (ANN, EARLIEST_US), (ANN, LATEST_US)
    assert set(seen(one, [first, last])) >= ({first, last} if LIFETIME in windows else set())


@pytest.mark.parametrize("lifetime", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_nothing_that_a_read_sees_is_left_out_and_little_else_is_kept(
    seed: int, lifetime: bool
) -> None:
    rng = np.random.default_rng(seed)
    names = [b"key-%d" % i for i in range(600)]
    # A third of the keys is asked for, most of them once.
    reads = [
        (names[k], int(at))
        for k, at in zip(rng.integers(0, 200, 250), rng.integers(0, YEAR, 250), strict=True)
    ]
    windows = [(HOUR, 60), (30 * DAY, 3_600), *([LIFETIME] if lifetime else [])]
    events = [
        (names[k], int(ts))
        for k, ts in zip(rng.integers(0, 600, 20_000), rng.integers(0, YEAR, 20_000), strict=True)
    ]
    found = seen(sketched(windows, reads), events)
    starts: dict[bytes, list[tuple[int, int]]] = {}
    for key, at in reads:
        start = -YEAR if lifetime else (at - 30 * DAY) // 3_600 * 3_600
        starts.setdefault(key, []).append((start, at))
    wanted = [
        (key, ts)
        for key, ts in events
        if any(start <= ts < at for start, at in starts.get(key, []))
    ]
    assert set(wanted) <= set(found)
    assert len(found) < (20_000 if lifetime else 2 * len(wanted))
