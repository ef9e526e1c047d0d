"""Pipelines: a source and the stages its batches go through, whoever drives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from headwater.logs import get_logger
from headwater_connectors.log.log import LogUnreachableError

if TYPE_CHECKING:
    from headwater_connectors.log.log import Consumer, Records

__all__ = ["Batches", "LogSource", "Pipeline", "Source", "Stage", "Tick"]

_log = get_logger(__name__)

# Columnar batches: Records, frames, or a Tick. Never single events.
Batches = Sequence[Any]
Stage = Callable[[Batches], Batches]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passing: comes with every poll, so that stages need no clock of their own."""

    now_us: int
    idle: bool  # the source had nothing this time
    gathers_us: int = 0  # how long the source lets records gather before it looks again


class Source(Protocol):
    """Where batches come from."""

    def poll(self) -> Batches:
        """Return what is there now, without waiting; it ends with a Tick."""
        ...

    def close(self) -> None:
        """Let go of what the source holds."""
        ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A source and its stages; each stage takes and gives batches."""

    name: str
    source: Source
    stages: tuple[Stage, ...]


class LogSource:
    """Polls a consumer; while `paused` says so, it only lets time pass.

    After a poll that wasn't full the next one waits for `linger_us`, so that records gather: each
    batch costs the same, however small it is.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        records_max: int,
        clock: Callable[[], int],
        paused: Callable[[], bool] = lambda: False,
        linger_us: int = 0,
    ) -> None:
        self._consumer = consumer
        self._records_max = records_max
        self._clock = clock
        self._paused = paused
        self._linger_us = linger_us
        self._polled_us: int | None = None  # when a poll wasn't full
        self._unreachable = False

    def poll(self) -> Batches:
        """Return the records that are there, one batch per partition, and a Tick."""
        now_us = self._clock()
        gathers_us = self._gathers_us(now_us)
        waits = self._paused() or gathers_us > 0
        found: list[Records] = []
        if not waits:
            try:
                found = self._consumer.poll(self._records_max, 0.0)
                self._unreachable = False
                is_full = 2 * sum(map(len, found)) >= self._records_max
                self._polled_us = None if is_full else now_us
            except LogUnreachableError as error:
                if not self._unreachable:
                    _log.warning("log_unreachable", reason=str(error))
                waits = self._unreachable = True
        return [*found, Tick(self._clock(), idle=not found and not waits, gathers_us=gathers_us)]

    def _gathers_us(self, now_us: int) -> int:
        """How long to let records gather; a clock that jumps back doesn't prolong that."""
        if self._polled_us is None or now_us < self._polled_us:
            return 0
        return max(0, self._linger_us - (now_us - self._polled_us))

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()
