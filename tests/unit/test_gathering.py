"""Records gather before they are polled: each batch costs the same, however small it is."""

from __future__ import annotations

from typing import Any

from headwater.flow import plain_driver
from headwater.flow.pipeline import LogSource, Pipeline, Tick

LINGER_US = 8_000


class Clock:
    """A time that passes when a driver waits, and what was waited."""

    def __init__(self, stops_us: int) -> None:
        self.now_us = 0
        self.waited_us: list[int] = []
        self._stops_us = stops_us

    def __call__(self) -> int:
        return self.now_us

    def is_set(self) -> bool:
        return self.now_us >= self._stops_us

    def wait(self, seconds: float) -> None:
        self.waited_us.append(round(seconds * 1e6))
        self.now_us += self.waited_us[-1]


class Consumer:
    """Has one record every ms, and takes 1 ms to give what there is."""

    def __init__(self, clock: Clock, *, until_us: int) -> None:
        self._clock = clock
        self._until_us = until_us
        self._given = 0
        self.polled_us: list[int] = []

    def poll(self, records_max: int, timeout_s: float) -> list[list[int]]:
        assert timeout_s == 0.0
        self.polled_us.append(self._clock.now_us)
        there = min(self._clock.now_us, self._until_us) // 1_000
        found = list(range(self._given, min(there, self._given + records_max)))
        self._given += len(found)
        self._clock.now_us += 1_000 if found else 0
        return [found] if found else []

    def close(self) -> None:
        pass


def drive(clock: Clock, *, until_us: int, records_max: int = 1_000) -> tuple[Consumer, list[Any]]:
    consumer = Consumer(clock, until_us=until_us)
    source = LogSource(consumer, records_max=records_max, clock=clock, linger_us=LINGER_US)  # type: ignore[arg-type]
    calls: list[Any] = []
    pipeline = Pipeline("p", source, (lambda batches: calls.append(batches) or batches,))  # type: ignore[func-returns-value]
    plain_driver.run([pipeline], clock)  # type: ignore[arg-type]
    return consumer, calls


def test_a_poll_that_was_not_full_is_followed_by_the_next_when_its_linger_is_over() -> None:
    consumer, calls = drive(Clock(stops_us=100_000), until_us=100_000)
    gaps = [b - a for a, b in zip(consumer.polled_us[1:], consumer.polled_us[2:], strict=False)]
    assert set(gaps) == {LINGER_US}
    assert not any(tick.idle for *_, tick in calls[1:])
    assert all(isinstance(tick, Tick) for *_, tick in calls)


def test_a_full_poll_is_followed_by_the_next_at_once() -> None:
    clock = Clock(stops_us=60_000)
    clock.now_us = 40_000
    consumer, _ = drive(clock, until_us=60_000, records_max=8)
    assert consumer.polled_us[:5] == [40_000, 41_000, 42_000, 43_000, 44_000]


def test_without_records_the_waits_grow_to_a_bound() -> None:
    clock = Clock(stops_us=200_000)
    consumer, _ = drive(clock, until_us=0)
    assert max(clock.waited_us) == 10_000
    assert len(consumer.polled_us) < 30
