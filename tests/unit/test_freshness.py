"""Freshness: stamps, ends and lanes, one rule at a time."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from headwater.errors import ConfigError
from headwater.flow import boot_clock
from headwater.flow.freshness import Freshness, Guard, boot_clock_us

S = 1_000_000


@pytest.fixture
def freshness() -> Freshness:
    made = Freshness(lambda: 100 * S)
    made.opened(0)
    return made


def test_nothing_is_known_before_the_first_end_is_reached(freshness: Freshness) -> None:
    assert freshness.age_us(0, 10, (), 100 * S) is None
    freshness.observe(90 * S, {0: 12})
    assert freshness.age_us(0, 11, (), 100 * S) is None
    assert freshness.age_us(0, 12, (), 100 * S) == 10 * S


def test_a_shard_is_as_fresh_as_the_newest_stamp_whose_end_it_has_reached(
    freshness: Freshness,
) -> None:
    for second, end in ((90, 5), (91, 5), (92, 9), (93, 30)):
        freshness.observe(second * S, {0: end})
    ages = [freshness.age_us(0, offset, (), 100 * S) for offset in (4, 5, 8, 9, 29, 30)]
    assert ages == [None, 9 * S, 9 * S, 8 * S, 8 * S, 7 * S]


def test_a_lane_is_as_fresh_as_the_stamp_before_its_source_was_asked(
    freshness: Freshness,
) -> None:
    freshness.observe(90 * S, {0: 5})
    assert freshness.age_us(0, 5, ["x"], 100 * S) is None  # never heard of
    freshness.at_end(0, "x", 6)
    freshness.observe(95 * S, {0: 6})
    assert freshness.age_us(0, 6, ["x"], 100 * S) == 10 * S
    assert freshness.age_us(0, 6, [], 100 * S) == 5 * S
    freshness.at_end(0, "x", 7)
    assert freshness.age_us(0, 7, ["x"], 100 * S) == 5 * S
    assert freshness.age_us(0, 7, ["x", "y"], 100 * S) is None


def test_a_record_that_is_long_on_its_way_or_comes_twice_makes_nothing_fresher(
    freshness: Freshness,
) -> None:
    freshness.observe(90 * S, {0: 5})
    freshness.at_end(0, "x", 6)
    freshness.observe(95 * S, {0: 9})
    freshness.observe(99 * S, {0: 20})
    freshness.at_end(0, "x", 6)
    assert freshness.age_us(0, 20, ["x"], 100 * S) == 10 * S
    freshness.at_end(0, "x", 10)
    freshness.at_end(0, "x", 6)
    assert freshness.age_us(0, 20, ["x"], 100 * S) == 5 * S


def test_an_end_that_may_have_been_asked_for_before_or_after_does_not_count(
    freshness: Freshness,
) -> None:
    freshness.observe(90 * S, {0: 5})
    freshness.at_end(0, "x", 5)
    assert freshness.age_us(0, 5, ["x"], 100 * S) is None


def test_a_silent_lane_ages_while_its_shard_is_fresh(freshness: Freshness) -> None:
    freshness.observe(90 * S, {0: 5})
    freshness.at_end(0, "x", 6)
    for second in range(91, 100):
        freshness.observe(second * S, {0: 6})
    assert freshness.age_us(0, 6, ["x"], 100 * S) == 10 * S
    assert freshness.age_us(0, 6, [], 100 * S) == 1 * S


def test_an_end_that_comes_after_the_record_was_applied_still_counts(freshness: Freshness) -> None:
    freshness.at_end(0, "x", 6)
    freshness.observe(95 * S, {0: 5})  # asked before that record was appended, answered later
    assert freshness.age_us(0, 6, ["x"], 100 * S) == 5 * S


def test_an_answer_that_was_overtaken_changes_nothing(freshness: Freshness) -> None:
    freshness.observe(95 * S, {0: 7})
    freshness.observe(94 * S, {0: 6})
    assert freshness.age_us(0, 6, (), 100 * S) is None
    assert freshness.age_us(0, 7, (), 100 * S) == 5 * S


def test_a_shard_that_comes_back_is_not_known_until_it_is_heard_of_anew(
    freshness: Freshness,
) -> None:
    freshness.observe(95 * S, {0: 7})
    freshness.at_end(0, "x", 9)
    assert freshness.age_us(0, 10, ["x"], 100 * S) == 5 * S
    freshness.closed(0)
    assert freshness.age_us(0, 10, [], 100 * S) is None
    freshness.opened(0)
    assert freshness.age_us(0, 10, [], 100 * S) is None
    freshness.observe(96 * S, {0: 9})
    assert freshness.age_us(0, 10, [], 100 * S) == 4 * S
    assert freshness.age_us(0, 10, ["x"], 100 * S) is None
    freshness.opened(0)
    assert freshness.age_us(0, 10, [], 100 * S) is None


def test_a_shard_that_is_not_here_is_passed_over(freshness: Freshness) -> None:
    freshness.observe(95 * S, {0: 1, 7: 1})
    freshness.at_end(7, "x", 1)
    freshness.closed(7)
    assert freshness.age_us(7, 100, [], 100 * S) is None


def test_an_exchange_that_lost_its_end_is_begun_anew(freshness: Freshness) -> None:
    freshness.observe(90 * S, {0: 100})
    freshness.at_end(0, "x", 150)
    freshness.observe(95 * S, {0: 40})
    assert freshness.age_us(0, 40, [], 100 * S) == 5 * S
    assert freshness.age_us(0, 200, ["x"], 100 * S) is None


def test_stamps_are_bounded_and_the_newest_is_exact(freshness: Freshness) -> None:
    for second in range(100_000):
        freshness.observe(second * S, {0: second})
    held = freshness._shards[0].stamps_us
    assert len(held) <= 128
    assert freshness.age_us(0, 99_999, (), 100_000 * S) == S
    assert freshness.age_us(0, 99_990, (), 100_000 * S) == 10 * S
    far = freshness.age_us(0, 50_000, (), 100_000 * S)
    assert far is not None
    assert far >= 50_000 * S


VIEW: Any = SimpleNamespace(id="v@1")


def test_a_guard_lets_through_what_is_fresh_enough() -> None:
    now = [100 * S]
    freshness = Freshness(lambda: now[0])
    guard = Guard(freshness, lambda view: [f"{view.id}-lane"], 5 * S)
    freshness.opened(0)
    assert guard.is_stale(0, 5, VIEW)
    freshness.observe(99 * S, {0: 5})
    freshness.at_end(0, "v@1-lane", 6)
    assert not guard.is_stale(0, 6, VIEW)
    now[0] = 104 * S
    assert not guard.is_stale(0, 6, VIEW)
    now[0] += 1
    assert guard.is_stale(0, 6, VIEW)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"max_staleness_us": 0}, "more than 0"), ({"on_stale": "wait"}, '"mark" or "refuse"')],
)
def test_a_guard_refuses_what_cannot_be_kept_to(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Guard(Freshness(), lambda _: [], **options)


def test_the_boot_clock_runs_on_and_is_not_the_wall_clock() -> None:
    first, second = boot_clock_us(), boot_clock_us()
    assert 0 < first <= second
    assert second < time.time_ns() // 1_000
    assert boot_clock._CLOCK in {getattr(time, "CLOCK_BOOTTIME", None), time.CLOCK_MONOTONIC}
