"""The supervisor: keeps a host's worker processes running, and ends them together."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from headwater.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Child", "Policy", "Supervisor"]

_log = get_logger(__name__)

# A wrong definition and a wrong configuration: starting again changes nothing.
_FINAL_CODES = frozenset((2, 78))
# Ended by the signal itself, it was too young to have anything to hand over.
_CLEAN_CODES = frozenset((0, -signal.SIGTERM))
# Between two steps; more means that we were stopped or starved ourselves.
_STEP_MAX_S = 5.0


class Child(Protocol):
    """A process that was started."""

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal, None while it runs."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When a process is restarted, how long it may stand still, and how long it has to end."""

    restart_after_s: float = 0.5  # doubled with every failure in a row
    restart_after_max_s: float = 30.0
    settled_after_s: float = 60.0  # a process that ran this long has not failed in a row
    watchdog_s: float = 30.0
    first_answer_s: float = 300.0  # imports, and state that comes from a checkpoint store
    stop_timeout_s: float = 20.0
    kill_after_s: float = 3.0  # after the stop time-out, which is for the process itself


@dataclass(slots=True)
class _Slot:
    number: int
    child: Child | None = None
    started_s: float = 0.0
    watched_from_s: float = 0.0
    failures: int = 0
    restart_at_s: float = 0.0
    is_killed: bool = False


class Supervisor:
    """Starts a process for each slot, restarts those that end or stand still, stops all.

    `spawn` starts a slot's process; `healthy_at` says when one last answered that its loops go
    round, on `clock` (seconds), None if it never did. `jitter` returns numbers from 0 to 1.
    Nothing here waits: `step` looks once at everything.
    """

    def __init__(
        self,
        spawn: Callable[[int], Child],
        healthy_at: Callable[[int], float | None],
        slots: int,
        policy: Policy,
        *,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._spawn = spawn
        self._healthy_at = healthy_at
        self._policy = policy
        self._clock = clock
        self._jitter = jitter
        self._slots = [_Slot(number) for number in range(slots)]
        self._stepped_s = clock()
        self._code: int | None = None  # what we end with, once we are stopping
        self._kill_at_s = float("inf")
        self._is_clean = True

    def stop(self, code: int) -> None:
        """Ask every process to end, and end with `code`; the second time, kill them."""
        now = self._clock()
        if self._code is not None:
            self._kill_at_s = now
            return
        self._code = code
        self._kill_at_s = now + self._policy.stop_timeout_s + self._policy.kill_after_s
        for slot in self._slots:
            if slot.child is not None:
                slot.child.terminate()

    def step(self) -> int | None:
        """Look at every process; return the exit code when all is over."""
        now = self._clock()
        if now - self._stepped_s > _STEP_MAX_S:
            # Nobody asked the processes meanwhile: their silence is ours.
            for slot in self._slots:
                slot.watched_from_s = now
        self._stepped_s = now
        for slot in self._slots:
            self._look(slot, now)
        if self._code is None:
            return None
        if now >= self._kill_at_s:
            self._kill()
        if any(slot.child is not None for slot in self._slots):
            return None
        return self._code if self._is_clean or self._code in _FINAL_CODES else 1

    def _look(self, slot: _Slot, now: float) -> None:
        code = None if slot.child is None else slot.child.poll()
        if code is not None:
            slot.child = None
            self._ended(slot, code, now)
        if self._code is not None:
            return
        if slot.child is None:
            if now >= slot.restart_at_s:
                self._start(slot, now)
        elif not slot.is_killed and self._stands_still(slot, now):
            _log.error("worker_stands_still", slot=slot.number, watchdog_s=self._policy.watchdog_s)
            # How it ended, and when it starts again, is seen when it has.
            slot.child.kill()
            slot.is_killed = True

    def _ended(self, slot: _Slot, code: int, now: float) -> None:
        if self._code is not None:
            if code not in _CLEAN_CODES:
                self._is_clean = False
                _log.error("worker_stopped_badly", slot=slot.number, code=code)
            return
        if code in _FINAL_CODES:
            _log.error("worker_refused_to_run", slot=slot.number, code=code)
            self.stop(code)
            return
        if now - slot.started_s >= self._policy.settled_after_s:
            slot.failures = 0
        _log.error("worker_ended", slot=slot.number, code=code, restart_s=self._back_off(slot, now))

    def _back_off(self, slot: _Slot, now: float) -> float:
        """Put the restart off, longer each time; not all slots together. Return for how long."""
        policy = self._policy
        # Bounded before the power is taken: failures may go on for weeks.
        doubled = policy.restart_after_s * 2.0 ** min(slot.failures, 32)
        wait_s = min(policy.restart_after_max_s, doubled) * (0.5 + 0.5 * self._jitter())
        slot.failures += 1
        slot.restart_at_s = now + wait_s
        return round(wait_s, 3)

    def _start(self, slot: _Slot, now: float) -> None:
        slot.started_s = slot.watched_from_s = now
        slot.is_killed = False
        try:
            slot.child = self._spawn(slot.number)
        except OSError as error:
            # No memory or no process left: it may pass.
            wait_s = self._back_off(slot, now)
            _log.error("worker_not_started", slot=slot.number, why=str(error), restart_s=wait_s)
            return
        _log.info("worker_started", slot=slot.number, failures=slot.failures)

    def _stands_still(self, slot: _Slot, now: float) -> bool:
        policy = self._policy
        healthy_s = self._healthy_at(slot.number)
        if healthy_s is None or healthy_s < slot.started_s:
            return now - slot.watched_from_s >= max(policy.first_answer_s, policy.watchdog_s)
        return now - max(healthy_s, slot.watched_from_s) >= policy.watchdog_s

    def _kill(self) -> None:
        for slot in self._slots:
            if slot.child is not None:
                _log.error("worker_killed", slot=slot.number)
                slot.child.kill()
        # Once is enough: what is left is that the system says that they have ended.
        self._kill_at_s = float("inf")
