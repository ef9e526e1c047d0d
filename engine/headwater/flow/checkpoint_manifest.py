"""What a stored checkpoint is: its manifest, and what the manifest's name says."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from headwater.errors import StateError

__all__ = [
    "CheckpointFile",
    "CheckpointManifest",
    "StoredCheckpoint",
    "last_part",
    "manifest_name",
    "pack",
    "unpack",
]

_FORMAT = 1
_CURE = "use an older checkpoint, or rebuild from the log"
# An owner is a quoted writer, "=" and an epoch.
_NAME = re.compile(r"(?P<offset>\d{20})=(?P<bytes>\d+)=(?P<owner>(?P<writer>[^=]+)=[^=]+)\.json")


@dataclass(frozen=True, slots=True, order=True)
class StoredCheckpoint:
    """A checkpoint in the store; `bytes` are those of all its files, `name` is its manifest's."""

    shard: int
    next_offset: int
    writer: str
    bytes: int
    name: str = ""
    owner: str = ""

    @classmethod
    def parse(cls, shard: int, name: str) -> StoredCheckpoint | None:
        """Return what a manifest's name says; None for a name that is no manifest's."""
        match = _NAME.fullmatch(last_part(name))
        if match is None:
            return None
        offset, size_bytes = int(match["offset"]), int(match["bytes"])
        return cls(shard, offset, unquote(match["writer"]), size_bytes, name, match["owner"])


class CheckpointFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file of a checkpoint: a blob of the owner's, or `data` in the manifest if it is small."""

    path: str
    size_bytes: int
    sha256: str
    data: bytes | None = None


class CheckpointManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The files of one shard at one mark; each of them was durable before this was."""

    namespace: str
    exchange_id: str
    shard: int
    shards: int
    next_offset: int
    stamp: str
    owner: str
    files: tuple[CheckpointFile, ...]


class _Envelope(msgspec.Struct, frozen=True):
    format: int
    crc32: str = ""
    manifest: msgspec.Raw = msgspec.Raw()


def last_part(name: str) -> str:
    """Return what follows the last slash of a blob's name."""
    return name.rpartition("/")[2]


def manifest_name(place: str, manifest: CheckpointManifest) -> str:
    """Return the name of a manifest's blob; it says enough to choose among checkpoints."""
    size_bytes = sum(file.size_bytes for file in manifest.files)
    return f"{place}/manifests/{manifest.next_offset:020d}={size_bytes}={manifest.owner}.json"


def pack(manifest: CheckpointManifest) -> bytes:
    """Return the bytes of a manifest's blob."""
    body = msgspec.json.encode(manifest)
    crc32 = f"{zlib.crc32(body):08x}"
    return msgspec.json.encode(_Envelope(_FORMAT, crc32, msgspec.Raw(body)))


def unpack(data: bytes, where: str) -> CheckpointManifest:
    """Return the manifest of a blob; StateError if a byte of it was lost or changed."""
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if envelope.format != _FORMAT:
            msg = (
                f"checkpoint {where} has format {envelope.format}, this version reads {_FORMAT};"
                f" {_CURE}"
            )
            raise StateError(msg)
        body = bytes(envelope.manifest)
        if envelope.crc32 != f"{zlib.crc32(body):08x}":
            msg = f"checkpoint {where} fails its checksum: it was changed or cut; {_CURE}"
            raise StateError(msg)
        return msgspec.json.decode(body, type=CheckpointManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        msg = f"checkpoint {where} is torn ({error}); {_CURE}"
        raise StateError(msg) from error
