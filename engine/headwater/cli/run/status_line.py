"""How a worker is doing, in one line: live in a terminal, a log line now and then elsewhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from headwater.flow.size_text import size_text
from headwater.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console

    from headwater.flow.status import WorkerStatus

__all__ = [
    "LiveLine",
    "LoggedLine",
    "StatusLine",
    "Summary",
    "Throughput",
    "duration_text",
    "summarise",
]

_log = get_logger(__name__)

_LIVE_EVERY_S = 1.0
_LOG_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Summary:
    """A worker's status in a few numbers; None is what nobody knows yet."""

    tasks: dict[str, int]  # by kind
    replaying: int
    events_per_s: float | None
    lag: int | None  # records of the sources that are not taken in
    freshness_ms: int | None  # of the stalest shard
    dead_letters: int
    state_bytes: int

    def text(self) -> str:
        """Return the line that people read."""
        tasks = " ".join(f"{count} {kind}" for kind, count in self.tasks.items()) or "no tasks"
        parts = [
            f"{tasks} ({self.replaying} replaying)" if self.replaying else tasks,
            "– events/s" if self.events_per_s is None else f"{self.events_per_s:,.0f} events/s",
            "lag –" if self.lag is None else f"lag {self.lag:,}",
            f"freshness {duration_text(self.freshness_ms)}",
            f"{self.dead_letters:,} dead letters",
            f"state {size_text(self.state_bytes)}",
        ]
        return " · ".join(parts)


class Throughput:
    """Events per second from one status to the next, of the tasks that are in both."""

    def __init__(self) -> None:
        """Start without a status."""
        self._before: tuple[float, dict[tuple[str, int], int]] | None = None

    def measure(self, status: WorkerStatus, now_s: float) -> float | None:
        """Return the rate since the last call; None the first time."""
        offsets = {
            (task.topic, task.partition): task.next_offset
            for task in status.tasks
            if task.kind == "ingest"
        }
        before, self._before = self._before, (now_s, offsets)
        if before is None or now_s <= before[0]:
            return None
        # Below its last offset a task was given away and came back: no event of this stretch.
        gained = sum(max(0, at - before[1].get(task, at)) for task, at in offsets.items())
        return gained / (now_s - before[0])


def summarise(status: WorkerStatus, events_per_s: float | None) -> Summary:
    """Return a status in a few numbers."""
    counts = Counter(task.kind for task in status.tasks)
    lags = [task.lag for task in status.tasks if task.kind == "ingest"]
    ages = [task.freshness_ms for task in status.tasks if task.kind == "shard"]
    known_lags = [lag for lag in lags if lag is not None]
    known_ages = [age for age in ages if age is not None]
    return Summary(
        tasks={kind: counts[kind] for kind in ("ingest", "shard", "archive") if counts[kind]},
        replaying=sum(task.state == "replaying" for task in status.tasks),
        events_per_s=events_per_s,
        lag=sum(known_lags) if len(known_lags) == len(lags) else None,
        # One that nobody knows may be older than all the others.
        freshness_ms=max(known_ages, default=None) if len(known_ages) == len(ages) else None,
        dead_letters=status.dead_letters,
        state_bytes=status.state_bytes,
    )


class StatusLine(Protocol):
    """Where a worker's status is shown, as a context manager; `show` is called again and again."""

    def show(self, status: Callable[[], WorkerStatus]) -> None:
        """Ask for the status and show it, if it is time."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """End."""


class LoggedLine:
    """The status as a log line every half a minute, where there is no terminal."""

    def __init__(self, clock: Callable[[], float], *, every_s: float = _LOG_EVERY_S) -> None:
        self._clock = clock
        self._every_s = every_s
        self._next_s = clock() + every_s
        self._throughput = Throughput()

    def show(self, status: Callable[[], WorkerStatus]) -> None:
        """Log the status, if it is time."""
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._every_s
        found = status()
        summary = summarise(found, self._throughput.measure(found, now_s))
        rate = summary.events_per_s
        told = {
            **{f"{kind}_tasks": count for kind, count in summary.tasks.items()},
            "replaying": summary.replaying,
            "events_per_s": None if rate is None else round(rate),
            "lag": summary.lag,
            "freshness_ms": summary.freshness_ms,
            "dead_letters": summary.dead_letters,
            "state_bytes": summary.state_bytes,
        }
        _log.info("status", **{name: value for name, value in told.items() if value is not None})

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Do nothing."""


class LiveLine:
    """The status as the last line of a terminal, under the log lines, renewed every second."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        from rich.live import Live

        self._clock = clock
        self._next_s = clock()
        self._throughput = Throughput()
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def show(self, status: Callable[[], WorkerStatus]) -> None:
        """Renew the line, if it is time."""
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _LIVE_EVERY_S
        from rich.text import Text

        found = status()
        text = summarise(found, self._throughput.measure(found, now_s)).text()
        line = Text.assemble((found.worker, "bold"), "  ", text, no_wrap=True, overflow="ellipsis")
        self._live.update(line, refresh=True)

    def __enter__(self) -> Self:
        """Take the last line."""
        self._live.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Give it back."""
        self._live.stop()


def duration_text(ms: int | None) -> str:
    """Return a duration for people; "–" for None."""
    if ms is None:
        return "–"
    return f"{ms} ms" if ms < 1_000 else f"{ms / 1_000:,.1f} s"
