"""Pipelines at work: each in a thread of its own, from when it is started until it ends."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from headwater.flow.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from headwater.flow.pipeline import Batches, Pipeline, Source

__all__ = ["PipelineThreads"]


class PipelineThreads:
    """Drives pipelines until they are ended; what one of them raises goes to `fail`.

    A commit waits while its group is made anew, and that waits for every other member: two members
    in one thread would wait for each other. `waited_at` returns when a thread last waited for the
    log, by the monotonic clock.
    """

    def __init__(
        self,
        driver: Callable[[Sequence[Any], threading.Event], None],
        *,
        fail: Callable[[BaseException], None],
        waited_at: Callable[[int], float],
    ) -> None:
        self._driver = driver
        self._fail = fail
        self._waited_at = waited_at
        self._turns = Turns()
        self._running: dict[str, _Running] = {}

    @property
    def names(self) -> set[str]:
        """The pipelines that were started and not ended."""
        return set(self._running)

    def start(self, pipeline: Pipeline) -> None:
        """Run a pipeline from now on."""
        running = self._running[pipeline.name] = _Running(pipeline)
        running.thread = threading.Thread(
            target=self._drive, args=(running,), name=f"headwater-{pipeline.name}", daemon=True
        )
        running.thread.start()

    def end(self, names: Iterable[str]) -> None:
        """End pipelines: each gives up what it has, as if it were revoked."""
        ending = [self._running.pop(name) for name in names]
        for one in ending:
            one.stop.set()
        for one in ending:
            one.join()
        _close_all([one.pipeline.source for one in ending])

    def stop(self) -> None:
        """Let every pipeline stand still, and hold what it has."""
        for one in list(self._running.values()):
            one.stop.set()

    def join(self) -> None:
        """Wait until all stand still."""
        for one in list(self._running.values()):
            one.join()

    def close(self) -> None:
        """Let all that stand still give up what they have; raise the first error of theirs."""
        _close_all([one.pipeline.source for one in self._running.values()])

    def heartbeat_age_s(self) -> float:
        """Return how long the slowest has stood still; waiting for a broker isn't that."""
        now = time.monotonic()
        beats = [
            max(one.polled_at, self._waited_at(one.ident))
            for one in list(self._running.values())
            if one.polled_at
        ]
        return max((now - at for at in beats), default=0.0)

    def _drive(self, running: _Running) -> None:
        running.beat()
        pipeline = running.pipeline
        watched = replace(
            pipeline,
            source=_Watched(pipeline.source, running.beat),
            stages=(self._turns.of(pipeline.stages),),
        )
        try:
            self._driver([watched], running.stop)
        except BaseException as error:  # noqa: BLE001 - kept, and raised by the next check
            self._fail(error)
        finally:
            running.polled_at = 0.0


@dataclass(slots=True)
class _Running:
    """A pipeline in its thread, and when that last polled; 0 while it doesn't."""

    pipeline: Pipeline
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    ident: int = 0
    polled_at: float = 0.0

    def beat(self) -> None:
        self.ident = threading.get_ident()
        self.polled_at = time.monotonic()

    def join(self) -> None:
        if self.thread is not None:
            self.thread.join()


class _Watched:
    """A source that notes when it was last polled."""

    def __init__(self, source: Source, beat: Callable[[], None]) -> None:
        self._source = source
        self._beat = beat

    def poll(self) -> Batches:
        self._beat()
        return self._source.poll()

    def close(self) -> None:
        self._source.close()


def _close_all(sources: Sequence[Source]) -> None:
    """Close sources at the same time, as they ran; raise the first error once all have ended.

    A member that leaves may have to wait until its group is made anew, and that waits for every
    other member.
    """
    with ThreadPoolExecutor(max(1, len(sources)), thread_name_prefix="headwater-close") as pool:
        closing = [pool.submit(source.close) for source in sources]
    for each in closing:
        each.result()
