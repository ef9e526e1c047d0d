"""Sealed documents: JSON with a checksum of its own, so that damage is never read as a fact.

On disk: `{"format": 1, "crc32": "<of the body's bytes>", "body": {…}}`.
"""

from __future__ import annotations

import zlib
from typing import TypeVar

import msgspec

from headwater_connectors.archive.errors import ArchiveError

__all__ = ["seal", "unseal"]

_FORMAT = 1

_T = TypeVar("_T")


class _Envelope(msgspec.Struct, frozen=True):
    format: int
    crc32: str = ""
    body: msgspec.Raw = msgspec.Raw()


def seal(body: msgspec.Struct) -> tuple[bytes, str]:
    """Return the bytes of a document's file, and its checksum."""
    encoded = msgspec.json.encode(body)
    crc32 = f"{zlib.crc32(encoded):08x}"
    return msgspec.json.encode(_Envelope(_FORMAT, crc32, msgspec.Raw(encoded))) + b"\n", crc32


def unseal(data: bytes, kind: type[_T], where: str, cure: str) -> tuple[_T, str]:
    """Return what a file holds, and its checksum; ArchiveError if a byte was lost or changed."""
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if envelope.format != _FORMAT:
            msg = (
                f"{where} has format {envelope.format}, this version reads {_FORMAT}; use the"
                " version that wrote it"
            )
            raise ArchiveError(msg)
        body = bytes(envelope.body)
        if envelope.crc32 != f"{zlib.crc32(body):08x}":
            msg = f"{where} fails its checksum: it was changed or cut; {cure}"
            raise ArchiveError(msg)
        return msgspec.json.decode(body, type=kind), envelope.crc32
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        msg = f"{where} is torn ({error}); {cure}"
        raise ArchiveError(msg) from error
