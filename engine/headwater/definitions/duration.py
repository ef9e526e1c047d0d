"""Durations as users write them ("30m") and as the engine holds them (µs)."""

from __future__ import annotations

import re
from datetime import timedelta

from headwater.errors import DefinitionError

__all__ = ["DAY_US", "HOUR_US", "MINUTE_US", "SECOND_US", "duration_us", "format_duration"]

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

_UNITS_US = {
    "ms": 1_000,
    "s": SECOND_US,
    "m": MINUTE_US,
    "h": HOUR_US,
    "d": DAY_US,
    "w": 7 * DAY_US,
}
_PATTERN = re.compile(r"(\d+)(ms|s|m|h|d|w)")
_LARGEST_US = 100 * 366 * DAY_US


def duration_us(duration: str | timedelta, what: str) -> int:
    """Return a positive duration in µs; `what` names the setting in the error."""
    if isinstance(duration, timedelta):
        us = duration // timedelta(microseconds=1)
    else:
        match = _PATTERN.fullmatch(duration.strip()) if isinstance(duration, str) else None
        if match is None:
            msg = (
                f"{what}: {duration!r} is not a duration; write a number and a unit,"
                ' e.g. "30m", "24h" or "7d" (ms, s, m, h, d, w)'
            )
            raise DefinitionError(msg)
        us = int(match[1]) * _UNITS_US[match[2]]
    if not 0 < us <= _LARGEST_US:
        msg = f"{what}: {duration!r} must be longer than zero and at most 100 years"
        raise DefinitionError(msg)
    return us


def format_duration(us: int) -> str:
    """Return the shortest exact spelling, e.g. 5_400_000_000 → "90m"."""
    for unit in ("d", "h", "m", "s", "ms"):
        if us % _UNITS_US[unit] == 0:
            return f"{us // _UNITS_US[unit]}{unit}"
    return f"{us}us"
