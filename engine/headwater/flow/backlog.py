"""The backlog: rows that this process sent to the exchange and has not applied yet."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Gauge

__all__ = ["Backlog"]


class Backlog:
    """Counts rows on their way, so that ingest waits where one process does both ends."""

    def __init__(self, rows_max: int, gauge: Gauge) -> None:
        self._rows_max = rows_max
        self._gauge = gauge
        self._rows = 0
        self._lock = threading.Lock()

    def published(self, rows: int) -> None:
        """Note rows that were sent."""
        self._change(rows)

    def applied(self, rows: int) -> None:
        """Note rows that were applied; those from before a restart were never counted as sent."""
        self._change(-rows)

    def forget(self) -> None:
        """Note that the exchange has no more: what the broker lost never comes."""
        self._change(-self._rows)

    def is_full(self) -> bool:
        """Whether ingest should wait."""
        return self._rows > self._rows_max

    def _change(self, rows: int) -> None:
        with self._lock:
            self._rows = max(0, self._rows + rows)
            self._gauge.set(self._rows)
