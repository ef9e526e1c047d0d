"""Progress: how much of history has been read, as a bar on a terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headwater.offline.sources import EventSource
    from headwater.plan.plan import ServicePlan

__all__ = ["events_of", "progress_bar"]


def events_of(service: ServicePlan, source: EventSource) -> int:
    """Return about how many events a training set of a service reads."""
    return sum(source.rows(view.stream) for view in service.views)


@contextmanager
def progress_bar(what: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, where one was asked for and that is a terminal."""
    console = Console(stderr=True)
    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn())
    hidden = not (shown and console.is_terminal)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda events: bar.advance(task, events)
