"""The fuse of a process: it may end, or one of its threads stand still, at any call it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.strand import current

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from simulation.strand import HeldLock

__all__ = ["Crash", "Fuse"]


class Crash(BaseException):
    """The process of a worker ends here; nothing of it reaches log or disk any more."""


class Fuse:
    """Ends a process, or halts a thread of it, at one of its next calls to log, disk or store."""

    def __init__(self, counts: Counter[str]) -> None:
        self.dead = False
        self.crash_in: int | None = None
        self.halt_in: int | None = None
        self.lock: HeldLock | None = None
        self._counts = counts

    def point(self, name: str) -> None:
        """Pass a point at which the process may end or the thread stand still."""
        if self.crash_in is not None and not self.dead:
            self.crash_in -= 1
            self.dead = self.crash_in < 0
        if self.dead:
            raise Crash(name)
        strand = current()
        if self.halt_in is None or strand is None:
            return
        self.halt_in -= 1
        # With the lock in hand nobody could read, which a real thread is back from soon.
        if self.halt_in < 0 and (self.lock is None or not self.lock.depth):
            self.halt_in = None
            self._counts["thread halted"] += 1
            strand.halt()
            if self.dead:
                raise Crash(name)

    def wait(self, until: Callable[[], bool]) -> None:
        """Let the thread wait for something that others bring about."""
        while not until():
            strand = current()
            assert strand is not None, "the scheduler itself would wait for ever"
            strand.halt(until)
            if self.dead:
                raise Crash("waiting")
