"""One worker in a process: started, watched, stopped, released, and killed when that takes long."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import nullcontext

import pytest
from fake_worker import PATIENCE_S, FakeWorker
from prometheus_client import Counter

from headwater.cli.run.signals import Signals
from headwater.cli.run.worker_process import Lifecycle, Limits, Timing, registry_of, work
from headwater.errors import HeadwaterError, StateError
from headwater.flow.metrics import Metrics


class Line:
    """A status line that counts."""

    shown = 0

    def show(self, status) -> None:
        assert status().worker == "w"
        self.shown += 1


class Killed(BaseException):
    """What the end of the process is in a test."""


class Run:
    """`work` with a fake worker, a clock that moves as it waits, and no real end."""

    def __init__(self) -> None:
        self.worker = FakeWorker()
        self.signals = Signals()
        self.line = Line()
        self.now_s = 0.0
        self.limits = Limits(stop_s=20, start_s=300)
        self.lifecycle = Lifecycle(self.worker, self.limits, clock=lambda: self.now_s)
        self.on_wait = lambda: None
        self.may_release = threading.Event()
        self.may_release.set()
        self.released_after: list[str] | None = None

    def _release(self) -> None:
        assert self.may_release.wait(PATIENCE_S)
        self.released_after = list(self.worker.calls)

    def _wait(self, seconds: float) -> None:
        self.now_s += seconds
        time.sleep(0.001)  # other threads need to get somewhere
        self.on_wait()

    def _kill(self, code: int) -> None:
        raise Killed(code)

    def __call__(self) -> int:
        timing = Timing(
            lambda: self.now_s, self._wait, self._kill, last_resort=lambda _limit_s: nullcontext()
        )
        return work(
            self.worker,
            self.lifecycle,
            self.signals,
            self.line,
            self.limits,
            release=self._release,
            timing=timing,
        )

    def signal_once_running(self, number: int = signal.SIGTERM) -> None:
        self.worker.on_check = lambda: self.line.shown > 3 and self.signals.got.append(number)


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_worker_in_order(run, number, code) -> None:
    run.signal_once_running(number)
    assert run() == code
    assert run.worker.calls == ["start", "started", "stop", "stopped"]
    assert run.line.shown > 3
    assert run.lifecycle.is_stopping


def test_a_task_that_failed_ends_the_worker_with_its_error(run) -> None:
    run.worker.error = StateError("topic orders was made again; run headwater stream reset")
    with pytest.raises(StateError, match="made again"):
        run()
    assert run.worker.calls == ["start", "started", "stop", "stopped"]


def test_a_start_that_failed_has_nothing_to_stop(run) -> None:
    run.worker.start_error = StateError("another number of shards")
    with pytest.raises(StateError, match="another number"):
        run()
    assert run.worker.calls == ["start"]


def test_a_failure_to_stop_is_an_error_too(run) -> None:
    run.signal_once_running()
    run.worker.stop_error = HeadwaterError("the last checkpoint could not be written")
    with pytest.raises(HeadwaterError, match="last checkpoint"):
        run()


def test_the_first_failure_is_the_one_that_is_told(run, caplog) -> None:
    run.worker.error = StateError("the cause")
    run.worker.stop_error = HeadwaterError("what came of it")
    with pytest.raises(StateError, match="the cause"):
        run()
    assert "what came of it" in caplog.text


def test_who_has_not_stopped_in_time_is_killed_with_a_line_that_says_so(run, capsys) -> None:
    run.signal_once_running()
    run.worker.may_stop.clear()
    with pytest.raises(Killed, match="1"):
        run()
    assert run.now_s == pytest.approx(20, abs=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("headwater: error: the worker has not stopped within 20 s; it is killed")
    run.worker.may_stop.set()


@pytest.mark.parametrize("fails", ["nothing", "start", "stop"])
def test_what_it_was_made_with_is_released_when_it_has_stopped(run, fails) -> None:
    run.signal_once_running()
    if fails != "nothing":
        setattr(run.worker, f"{fails}_error", StateError("it can't"))
    with nullcontext() if fails == "nothing" else pytest.raises(StateError):
        run()
    calls = ["start", "started", "stop", "stopped"]
    assert run.released_after == {"nothing": calls, "start": calls[:1], "stop": calls[:3]}[fails]


def test_a_release_that_hangs_is_killed_and_what_made_it_end_was_said(run, capsys, caplog) -> None:
    run.worker.error = StateError("records are lost")
    run.may_release.clear()
    with caplog.at_level(logging.INFO), pytest.raises(Killed, match="1"):
        run()
    run.may_release.set()
    assert "has not stopped within 20 s" in capsys.readouterr().err
    assert "records are lost" in caplog.text


def test_a_second_ctrl_c_kills_at_once(run) -> None:
    run.signal_once_running(signal.SIGINT)
    run.worker.may_stop.clear()
    run.on_wait = lambda: "stop" in run.worker.calls and run.signals.got.append(signal.SIGINT)
    with pytest.raises(Killed, match="130"):
        run()
    assert run.now_s < 5
    run.worker.may_stop.set()


def test_a_signal_during_the_start_waits_for_it_and_stops(run) -> None:
    run.worker.may_start.clear()

    def on_wait() -> None:
        if not run.signals.got:
            run.signals.got.append(signal.SIGTERM)
        elif run.now_s > 5:
            run.worker.may_start.set()

    run.on_wait = on_wait
    assert run() == 0
    assert run.worker.calls == ["start", "started", "stop", "stopped"]
    assert run.line.shown == 0


def test_a_start_that_hangs_does_not_hold_up_the_end(run) -> None:
    run.worker.may_start.clear()
    run.signals.got.append(signal.SIGTERM)
    with pytest.raises(Killed, match="1"):
        run()
    run.worker.may_start.set()


# Health


def test_a_worker_is_healthy_and_not_ready_while_it_starts(run) -> None:
    lifecycle = run.lifecycle
    run.worker.error = StateError("not asked yet")
    lifecycle.check()
    assert not lifecycle.is_ready()
    run.now_s = 300.0
    assert lifecycle.heartbeat_age_s() == 0.0
    run.now_s = 320.0
    assert lifecycle.heartbeat_age_s() == 20.0


def test_a_worker_that_runs_speaks_for_itself_until_it_stops(run) -> None:
    lifecycle = run.lifecycle
    lifecycle.has_started = True
    assert (lifecycle.heartbeat_age_s(), lifecycle.is_ready()) == (1.5, True)
    run.worker.error = StateError("gone")
    with pytest.raises(StateError):
        lifecycle.check()
    lifecycle.is_stopping = True
    lifecycle.check()
    assert (lifecycle.heartbeat_age_s(), lifecycle.is_ready()) == (0.0, False)


def test_metrics_are_there_before_and_after_the_worker_has_some(run) -> None:
    import headwater

    worker, lifecycle = run.worker, run.lifecycle
    registry = registry_of(worker, lifecycle, max_staleness_s=2.5)
    assert (
        registry.get_sample_value("headwater_build_info", {"version": headwater.__version__}) == 1
    )
    assert registry.get_sample_value("process_start_time_seconds") is not None
    worker.metrics = Metrics()
    Counter("made_later", "Made later", registry=worker.metrics.registry).inc(2)
    assert registry.get_sample_value("made_later_total") == 2


def test_health_is_a_metric_too_and_what_is_stale_stands_beside_it(run) -> None:
    registry = registry_of(run.worker, run.lifecycle, max_staleness_s=2.5)
    assert registry.get_sample_value("headwater_max_staleness_seconds") == 2.5
    run.now_s = 320.0
    assert registry.get_sample_value("headwater_heartbeat_age_seconds") == 20.0
    assert registry.get_sample_value("headwater_ready") == 0
    run.lifecycle.has_started = True
    assert registry.get_sample_value("headwater_heartbeat_age_seconds") == 1.5
    assert registry.get_sample_value("headwater_ready") == 1


# Signals


def test_signals_are_kept_and_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.got == [signal.SIGTERM]
        assert signals.code == 0
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.code == 130
    assert signal.getsignal(signal.SIGTERM) is before


# The command


@pytest.fixture(autouse=True)
def _logs_stay_as_they_are():
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    yield
    assert (list(root.handlers), root.level) == before
