"""One worker in this process: from its start, through its health, to an end within bounds."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Gauge, Info, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector

import headwater
from headwater.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from typing import NoReturn

    from prometheus_client import Metric

    from headwater.cli.run.signals import Signals
    from headwater.cli.run.status_line import StatusLine
    from headwater.flow.metrics import Metrics
    from headwater.flow.status import WorkerStatus

__all__ = ["Lifecycle", "Limits", "Timing", "Worker", "registry_of", "work"]

_log = get_logger(__name__)

_LOOK_S = 0.1
_LAST_RESORT_S = 2.0


class Worker(Protocol):
    """The worker that is run; `headwater.cluster_worker.ClusterWorker` is the real one."""

    metrics: Metrics  # once it has started
    target: str

    def start(self) -> None:
        """Join the groups and serve; may take long. After an error there is nothing to stop."""

    def check(self) -> None:
        """Raise what stopped a task."""

    def heartbeat_age_s(self) -> float:
        """Return how long ago the slowest of its loops went round."""
        ...

    def is_ready(self) -> bool:
        """Tell whether it has its tasks and its shards are fresh."""
        ...

    def status(self) -> WorkerStatus:
        """Say what it does."""
        ...

    def stop(self) -> None:
        """Hand over and end."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take."""

    stop_s: float = 20.0
    start_s: float = 300.0  # before a start counts as a loop that stands still


class Lifecycle:
    """A worker's health while it starts, runs and stops, for the monitoring endpoint."""

    def __init__(self, worker: Worker, limits: Limits, *, clock: Callable[[], float]) -> None:
        self._worker = worker
        self._limits = limits
        self._clock = clock
        self._began_s = clock()
        self.has_started = False
        self.is_stopping = False

    def check(self) -> None:
        """Raise what stopped a task."""
        if self.has_started and not self.is_stopping:
            self._worker.check()

    def heartbeat_age_s(self) -> float:
        """Return how long a loop has stood still; the start is one that may take its time."""
        if self.is_stopping:
            # That has a limit of its own, and may well be the end of the loops.
            return 0.0
        if self.has_started:
            return self._worker.heartbeat_age_s()
        return max(0.0, self._clock() - self._began_s - self._limits.start_s)

    def is_ready(self) -> bool:
        """Tell whether it takes calls."""
        return self.has_started and not self.is_stopping and self._worker.is_ready()


class _OfWorker(Collector):
    """A worker's metrics as soon as it has some: it makes them when it starts."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterable[Metric]:
        metrics = getattr(self._worker, "metrics", None)
        return () if metrics is None else metrics.registry.collect()


def registry_of(
    worker: Worker, lifecycle: Lifecycle, *, max_staleness_s: float
) -> CollectorRegistry:
    """Return a worker's metrics together with its health, the process's own and the build's.

    `max_staleness_s` is what freshness is to be compared with.
    """
    registry = CollectorRegistry()
    registry.register(_OfWorker(worker))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    build = Info("headwater_build", "The version that runs", registry=registry)
    build.info({"version": headwater.__version__})
    Gauge(
        "headwater_heartbeat_age_seconds", "Since the slowest loop last went round",
        registry=registry,
    ).set_function(lifecycle.heartbeat_age_s)  # fmt: skip
    Gauge(
        "headwater_ready", "1 while it has its tasks and its shards are fresh", registry=registry
    ).set_function(lifecycle.is_ready)
    Gauge(
        "headwater_max_staleness_seconds", "How old an answer may be before it says so",
        registry=registry,
    ).set(max_staleness_s)  # fmt: skip
    return registry


def _die(code: int) -> NoReturn:
    """End this process now, whatever its threads are doing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def _last_resort(limit_s: float) -> Iterator[None]:
    """End this process with code 1 if what is inside takes longer, even without the interpreter.

    A call of a library that holds the interpreter and never returns would stop the clock below as
    well: librdkafka has been seen to wait like that in `incremental_unassign`, within a close.
    """
    # What the process began with: by now another may stand in for it, without a file.
    assert sys.__stderr__ is not None
    faulthandler.dump_traceback_later(limit_s, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@dataclass(frozen=True, slots=True)
class Timing:
    """What tests replace: the clock (seconds), waiting, and the end of the process."""

    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep
    kill: Callable[[int], NoReturn] = _die
    last_resort: Callable[[float], AbstractContextManager[None]] = _last_resort


_REAL = Timing()


def work(
    worker: Worker,
    lifecycle: Lifecycle,
    signals: Signals,
    line: StatusLine,
    limits: Limits,
    *,
    release: Callable[[], None] = lambda: None,
    timing: Timing = _REAL,
) -> int:
    """Start a worker, watch it until a signal or a failure, stop it; return the exit code.

    `release` gives up what the worker was made with, after it has stopped. Raises what made it
    fail, once that is done. From the signal or the failure on both have `limits.stop_s`, then the
    process is killed with code 1; a second signal kills it at once.
    """
    error: BaseException | None = None
    # In threads of their own, so that this one goes on hearing signals.
    start = _Call(worker.start, "headwater-start")
    try:
        while not signals.got:
            if lifecycle.has_started:
                worker.check()
                line.show(worker.status)
            elif start.has_returned():
                lifecycle.has_started = True
                _log.info("worker_runs", target=worker.target)
            timing.wait(_LOOK_S)
    except Exception as caught:  # noqa: BLE001 - raised again below, when the worker has stopped
        # Whoever called us tells it, once.
        error = caught
    if lifecycle.has_started:
        # Said now too: should stopping hang, nobody would tell it afterwards.
        why = {"why": " ".join(str(error).split())} if error else {}
        _log.info("worker_stops", limit_s=limits.stop_s, **why)
    lifecycle.is_stopping = True
    stop = _Call(partial(_stop, worker, start, release), "headwater-stop")
    with timing.last_resort(limits.stop_s + _LAST_RESORT_S):
        _wait_for(stop, signals, limits, timing)
    for later in (start.error, stop.error):
        if error is None:
            error = later
        elif later is not None and later is not error:
            # The first failure is the one to tell.
            _log.warning("worker_stops_badly", why=str(later))
    if error is not None:
        raise error
    _log.info("worker_stopped")
    return signals.code


def _wait_for(stop: _Call, signals: Signals, limits: Limits, timing: Timing) -> None:
    """Return when the worker has stopped; kill the process when that takes too long."""
    heard = max(1, len(signals.got))
    until_s = timing.clock() + limits.stop_s
    while not stop.has_ended():
        if len(signals.got) > heard:
            timing.kill(signals.code or 1)
        if timing.clock() >= until_s:
            sys.stderr.write(
                f"headwater: error: the worker has not stopped within {limits.stop_s:g} s; it is"
                " killed, and its tasks are replayed from their last checkpoints\n"
            )
            timing.kill(1)
        timing.wait(_LOOK_S)


def _stop(worker: Worker, start: _Call, release: Callable[[], None]) -> None:
    """Stop a worker that has started, or as soon as it has, and release what it had."""
    start.join()
    try:
        if start.error is None:
            worker.stop()
    finally:
        release()


class _Call:
    """A call in a thread of its own; what it raises is kept."""

    def __init__(self, call: Callable[[], object], name: str) -> None:
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def has_ended(self) -> bool:
        """Tell whether it has returned or raised."""
        return not self._thread.is_alive()

    def has_returned(self) -> bool:
        """Tell whether it has returned; raise what it raised."""
        if self.has_ended() and self.error is not None:
            raise self.error
        return self.has_ended()

    def join(self) -> None:
        """Wait until it has."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - raised by whoever started the call
            self.error = error
