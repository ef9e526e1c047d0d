"""The command line: `headwater plan | serve | run | status | dlq | training-set | demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import App

    app: App

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command with `arguments` (default: the process's own); return its exit code."""
    from headwater.cli.root import run

    return run(arguments)


def __getattr__(name: str) -> object:
    """Build the application when it is asked for."""
    if name != "app":
        msg = f"module 'headwater.cli' has no attribute {name!r}"
        raise AttributeError(msg)
    from headwater.cli.root import application

    globals()[name] = found = application()
    return found
