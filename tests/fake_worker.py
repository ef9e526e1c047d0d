"""A worker that is none, for tests of what starts, watches and ends one."""

from __future__ import annotations

import threading

from headwater.flow.metrics import Metrics
from headwater.flow.status import WorkerStatus

__all__ = ["PATIENCE_S", "FakeWorker"]

PATIENCE_S = 60


class FakeWorker:
    """A worker that notes what is asked of it, and does what a test says."""

    target = "127.0.0.1:6566"

    def __init__(self, *_arguments: object) -> None:
        self.arguments = _arguments
        self.calls: list[str] = []
        self.error: Exception | None = None
        self.start_error: Exception | None = None
        self.stop_error: Exception | None = None
        self.may_start = threading.Event()
        self.may_start.set()
        self.may_stop = threading.Event()
        self.may_stop.set()
        self.on_check = lambda: None

    def start(self) -> None:
        self.calls.append("start")
        assert self.may_start.wait(PATIENCE_S)
        if self.start_error is not None:
            raise self.start_error
        self.metrics = Metrics()
        self.calls.append("started")

    def check(self) -> None:
        self.on_check()
        if self.error is not None:
            raise self.error

    def heartbeat_age_s(self) -> float:
        return 1.5

    def is_ready(self) -> bool:
        return True

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            worker="w",
            target=self.target,
            namespace="n",
            started_us=0,
            tasks=(),
            state_bytes=0,
            backlog_rows=0,
            dead_letters=0,
        )

    def stop(self) -> None:
        self.calls.append("stop")
        assert self.may_stop.wait(PATIENCE_S)
        if self.stop_error is not None:
            raise self.stop_error
        self.calls.append("stopped")
