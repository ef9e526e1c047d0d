"""Child processes of the demo: their output goes to a file, and none outlives its parent."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["start_tied"]

# Exits with the thread that started it, however that one ends; survives the exec of another.
_TIED = (
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


def start_tied(
    command: Sequence[str],
    output: Path,
    *,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program, named by its path, that ends with this thread at the latest.

    What it writes is appended to `output`. On Linux even a parent that is killed takes it along;
    elsewhere it must be stopped.
    """
    with output.open("ab") as file:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-c", _TIED, *command],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
