"""When a static member of a group is fenced: by a join of its own, or by another with its id.

Kafka fences a member when one of its id joins. A broker that died or stood still may take up a
join that the member itself had given up on; librdkafka then breaks off for good, and joining anew
heals that. Somebody else with the same id fences us again and again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Fence"]

_REJOINS_MAX = 3
_WITHIN_S = 60.0


class Fence:
    """Whether this member is fenced, and whether it may join anew; `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin as a member in good standing."""
        self.is_up = False
        self._clock = clock
        self._rejoined_at: list[float] = []

    def notes(self, error: KafkaError) -> bool:
        """Note it if an error says that we are fenced; tell whether it does."""
        code, text = error.code(), error.str()
        is_fenced = code == KafkaError.FENCED_INSTANCE_ID
        if code == KafkaError._FATAL:  # noqa: SLF001 - public there
            # A commit is told no reason; a poll is: there are a few others, of settings.
            is_fenced = "fenced" in text or "Fatal error:" not in text
        self.is_up |= is_fenced
        return is_fenced

    def take_down(self) -> bool:
        """Begin anew; return False if we were fenced so often that somebody else has our id."""
        now = self._clock()
        self._rejoined_at = [at for at in self._rejoined_at if now - at < _WITHIN_S]
        if len(self._rejoined_at) >= _REJOINS_MAX:
            return False
        self._rejoined_at.append(now)
        self.is_up = False
        return True
