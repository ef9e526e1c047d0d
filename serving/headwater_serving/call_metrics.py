"""Metrics of calls: how many, how long, and what became of the values that were asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

from headwater.flow.answer import Status

if TYPE_CHECKING:
    from headwater.flow.answer import Answer

__all__ = ["CallMetrics"]

# From a look-up in this process to a call that waits for other workers.
_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5)


class CallMetrics:
    """Counters and durations by call; labels are names in our own contract, never a caller's."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self.requests = Counter(
            "headwater_requests", "Calls by how they ended", ["call", "code"], registry=registry
        )
        self.seconds = Histogram(
            "headwater_request_duration_seconds", "Time to answer a call", ["call"],
            buckets=_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.values = Counter(
            "headwater_served_values", "Feature values by status", ["status"], registry=registry
        )
        self._by_status = {status: self.values.labels(status.name) for status in Status}

    def answered(self, answer: Answer) -> None:
        """Count the values of an answer by their status."""
        counts = np.bincount(answer.statuses.reshape(-1), minlength=len(Status) + 1).tolist()
        for status, counter in self._by_status.items():
            if counts[status]:
                counter.inc(counts[status])
