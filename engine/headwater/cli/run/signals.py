"""The signals that ask for an end, kept until the loop looks at them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

__all__ = ["INTERRUPTED", "Signals"]

INTERRUPTED = 130  # 128 and the signal's number, as shells do


class Signals:
    """Collects SIGINT and SIGTERM while it is entered, in the main thread.

    A handler runs between any two instructions of the main thread, so it takes no lock and wakes
    nothing: who waits looks again after a short sleep.
    """

    def __init__(self) -> None:
        self.got: list[int] = []
        self._before: dict[int, Any] = {}

    @property
    def code(self) -> int:
        """What to end with: 130 after Ctrl-C, else 0."""
        return INTERRUPTED if signal.SIGINT in self.got else 0

    def __enter__(self) -> Self:
        """Take over both signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._keep)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _keep(self, number: int, _frame: FrameType | None) -> None:
        self.got.append(number)
