"""Output of commands: results on stdout, logs on stderr, quiet unless something is wrong."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from headwater.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.progress import Progress

__all__ = [
    "is_agreed",
    "progress_bars",
    "table_console",
    "when_text",
    "write_json",
    "write_table",
    "write_text",
]

# As wide as it must be where there is no terminal, so that nothing is cut off in a file.
_FILE_COLUMNS = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def write_text(text: str) -> None:
    """Write lines to stdout."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def write_json(found: object) -> None:
    """Write one JSON document, on one line, to stdout."""
    write_text(json.dumps(found))


def table_console() -> Console:
    """Return a console on stdout for tables, as wide as the terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_FILE_COLUMNS)


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table to stdout."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*map(escape, row))
    table_console().print(table)


def when_text(us: int | None, by: str | None) -> str:
    """Return a moment in µs UTC and who it was, empty where it never came."""
    if us is None:
        return ""
    return f"{_EPOCH + timedelta(microseconds=us):%Y-%m-%d %H:%M}Z {by or ''}".rstrip()


def is_agreed() -> bool:
    """Ask on the terminal whether to go on; raise ConfigError where there is none."""
    if not sys.stdin.isatty():
        msg = "nobody can be asked here; run it again with --yes"
        raise ConfigError(msg)
    sys.stdout.write("do it? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def progress_bars() -> Progress:
    """Return progress bars on stderr; nothing is shown where that isn't a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
