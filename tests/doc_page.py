"""A page of the documentation as what a reader does: the files it writes, the commands it runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["blocks_of", "commands_of", "file_of"]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """Return (language, text) of each block, in order."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def file_of(text: str) -> str | None:
    """Return the name of the file that a block of Python is to be, None where it has none."""
    named = _FILE.match(text)
    return named[1] if named else None


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """Return the commands of a console block, each with the beginnings of lines that it prints."""
    found = []
    for part in text.removeprefix("$ ").replace("\\\n", "").split("\n$ "):
        command, *lines = part.strip().split("\n")
        found.append((command.strip(), [line.split("…")[0] for line in lines]))
    return found
