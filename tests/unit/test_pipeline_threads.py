"""Pipelines at work: started and ended one by one while the others go on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from headwater.flow import plain_driver
from headwater.flow.pipeline import Pipeline, Tick
from headwater.flow.pipeline_threads import PipelineThreads

if TYPE_CHECKING:
    from collections.abc import Sequence

# Long enough for any machine: who waits this long waits for ever.
PATIENCE_S = 20.0


class Polled:
    """A source that says when it has been polled, and how it ended."""

    def __init__(self) -> None:
        self.polled = threading.Event()
        self.closed = 0

    def poll(self) -> Sequence[Any]:
        self.polled.set()
        return [Tick(0, idle=True)]

    def close(self) -> None:
        self.closed += 1

    def is_polled_again(self) -> bool:
        self.polled.clear()
        return self.polled.wait(PATIENCE_S)


def threads(failures: list[BaseException] | None = None) -> PipelineThreads:
    failures = [] if failures is None else failures
    return PipelineThreads(plain_driver.run, fail=failures.append, waited_at=lambda _: 0.0)


def test_one_that_is_ended_gives_up_what_it_has_and_the_others_go_on() -> None:
    running, stays, goes = threads(), Polled(), Polled()
    running.start(Pipeline("stays", stays, ()))
    running.start(Pipeline("goes", goes, ()))
    assert goes.is_polled_again()
    running.end(["goes"])
    assert (goes.closed, stays.closed, running.names) == (1, 0, {"stays"})
    assert stays.is_polled_again()
    # It may come back, by the same name.
    again = Polled()
    running.start(Pipeline("goes", again, ()))
    assert again.is_polled_again()
    running.stop()
    running.join()
    running.close()
    assert (goes.closed, stays.closed, again.closed) == (1, 1, 1)


def test_what_a_stage_raises_is_told_and_counts_as_no_standstill() -> None:
    failures: list[BaseException] = []
    running, failed = threads(failures), threading.Event()

    def fail(_: Any) -> Any:
        failed.set()
        raise RuntimeError("broken")

    running.start(Pipeline("fails", Polled(), (fail,)))
    assert failed.wait(PATIENCE_S)
    running.join()
    assert [str(error) for error in failures] == ["broken"]
    assert running.heartbeat_age_s() == 0.0


def test_a_stage_that_stands_still_is_seen_in_the_heartbeat() -> None:
    running, stands, go_on = threads(), threading.Event(), threading.Event()

    def stand(_: Any) -> Any:
        stands.set()
        go_on.wait(PATIENCE_S)
        return []

    running.start(Pipeline("stands", Polled(), (stand,)))
    assert stands.wait(PATIENCE_S)
    first = running.heartbeat_age_s()
    assert running.heartbeat_age_s() > first
    running.stop()
    go_on.set()
    running.join()
