"""The sample log: a few of the vectors that are served, written down for audits.

Which requests are taken is a matter of chance (a Poisson process), and at most so many a second on
average. A thread writes files; while it can't, samples are dropped and counted, and answers go on.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headwater.definitions.duration import DAY_US, HOUR_US
from headwater.errors import ConfigError
from headwater.flow.samples import Sample
from headwater.logs import get_logger
from headwater_connectors.archive.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import polars as pl

    from headwater.config import AuditConfig
    from headwater.flow.answer import Answer
    from headwater.flow.metrics import Metrics
    from headwater.flow.provenance import ShardProvenance
    from headwater.flow.sample_files import SampleFiles
    from headwater.flow.samples import Origin

__all__ = ["SampleLog", "SampleSettings"]

_log = get_logger(__name__)

_SWEEP_US = HOUR_US
_STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """How many requests are sampled, 0 for none, and how much of them is kept for how long.

    A file is written when it has `file_rows` vectors or its first one is `file_every_s` old.
    """

    per_s: float = 0.0
    request_rows: int = 100
    queue_requests: int = 256
    file_rows: int = 10_000
    file_every_s: float = 10.0
    keep_us: int = 7 * DAY_US

    @classmethod
    def of(cls, given: AuditConfig) -> SampleSettings:
        """Return what the configuration says."""
        return cls(per_s=given.samples_per_s, keep_us=given.keep_days * DAY_US)


class SampleLog:
    """Takes samples from any thread, and writes them in one of its own.

    `clock` gives µs UTC, `timer` seconds that never go back; `seed` says which requests are taken.
    """

    def __init__(
        self,
        files: SampleFiles,
        settings: SampleSettings,
        metrics: Metrics,
        *,
        worker: str,
        clock: Callable[[], int],
        seed: int,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        if not settings.per_s > 0:
            msg = f"samples_per_s is {settings.per_s}; it must be above 0 where samples are kept"
            raise ConfigError(msg)
        self._files = files
        self._settings = settings
        self._outcomes = metrics.samples
        self._worker = worker
        self._clock = clock
        self._timer = timer
        self._random = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._due_s = timer() + self._pause_s()
        self._swept_us: int | None = None
        self._queue: queue.Queue[Sample | None] = queue.Queue(settings.queue_requests)
        self._thread = threading.Thread(target=self._write_all, name="headwater-samples")
        # What doesn't answer in time must not keep the process from ending.
        self._thread.daemon = True
        self._thread.start()

    def _pause_s(self) -> float:
        return float(self._random.exponential(1 / self._settings.per_s))

    def is_due(self) -> bool:
        """Tell whether to take the request that is answered now; of many callers one is told so."""
        now_s = self._timer()
        if now_s < self._due_s:  # the only cost of nearly every request
            return False
        with self._lock:
            if now_s < self._due_s:
                return False
            self._due_s = now_s + self._pause_s()
            return True

    def put(
        self,
        inputs: pl.DataFrame,
        answer: Answer,
        origin: Origin,
        made_of: Mapping[int, ShardProvenance],
    ) -> None:
        """Have an answer written; of a large one some rows. Never waits: it may be dropped."""
        sample = Sample.of(origin, inputs, answer, made_of, served_us=self._clock())
        limit = self._settings.request_rows
        if sample.asked.rows > limit:
            with self._lock:
                rows = self._random.choice(sample.asked.rows, limit, replace=False)
            sample = sample.take(np.sort(rows))
        try:
            self._queue.put_nowait(sample)
        except queue.Full:
            self._outcomes.labels("dropped").inc(sample.asked.rows)

    def close(self) -> None:
        """Write what was taken, for as long as that may last."""
        try:
            self._queue.put(None, timeout=_STOP_S)
        except queue.Full:
            _log.warning("samples_not_written", reason="the store takes none")
            return
        self._thread.join(_STOP_S)

    def _write_all(self) -> None:
        for samples in self._gathered():
            rows = sum(one.asked.rows for one in samples)
            try:
                self._files.write(self._worker, samples)
            except ArchiveError as error:
                self._outcomes.labels("failed").inc(rows)
                _log.warning("samples_not_written", rows=rows, reason=str(error))
            else:
                self._outcomes.labels("logged").inc(rows)
            self._sweep(self._clock())

    def _gathered(self) -> Iterator[list[Sample]]:
        """Yield the samples of one file after the other, until told to stop."""
        gathered: list[Sample] = []
        rows, until_s = 0, 0.0
        while True:
            try:
                timeout_s = max(0.0, until_s - self._timer()) if gathered else None
                sample = self._queue.get(timeout=timeout_s)
            except queue.Empty:
                sample = None
            else:
                if sample is None:
                    break
            if sample is not None:
                if not gathered:
                    until_s = self._timer() + self._settings.file_every_s
                gathered.append(sample)
                rows += sample.asked.rows
            if gathered and (rows >= self._settings.file_rows or self._timer() >= until_s):
                yield gathered
                gathered, rows = [], 0
        if gathered:
            yield gathered

    def _sweep(self, now_us: int) -> None:
        """Now and then delete what is old, of any worker: some never come back."""
        if self._swept_us is not None and abs(now_us - self._swept_us) < _SWEEP_US:
            return
        self._swept_us = now_us
        try:
            self._files.sweep(now_us - self._settings.keep_us)
        except ArchiveError as error:
            _log.warning("samples_not_swept", reason=str(error))
