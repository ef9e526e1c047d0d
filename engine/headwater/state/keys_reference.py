"""Canonical keys in plain Python, one at a time: what the kernels must agree with."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["reference_key"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def reference_key(parts: Sequence[object]) -> bytes | None:
    """Return the canonical bytes of a key, or None where a part is."""
    encoded = b""
    for part in parts:
        if part is None:
            return None
        encoded += _encoded_part(part)
    return encoded


def _encoded_part(part: object) -> bytes:
    # A bool is an int to Python, and a datetime is a date.
    if isinstance(part, bool):
        return b"\x04" + bytes([part])
    if isinstance(part, int):
        tag = b"\x03" if part >= 1 << 63 else b"\x02"
        return tag + part.to_bytes(8, "little", signed=part < 1 << 63)
    if isinstance(part, str):
        text = part.encode()
        return b"\x01" + len(text).to_bytes(4, "little") + text
    if isinstance(part, bytes):
        return b"\x05" + len(part).to_bytes(4, "little") + part
    if isinstance(part, dt.datetime):
        instant = part if part.tzinfo else part.replace(tzinfo=dt.UTC)
        microseconds = (instant - _EPOCH) // dt.timedelta(microseconds=1)
        return b"\x07" + microseconds.to_bytes(8, "little", signed=True)
    if isinstance(part, dt.date):
        days = part.toordinal() - _EPOCH.date().toordinal()
        return b"\x06" + days.to_bytes(4, "little", signed=True)
    raise TypeError(f"{part!r} can't be part of a key")
