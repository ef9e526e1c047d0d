"""Writing a benchmark's result: one JSON object, or the same as indented lines."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["write_result"]


def write_result(result: Mapping[str, object], *, as_json: bool) -> None:
    """Write a result to standard output; `as_json` makes it one line."""
    lines = [json.dumps(result)] if as_json else _lines(result, "")
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _lines(result: Mapping[str, object], indent: str) -> Iterator[str]:
    for name, value in result.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name:<28} {_text(value)}"


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"
    return f"{value:,}" if type(value) is int else str(value)
