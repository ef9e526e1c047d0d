"""The executors of a worker: each one's thread is a strand, or whoever waits for the job."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation.fuse import Fuse

__all__ = ["Later"]


class _Job(Future[Any]):
    """Work that is done when the scheduler says so, or at the latest when someone waits for it."""

    def __init__(self, work: Callable[[], Any], fuse: Fuse) -> None:
        super().__init__()
        self._work = work
        self._fuse = fuse
        self.begun = False

    def run(self) -> None:
        if self.begun:
            return
        self.begun = True
        try:
            found = self._work()
        except BaseException as error:  # noqa: BLE001 - kept for whoever waits, as a thread's
            self.set_exception(error)
        else:
            self.set_result(found)

    def result(self, timeout: float | None = None) -> Any:
        self.run()
        self._fuse.wait(self.done)
        return super().result(timeout)


class Later:
    """An Executor without threads."""

    def __init__(self, fuse: Fuse) -> None:
        self._jobs: list[_Job] = []
        self._fuse = fuse

    def submit(self, function: Callable[..., Any], *arguments: Any) -> _Job:
        self._jobs = [job for job in self._jobs if not job.done()]
        self._jobs.append(_Job(lambda: function(*arguments), self._fuse))
        return self._jobs[-1]

    def has_work(self) -> bool:
        return any(not job.begun for job in self._jobs)

    def run(self) -> None:
        for job in self._jobs:
            job.run()

    def shutdown(self, *, wait: bool = True, cancel_futures: bool = False) -> None:
        if cancel_futures:
            self._jobs = [job for job in self._jobs if job.begun]
        if not wait:
            return
        self.run()
        for job in self._jobs:
            self._fuse.wait(job.done)
