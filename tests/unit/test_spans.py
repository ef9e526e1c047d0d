"""Spans: of each entity only the events that one of its reads can see are kept."""

from __future__ import annotations

import numpy as np

from headwater.kernels.rows import FOREVER
from headwater.kernels.spans import rows_within, widen

HOUR, DAY = 3_600, 86_400
LIFETIME = (-1, 0)


def spans_of(
    windows: list[tuple[int, int]], slots: list[int], times: list[int], entities: int = 2
) -> list[list[int]]:
    spans = np.empty((entities, 2), np.int64)
    spans[:] = FOREVER, -FOREVER
    room = np.empty(len(windows), np.int64)
    widen(spans, np.array(slots, np.int32), np.array(times), np.array(windows, np.int64), room)
    return spans.tolist()


def test_a_span_reaches_from_the_widest_windows_hop_to_the_read() -> None:
    windows = [(HOUR, 60), (DAY, 1_800)]
    # The day before 100,000 begins at 13,600, and its hop at 12,600.
    assert spans_of(windows, [0], [100_000]) == [[12_600, 100_000], [FOREVER, -FOREVER]]
    # A narrow window with a wide hop may begin before a wide one.
    assert spans_of([(HOUR, DAY), (2 * HOUR, 0)], [0], [100_000])[0] == [DAY, 100_000]


def test_a_span_covers_every_read_of_its_entity_and_no_other() -> None:
    found = spans_of([(HOUR, 0)], [1, 0, 1, -1], [50_000, 9_000, 20_000, 90_000])
    assert found == [[9_000 - HOUR, 9_000], [20_000 - HOUR, 50_000]]


def test_a_lifetime_has_no_left_edge() -> None:
    assert spans_of([(HOUR, 0), LIFETIME], [0], [7])[0] == [-FOREVER, 7]


def test_events_at_a_windows_left_edge_are_kept_and_those_at_the_read_are_not() -> None:
    spans = np.array([[100, 200], [FOREVER, -FOREVER]])
    slots = np.array([0, 0, 0, 0, 1, -1], np.int32)
    times = np.array([99, 100, 199, 200, 150, 150])
    rows = np.full(6, -7)
    assert rows_within(spans, slots, times, rows) == 2
    assert rows.tolist() == [1, 2, -7, -7, -7, -7]


def test_rows_are_found_however_many_there_are() -> None:
    rng = np.random.default_rng(1)
    spans = np.sort(rng.integers(0, 1_000, (50, 2)), axis=1)
    slots = rng.integers(-1, 50, 5_000).astype(np.int32)
    times = rng.integers(0, 1_000, 5_000)
    rows = np.empty(5_000, np.int64)
    count = rows_within(spans, slots, times, rows)
    of = spans[slots]
    wanted = np.flatnonzero((slots >= 0) & (of[:, 0] <= times) & (times < of[:, 1]))
    assert rows[:count].tolist() == wanted.tolist()
    assert 0 < count < 5_000
