"""Output of commands: results on stdout, logs on stderr, quiet unless something is wrong."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["progress_bars", "write_json", "write_text"]


def write_text(text: str) -> None:
    """Write lines to stdout."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def write_json(found: object) -> None:
    """Write one JSON document, on one line, to stdout."""
    write_text(json.dumps(found))


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
