"""The environment of a peer whose pins don't go with ours: `.venv-quix`, made once.

Quix Streams holds confluent-kafka below 2.13 and pydantic below what we are locked to: in one
environment it would choose versions for us.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["QUIX", "NoEnvironmentError", "peer_python"]

QUIX = "quixstreams==3.28.1"

_FOLDER = Path(__file__).parents[1] / ".venv-quix"
_INSTALL_S = 300


class NoEnvironmentError(Exception):
    """The peer can't be installed here; the message says why."""


def peer_python() -> str:
    """Return the peer's interpreter; make its environment first if it isn't there."""
    python, done = _FOLDER / "bin" / "python", _FOLDER / ".installed"
    if done.exists() and done.read_text(encoding="utf-8") == QUIX:
        return str(python)
    sys.stderr.write(f"installing {QUIX} into {_FOLDER.name}, once\n")
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", QUIX]
    commands = ([sys.executable, "-m", "venv", "--clear", str(_FOLDER)], [str(python), *pip])
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
        except subprocess.CalledProcessError as error:
            told = " ".join((error.stderr or error.stdout or "").split())[-300:]
            raise NoEnvironmentError(f"{QUIX} can't be installed here: {told}") from error
        except subprocess.TimeoutExpired as error:
            raise NoEnvironmentError(f"{QUIX} was not installed in {_INSTALL_S} s") from error
    done.write_text(QUIX, encoding="utf-8")
    return str(python)
