"""A worker that stops lets go of all its sources at once, and tells the first error."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from headwater.cluster_worker import ClusterWorker
from headwater.errors import StateError
from headwater.flow.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

# Long enough for any machine: who waits this long waits for ever.
PATIENCE_S = 20.0


class Stopped:
    """A worker without a broker that runs sources which end as the test says."""

    def __init__(self, *closes: Callable[[], object]) -> None:
        self.did: list[str] = []
        config = SimpleNamespace(worker=SimpleNamespace(id_of=lambda _: "a"))
        log = SimpleNamespace(waited_at=None)
        self.worker = worker = ClusterWorker(
            None,
            log,
            config,
            driver=lambda *_: None,  # type: ignore[arg-type]
        )
        worker._server = SimpleNamespace(
            set_serving=lambda *, serving: self.did.append(f"serving {serving}"),
            stop=lambda: self.did.append("server stopped"),
        )
        worker._worker = SimpleNamespace(
            close=lambda: self.did.append("worker closed"),
            abandon=lambda: self.did.append("worker abandoned"),
            reader=SimpleNamespace(close=lambda: None),
        )
        worker._peers = SimpleNamespace(close=lambda: None)
        for number, close in enumerate(closes):
            source = SimpleNamespace(close=close)
            worker._running.start(Pipeline(f"p{number}", source, ()))  # type: ignore[arg-type]


def test_a_source_may_wait_until_the_others_let_go_too() -> None:
    together = threading.Barrier(3, timeout=PATIENCE_S)
    stopped = Stopped(together.wait, together.wait, together.wait)
    stopped.worker.stop()
    assert stopped.did == ["serving False", "worker closed", "server stopped"]


def test_the_first_error_is_raised_when_every_source_has_ended() -> None:
    ended = threading.Event()
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise StateError("the disk is full")

    def end_late() -> None:
        assert failed.wait(PATIENCE_S)
        ended.set()

    def fail_late() -> None:
        assert ended.wait(PATIENCE_S)
        raise StateError("another")

    stopped = Stopped(fail, fail_late, end_late)
    with pytest.raises(StateError, match="the disk is full"):
        stopped.worker.stop()
    assert ended.is_set()
    assert stopped.did == ["serving False", "server stopped"]
