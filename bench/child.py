"""A contestant in a process of its own, which talks in lines of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Child", "ContestantError"]

_ROOT = Path(__file__).parents[1]
_STOP_S = 30.0
_TOLD_CHARS = 2_000


class ContestantError(Exception):
    """A contestant ended without its result; the message says how, and its last words."""


class Child:
    """A Python module that runs beside us and talks in lines of JSON.

    Its standard error goes to a file in `folder`, for the error message should it fail.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], folder: Path, *, python: str = sys.executable
    ) -> None:
        self._module = module
        self._log = folder / f"{module}.log"
        self._errors = self._log.open("wb")
        self._process = subprocess.Popen(
            [python, "-m", module, *arguments],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def read(self) -> dict[str, Any]:
        """Return its next line; raise ContestantError if it ends without one."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        code = self._process.wait(_STOP_S)
        told = self._log.read_text(encoding="utf-8", errors="replace")[-_TOLD_CHARS:].strip()
        raise ContestantError(f"{self._module} ended with {code} and said: {told or 'nothing'}")

    def ask(self, **what: object) -> None:
        """Write it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def wait(self) -> int:
        """Return its exit status, once it has ended by itself."""
        return self._process.wait(_STOP_S)

    def __enter__(self) -> Self:
        """Return the running child."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let it end, or end it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(_STOP_S)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdout.close()
            self._errors.close()
