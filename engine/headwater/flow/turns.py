"""Turns: pipelines of one process that work one after the other while there is little to do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from headwater.flow.pipeline import Tick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headwater.flow.pipeline import Batches, Stage

__all__ = ["Turns"]

_RECORDS_MAX = 4_096
_WAIT_S = 0.01


class Turns:
    """Who works now, of the threads that share an interpreter.

    A small batch goes through dozens of short calls, and each gives the interpreter away and waits
    to have it back: of three threads at once each took five times as long as alone. A large batch
    spends its time in calls that run side by side, so it waits for nobody and nobody for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def of(self, stages: Sequence[Stage]) -> Stage:
        """Return one stage that does what all of them do, in its turn."""

        def stage(batches: Batches) -> Batches:
            records = sum(len(batch) for batch in batches if not isinstance(batch, Tick))
            # Not for ever: who has the turn may be waiting for what only we can do, such as a
            # group that is made anew.
            has_turn = 0 < records <= _RECORDS_MAX and self._lock.acquire(timeout=_WAIT_S)
            try:
                for each in stages:
                    batches = each(batches)
            finally:
                if has_turn:
                    self._lock.release()
            return batches

        return stage
