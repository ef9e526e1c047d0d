from __future__ import annotations

import contextlib
import http.server
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from headwater.cli.run.child import Probes, Process
from headwater.cli.run.supervisor import Policy, Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 60
POLICY = Policy(
    restart_after_s=1,
    restart_after_max_s=8,
    settled_after_s=60,
    watchdog_s=30,
    first_answer_s=100,
    stop_timeout_s=20,
    kill_after_s=3,
)


class FakeChild:
    """A process that does what a test says."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.asked_to_end = 0
        self.killed = 0

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.asked_to_end += 1

    def kill(self) -> None:
        self.killed += 1
        self.code = -signal.SIGKILL


class Host:
    """A supervisor over fake processes, with a clock that a test moves."""

    def __init__(self, slots: int = 1, jitter: float = 1.0) -> None:
        self.now_s = 1_000.0
        self.started: list[tuple[int, float]] = []
        self.children: dict[int, FakeChild] = {}
        self.healthy_s: dict[int, float] = {}
        self.spawn_errors = 0
        self.supervisor = Supervisor(
            self._spawn,
            self.healthy_s.get,
            slots,
            POLICY,
            clock=lambda: self.now_s,
            jitter=lambda: jitter,
        )

    def _spawn(self, slot: int) -> FakeChild:
        if self.spawn_errors:
            self.spawn_errors -= 1
            raise OSError("no process left")
        self.started.append((slot, self.now_s))
        self.children[slot] = FakeChild()
        return self.children[slot]

    def step(self, seconds: float = 0.0, *, answers: bool = True) -> int | None:
        """Let time pass in small steps, with healthy answers or without; return the last code."""
        code = self._once(answers=answers)
        for _ in range(int(seconds * 4)):
            self.now_s += 0.25
            code = self._once(answers=answers)
        return code

    def _once(self, *, answers: bool) -> int | None:
        if answers:
            self.healthy_s |= dict.fromkeys(self.children, self.now_s)
        return self.supervisor.step()

    def starts(self, slot: int) -> list[float]:
        return [at for number, at in self.started if number == slot]


def test_every_slot_gets_a_process_and_keeps_it() -> None:
    host = Host(slots=3)
    assert host.step(300) is None
    assert host.started == [(0, 1_000.0), (1, 1_000.0), (2, 1_000.0)]


def test_a_process_that_dies_is_started_again_alone() -> None:
    host = Host(slots=2)
    host.step()
    host.children[1].code = -signal.SIGKILL
    assert host.step(10) is None
    assert host.starts(0) == [1_000.0]
    assert host.starts(1) == [1_000.0, 1_001.0]


def test_one_that_ends_well_although_nobody_asked_is_started_again_too() -> None:
    host = Host()
    host.step()
    host.children[0].code = 0
    host.step(10)
    assert len(host.starts(0)) == 2


def _waits(host: Host, failures: int) -> list[float]:
    """Let the process fail at once again and again; return how long each restart was put off."""
    waits = []
    for _ in range(failures):
        host.step()
        failed_s = host.now_s
        host.children[0].code = 1
        before = len(host.started)
        while len(host.started) == before:
            host.step(0.25)
        waits.append(host.now_s - failed_s)
    return waits


def test_restarts_are_put_off_twice_as_long_each_time_up_to_a_limit() -> None:
    assert _waits(Host(), 6) == [1, 2, 4, 8, 8, 8]


def test_restarts_are_spread_at_random() -> None:
    assert _waits(Host(jitter=0.0), 5) == [0.5, 1, 2, 4, 4]
    assert _waits(Host(jitter=0.5), 5) == [0.75, 1.5, 3, 6, 6]


def test_who_ran_well_for_a_while_begins_with_the_short_wait_again() -> None:
    host = Host()
    assert _waits(host, 3) == [1, 2, 4]
    host.step(59)
    assert _waits(host, 1) == [8]
    host.step(60)
    assert _waits(host, 2) == [1, 2]


def test_thousands_of_failures_change_nothing() -> None:
    host = Host()
    host.supervisor._slots[0].failures = 100_000
    assert _waits(host, 1) == [8]


def test_a_process_that_cannot_be_started_is_tried_again(caplog) -> None:
    host = Host()
    host.spawn_errors = 2
    host.step(10)
    assert host.starts(0) == [1_003.0]
    assert caplog.text.count("no process left") == 2


@pytest.mark.parametrize("code", [2, 78])
def test_a_wrong_definition_or_configuration_ends_all_with_its_code(code) -> None:
    host = Host(slots=3)
    host.step()
    host.children[1].code = code
    assert host.step(1) is None
    assert host.children[0].asked_to_end == host.children[2].asked_to_end == 1
    host.children[0].code = 0
    # What the others end with doesn't matter any more.
    host.children[2].code = 1
    assert host.step() == code
    assert len(host.started) == 3


def test_the_watchdog_kills_who_stands_still_and_starts_it_again() -> None:
    host = Host()
    host.step(10)
    (child,) = host.children.values()
    host.step(29.75, answers=False)
    assert child.killed == 0
    host.step(0.25, answers=False)
    assert child.killed == 1
    host.step(2, answers=False)
    assert host.starts(0) == [1_000.0, 1_041.0]
    assert host.children[0].killed == 0


def test_who_is_killed_and_does_not_go_is_killed_once(caplog) -> None:
    host = Host()
    host.step(1)
    child = host.children[0]
    child.kill = lambda: setattr(child, "killed", child.killed + 1)
    host.step(60, answers=False)
    assert child.killed == 1
    assert caplog.text.count("worker_stands_still") == 1


def test_an_answer_in_time_keeps_it_alive() -> None:
    host = Host()
    for _ in range(10):
        host.step()
        host.step(29, answers=False)
    assert host.starts(0) == [1_000.0]
    assert host.children[0].killed == 0


def test_a_start_may_take_longer_than_standing_still() -> None:
    host = Host()
    host.step(99.75, answers=False)
    assert host.children[0].killed == 0
    host.step(0.25, answers=False)
    assert host.starts(0) == [1_000.0]
    host.step(2, answers=False)
    assert len(host.starts(0)) == 2


def test_answers_of_its_predecessor_do_not_count() -> None:
    host = Host()
    host.step(10)
    host.children[0].code = 1
    # The last healthy answer is from before this start: it has the time of a start.
    host.step(1, answers=False)
    host.step(60, answers=False)
    assert host.children[0].killed == 0


def test_who_was_stopped_itself_blames_nobody() -> None:
    host = Host(slots=2)
    host.step(10)
    # As after SIGSTOP and SIGCONT of the supervisor, or on a machine that slept.
    host.now_s += 3_600
    host.step(29, answers=False)
    assert not any(child.killed for child in host.children.values())
    host.step(1, answers=False)
    assert all(child.killed for child in host.children.values())


@pytest.mark.parametrize("code", [0, 130])
def test_a_stop_is_passed_on_and_waited_for(code) -> None:
    host = Host(slots=2)
    host.step(1)
    host.supervisor.stop(code)
    assert [child.asked_to_end for child in host.children.values()] == [1, 1]
    assert host.step(15, answers=False) is None
    host.children[0].code = 0
    assert host.step(1, answers=False) is None
    host.children[1].code = 0
    assert host.step(answers=False) == code
    assert len(host.started) == 2
    assert not any(child.killed for child in host.children.values())


def test_who_does_not_stop_is_killed_before_25_s_and_the_code_tells() -> None:
    host = Host(slots=2)
    host.step(1)
    stopped_s = host.now_s
    host.supervisor.stop(0)
    host.children[0].code = 0
    while (code := host.step(0.25, answers=False)) is None:
        assert host.now_s - stopped_s < 25
    assert code == 1
    assert host.now_s - stopped_s > POLICY.stop_timeout_s
    assert host.children[1].killed == 1


def test_the_second_stop_kills_at_once() -> None:
    host = Host(slots=2)
    host.step(1)
    host.supervisor.stop(130)
    host.step(1)
    host.supervisor.stop(130)
    host.step()
    assert [child.killed for child in host.children.values()] == [1, 1]
    assert host.step() == 1


def test_who_ends_while_stopping_is_not_started_again_and_one_in_waiting_neither() -> None:
    host = Host(slots=2)
    host.step()
    host.children[0].code = 1
    host.step(0.25)
    host.supervisor.stop(0)
    # Too young to know the signal: nothing was lost.
    host.children[1].code = -signal.SIGTERM
    assert host.step() == 0
    assert len(host.started) == 2


# Real processes


@contextlib.contextmanager
def _process(code: str) -> Iterator[Process]:
    process = Process([sys.executable, "-c", code])
    try:
        yield process
    finally:
        process.kill()
        _wait(lambda: process.poll() is not None)


def _wait(is_so) -> None:
    for _ in range(int(PATIENCE_S / 0.02)):
        if is_so():
            return
        time.sleep(0.02)
    pytest.fail("it did not come to pass")


def test_a_real_process_is_killed_and_replaced_and_ends_on_a_signal(tmp_path) -> None:
    marks = tmp_path / "starts"
    code = (
        "import os, signal, sys, time\n"
        f"open({str(marks)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "time.sleep(600)\n"
    )

    def pids() -> list[int]:
        return [int(pid) for pid in marks.read_text().split()] if marks.exists() else []

    supervisor = Supervisor(
        lambda _: Process([sys.executable, "-c", code]),
        lambda _: time.monotonic(),
        1,
        Policy(restart_after_s=0.05),
        clock=time.monotonic,
        jitter=lambda: 1.0,
    )

    def stepped(is_so) -> bool:
        assert supervisor.step() is None
        return is_so()

    _wait(lambda: stepped(lambda: len(pids()) == 1))
    os.kill(pids()[0], signal.SIGKILL)
    _wait(lambda: stepped(lambda: len(pids()) == 2))
    time.sleep(0.2)  # it may not have come to its handler; either end is a clean one
    supervisor.stop(0)
    codes: list[int | None] = []
    _wait(lambda: codes.append(supervisor.step()) or codes[-1] is not None)
    assert codes[-1] == 0


def test_a_process_has_a_group_of_its_own() -> None:
    with _process("import time; time.sleep(600)") as process:
        assert os.getpgid(process.pid) == process.pid != os.getpgrp()


def test_a_process_hears_when_who_started_it_dies(tmp_path) -> None:
    mark = tmp_path / "orphan"
    child = f"import sys; sys.stdin.read(); open({str(mark)!r}, 'w').close()"
    parent = (
        "import sys, time\n"
        "from headwater.cli.run.child import Process\n"
        f"Process([sys.executable, '-c', {child!r}])\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"started\n"
        assert not mark.exists()
        started.kill()
    _wait(mark.exists)


def test_probes_note_when_a_slot_last_answered_well() -> None:
    healthy = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if healthy.is_set() else 503)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        ticks = iter(range(1_000_000))
        ports = [server.server_port, 1]
        with Probes("127.0.0.1", ports, clock=lambda: float(next(ticks)), every_s=0.01) as probes:
            _wait(lambda: next(ticks) > 20)
            assert probes.healthy_at(0) is None
            healthy.set()
            _wait(lambda: probes.healthy_at(0) is not None)
            first = probes.healthy_at(0)
            _wait(lambda: probes.healthy_at(0) > first)
            # Nobody listens on the other port.
            assert probes.healthy_at(1) is None
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _all_logs(caplog) -> None:
    caplog.set_level(logging.INFO)
