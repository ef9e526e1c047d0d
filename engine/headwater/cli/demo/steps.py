"""Steps of the demo on the terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

__all__ = ["bar", "step"]


@contextmanager
def step(progress: Progress, what: str) -> Iterator[None]:
    """Show a step of unknown length."""
    task = progress.add_task(what, total=None)
    yield
    progress.update(task, total=1, completed=1)


@contextmanager
def bar(progress: Progress, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a step of known length; the function given takes how much is done."""
    task = progress.add_task(what, total=total)
    yield lambda done: progress.update(task, completed=done)
    progress.update(task, completed=total)
