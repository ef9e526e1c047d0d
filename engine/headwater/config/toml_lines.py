"""Where a setting stands in a TOML file, which the parser of the standard library doesn't say."""

from __future__ import annotations

import re

__all__ = ["line_of"]

_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")
_KEY = re.compile(
    r"""\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*="""
)
_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*\.?""")


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """Return the line of a setting, or of the table or value it is inside of, from 1.

    The text is TOML that was parsed; None where the setting is written in a way that is rare in
    configuration, such as a key inside a multi-line value.
    """
    wanted = ".".join(path)
    best: tuple[int, int] | None = None  # how much of the path a line names, and the line
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = here = _joined(header[1])
        elif key := _KEY.match(line):
            here = f"{table}.{_joined(key[1])}" if table else _joined(key[1])
        else:
            continue
        if here == wanted:
            return number
        if wanted.startswith(f"{here}.") and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return None if best is None else best[1]


def _joined(key: str) -> str:
    return ".".join(double or single or bare for double, single, bare in _PART.findall(key))
