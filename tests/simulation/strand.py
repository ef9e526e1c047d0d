"""Strands: threads that run one at a time, and stand still in the middle when told to.

The scheduler lets a strand run until it ends or halts; nothing else runs meanwhile. So threads
interleave at the calls to log and disk, wherever the seed says, and always in the same way.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HeldLock", "Strand", "current"]

_local = threading.local()


def current() -> Strand | None:
    """Return the strand that runs here; None in the scheduler's own thread."""
    return getattr(_local, "strand", None)


class Strand:
    """A thread of a process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.busy = False
        # What it waits for; None while it stands still for no reason, or doesn't.
        self._until: Callable[[], bool] | None = None
        self._action: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()

    def run(self, action: Callable[[], None]) -> None:
        """Begin an action and return when it has ended or halts; raise what it raises."""
        assert not self.busy
        self.busy, self._action = True, action
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, daemon=True)
            self._thread.start()
        self.resume()

    def resume(self) -> None:
        """Go on with the action; as `run`."""
        self._go.release()
        self._back.acquire()
        error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def waits(self) -> bool:
        """Whether it stands still for something that others bring about."""
        return self._until is not None

    def may_go_on(self) -> bool:
        """Whether what it waits for is there."""
        return self._until is None or self._until()

    def halt(self, until: Callable[[], bool] | None = None) -> None:
        """Stand still; called in the strand itself."""
        self._until = until
        self._back.release()
        self._go.acquire()
        self._until = None

    def end(self) -> None:
        """End the thread; its action is over."""
        assert not self.busy
        if self._thread is not None:
            self._action = None
            self._go.release()
            self._thread.join()
            self._thread = None

    def _loop(self) -> None:
        _local.strand = self
        while True:
            self._go.acquire()
            if self._action is None:
                return
            try:
                self._action()
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                self._error = error
            self.busy = False
            self._back.release()


class HeldLock:
    """A re-entrant lock that says whether it is held: no strand halts with it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.depth = 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        self._lock.release()
