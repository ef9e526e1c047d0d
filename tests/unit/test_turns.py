from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from headwater.flow.pipeline import Tick
from headwater.flow.turns import Turns

TICK = Tick(0, idle=False)
SMALL, LARGE = [range(10)], [range(100_000)]


class Inside:
    """A stage that counts who is in it, and stays until as many have come as it waits for."""

    def __init__(self, wanted: int) -> None:
        self.wanted = threading.Barrier(wanted)
        self.most = self.now = 0
        self.lock = threading.Lock()

    def __call__(self, batches):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.wanted.wait(10)
        with self.lock:
            self.now -= 1
        return batches


def test_stages_are_run_in_order_and_batches_come_out() -> None:
    double = lambda batches: [*batches, *batches]  # noqa: E731
    stage = Turns().of([double, lambda batches: batches[1:]])
    assert stage([TICK]) == [TICK]
    assert stage([*SMALL, TICK]) == [TICK, *SMALL, TICK]


def test_small_batches_are_worked_on_one_after_the_other() -> None:
    turns, inside = Turns(), Inside(1)
    stage = turns.of([inside])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(stage, [SMALL] * 200))
    assert inside.most == 1


@pytest.mark.parametrize("batches", [LARGE, [TICK]])
def test_large_batches_and_bare_ticks_wait_for_nobody(batches) -> None:
    turns, inside = Turns(), Inside(2)
    stage = turns.of([inside])
    with ThreadPoolExecutor(2) as pool:
        # Each stays until the other has come.
        list(pool.map(stage, [batches, batches]))
    assert inside.most == 2


def test_who_waits_for_another_in_its_turn_is_not_waited_for_for_ever() -> None:
    turns, inside = Turns(), Inside(2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(turns.of([inside]), [SMALL, SMALL]))
    assert inside.most == 2


def test_a_stage_that_fails_gives_its_turn_away() -> None:
    def fail(_batches):
        raise RuntimeError("no")

    turns, inside = Turns(), Inside(1)
    with pytest.raises(RuntimeError, match="no"):
        turns.of([fail])(SMALL)
    assert turns.of([inside])(SMALL) == SMALL
    assert not turns._lock.locked()
