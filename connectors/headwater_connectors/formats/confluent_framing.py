"""Confluent's framing: a zero byte, the id of the writer's schema (4 bytes, big-endian), a body.

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["HEADER_BYTES", "framed", "schema_id_of"]

MAGIC: Final = 0
HEADER_BYTES: Final = 5

_HEADER: Final = struct.Struct(">BI")


def schema_id_of(value: bytes) -> int | None:
    """Return the id of a framed value's schema; None for a value that isn't framed."""
    if len(value) < HEADER_BYTES:
        return None
    magic, schema_id = _HEADER.unpack_from(value)
    return schema_id if magic == MAGIC else None


def framed(schema_id: int, body: bytes) -> bytes:
    """Return a body with its schema's id in front."""
    return _HEADER.pack(MAGIC, schema_id) + body
