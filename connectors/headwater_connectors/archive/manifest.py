"""Manifests: what one append added to a partition, as checked JSON.

A manifest names the checksum of the one before it, so the newest pins all of them. On disk:
`{"format": 2, "crc32": "<of the manifest's bytes>", "manifest": {…}}`.
"""

from __future__ import annotations

import zlib

import msgspec

from headwater_connectors.archive.errors import ArchiveError

__all__ = ["MANIFEST_FORMAT", "FileEntry", "Link", "Manifest", "check_follows", "pack", "unpack"]

MANIFEST_FORMAT = 2
# 1 had no `lacked`.
_READ_TOO = 1


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Parquet file: its bytes, its rows and the ranges they lie in, ends included.

    `crc32` holds a checksum for each run of `block_bytes`, the last one may be shorter: a reader
    checks all it reads without reading all there is. Files of one `layout`, which stands for their
    columns and types, the payload and the stamp, can become one file; "" for unknown.
    """

    name: str
    size_bytes: int
    block_bytes: int
    crc32: tuple[int, ...]
    rows: int
    offset_min: int
    offset_max: int
    ts_min_us: int
    ts_max_us: int
    arrival_min_us: int
    arrival_max_us: int
    layout: str = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the records in (from_offset, to_offset] of a partition became.

    `columns` and `rows_total` are those of all manifests up to this one; `previous` is the
    checksum of the one before, empty in number 1. `stamp` says what decoded the rows. `lacked` has
    the last offset of a row without the column, of each that some row is without: rows are, that
    came before it, or from a worker that didn't know it yet. None in format 1.
    """

    topic: str
    topic_id: str
    partition: int
    number: int
    previous: str
    from_offset: int
    to_offset: int
    frontier_us: int
    rows: int
    rows_total: int
    stamp: str
    columns: dict[str, str]
    files: tuple[FileEntry, ...]
    lacked: dict[str, int] | None = None


class Link(msgspec.Struct, frozen=True):
    """A manifest and the checksum of its bytes."""

    manifest: Manifest
    crc32: str


class _Envelope(msgspec.Struct, frozen=True):
    format: int
    crc32: str = ""
    manifest: msgspec.Raw = msgspec.Raw()


def pack(manifest: Manifest) -> tuple[bytes, Link]:
    """Return the bytes of a manifest's file, and its link."""
    body = msgspec.json.encode(manifest)
    crc32 = f"{zlib.crc32(body):08x}"
    data = msgspec.json.encode(_Envelope(MANIFEST_FORMAT, crc32, msgspec.Raw(body)))
    return data + b"\n", Link(manifest, crc32)


def unpack(data: bytes, where: str) -> Link:
    """Return the manifest of a file; ArchiveError if a byte of it was lost or changed."""
    cure = "restore it from a copy, or archive the partition again in an empty place"
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if envelope.format not in {MANIFEST_FORMAT, _READ_TOO}:
            msg = (
                f"manifest {where} has format {envelope.format}, this version reads"
                f" {_READ_TOO} and {MANIFEST_FORMAT}; use the version that wrote it"
            )
            raise ArchiveError(msg)
        body = bytes(envelope.manifest)
        if envelope.crc32 != f"{zlib.crc32(body):08x}":
            msg = f"manifest {where} fails its checksum: it was changed or cut; {cure}"
            raise ArchiveError(msg)
        return Link(msgspec.json.decode(body, type=Manifest), envelope.crc32)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        msg = f"manifest {where} is torn ({error}); {cure}"
        raise ArchiveError(msg) from error


def check_follows(before: Link | None, link: Link, where: str, *, previous: str = "") -> None:
    """Check that a manifest extends the one before it, without gap or overlap.

    `previous` is the checksum that the oldest one kept must name; "" before number 1.
    """
    manifest = link.manifest
    if before is None:
        is_first = manifest.previous == previous and (manifest.number == 1) == (not previous)
        problem = "" if is_first else "is not the first"
    elif manifest.from_offset != before.manifest.to_offset:
        kind = "overlaps" if manifest.from_offset < before.manifest.to_offset else "leaves a gap to"
        problem = (
            f"begins after offset {manifest.from_offset} and {kind} the one before it, which"
            f" ends at {before.manifest.to_offset}"
        )
    elif manifest.number != before.manifest.number + 1 or manifest.previous != before.crc32:
        problem = "was not written after the one before it: one of the two was replaced"
    else:
        problem = ""
    if problem:
        msg = f"manifest {where} {problem}; restore the partition's manifests from one copy"
        raise ArchiveError(msg)
