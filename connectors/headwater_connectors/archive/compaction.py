"""Compaction: many small files of a partition become few, with the same rows in the same order.

A step writes merged files, reads them back, and then lets a new generation count that names them.
Until then nothing has changed, so a crash leaves files that nobody reads. Small files at the end
are merged once there are several of like size, as in a log-structured merge tree (O'Neil et al.,
1996): a row is written again about as often as the logarithm of how many files there are.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import polars as pl

from headwater_connectors.archive.errors import AlreadyExistsError, ArchiveError
from headwater_connectors.archive.generation import UNTRIMMED, Dropped, Generation
from headwater_connectors.archive.manifest import FileEntry
from headwater_connectors.archive.parquet import FileWriter, block_checksums, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.archive.blobs import BlobStore
    from headwater_connectors.archive.chain import Chain
    from headwater_connectors.archive.manifest import Link

__all__ = ["Compaction", "Sizes", "compact", "covered", "groups"]

# Larger blocks than a writer's: the list of a partition's files must stay short.
_BLOCK_BYTES = 1 << 20
_NAMES_MAX = 1_000
# How many manifests one generation adds: a bound on what is in memory.
_MANIFESTS_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large files become, and how much one step may merge.

    `few` files at the end stay as they are: a worker, which comes often, waits for more.
    """

    file_bytes: int = 128 << 20
    file_rows: int = 4_000_000
    step_bytes: int = 256 << 20
    few: int = 1


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a step did: files and bytes read, files and bytes that stand in their place."""

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    is_done: bool  # there is no more to do now


def compact(
    archive: Archive,
    topic: str,
    topic_id: str,
    partition: int,
    *,
    now_us: int,
    sizes: Sizes,
) -> Compaction | None:
    """Do one step; None if there was nothing to do.

    Raises ArchiveConflictError if another one was quicker, which does no harm, and ArchiveError
    for a file that is damaged: then everything is as it was.
    """
    chain = archive.chain(topic, topic_id, partition)
    before = chain.generations.newest()
    files, last, is_all = covered(chain, before)
    if last is None:
        return None
    stem = f"{chain.folder}/compacted/{before.number + 1 if before else 1:010d}"
    kept: list[FileEntry] = []
    made: list[FileEntry] = []
    replaced: list[FileEntry] = []
    left = sizes.step_bytes
    for group in groups(files, sizes):
        size_bytes = sum(file.size_bytes for file in group)
        if len(group) == 1 or (replaced and left < size_bytes):
            kept += group
            is_all = is_all and len(group) == 1
            continue
        left -= size_bytes
        made.append(_merged(archive.blobs, stem, group))
        replaced += group
    if not replaced and last.manifest.number == (before.manifest if before else 0):
        return None
    whole_list = tuple(sorted((*kept, *made), key=lambda file: file.offset_min))
    dropped = tuple(Dropped(file, now_us, "replaced") for file in replaced)
    chain.generations.add(extended(chain, before, last, whole_list, dropped))
    return Compaction(
        files_before=len(replaced),
        files_after=len(made),
        bytes_before=sum(file.size_bytes for file in replaced),
        bytes_after=sum(file.size_bytes for file in made),
        is_done=is_all,
    )


def covered(chain: Chain, before: Generation | None) -> tuple[list[FileEntry], Link | None, bool]:
    """Return a partition's files, the last manifest they are of, and whether it is the newest.

    At most so many manifests above a generation are read at once. No manifest if there is none.
    """
    head = chain.newest()
    if head is None:
        return [], None, True
    files = list(before.files) if before else []
    first = before.manifest if before else 0
    last = min(head.manifest.number, first + _MANIFESTS_MAX)
    link: Link | None = None
    for link in chain.above(before, last):
        files += link.manifest.files
    if link is None:
        link = chain.at(first)
    for one, following in pairwise(files):
        if following.offset_min <= one.offset_max:
            msg = f"files {one.name} and {following.name} overlap; restore the manifests"
            raise ArchiveError(msg)
    return files, link, last == head.manifest.number


def extended(
    chain: Chain,
    before: Generation | None,
    last: Link,
    files: tuple[FileEntry, ...],
    dropped: tuple[Dropped, ...],
) -> Generation:
    """Return the generation after one, up to a manifest, with these files."""
    manifest = last.manifest
    if before is not None:
        return msgspec.structs.replace(
            before,
            number=before.number + 1,
            manifest=manifest.number,
            manifest_crc32=last.crc32,
            to_offset=manifest.to_offset,
            rows=sum(file.rows for file in files),
            files=files,
            dropped=(*before.dropped, *dropped),
        )
    return Generation(
        topic=manifest.topic,
        topic_id=manifest.topic_id,
        partition=manifest.partition,
        number=1,
        manifest=manifest.number,
        manifest_crc32=last.crc32,
        from_offset=chain.at(1).manifest.from_offset,
        to_offset=manifest.to_offset,
        begin=UNTRIMMED,
        begin_us=0,
        rows=sum(file.rows for file in files),
        rows_dropped=0,
        first_manifest=1,
        first_previous="",
        files=files,
        dropped=dropped,
        trims=(),
    )


def groups(files: Sequence[FileEntry], sizes: Sizes) -> Iterator[list[FileEntry]]:
    """Cut a list of files, in order, into those that are to become one."""
    run: list[FileEntry] = []
    for file in files:
        is_alike = run and _is_small(run[-1], sizes) and file.layout == run[-1].layout != ""
        if not (is_alike and _is_small(file, sizes)):
            yield from _packs(run, sizes)
            run = []
        run.append(file)
    *full, last = list(_packs(run, sizes)) or [[]]
    yield from full
    at = _tail(last)
    if len(last) - at <= sizes.few:
        at = len(last)
    yield from ([file] for file in last[:at])
    if last[at:]:
        yield last[at:]


def _is_small(file: FileEntry, sizes: Sizes) -> bool:
    return 2 * file.size_bytes < sizes.file_bytes and 2 * file.rows < sizes.file_rows


def _packs(run: Sequence[FileEntry], sizes: Sizes) -> Iterator[list[FileEntry]]:
    """Cut files that are alike into groups of about the size of one file."""
    pack: list[FileEntry] = []
    size_bytes = rows = 0
    for file in run:
        too_large = size_bytes + file.size_bytes > sizes.file_bytes
        if pack and (too_large or rows + file.rows > sizes.file_rows):
            yield pack
            pack, size_bytes, rows = [], 0, 0
        pack.append(file)
        size_bytes += file.size_bytes
        rows += file.rows
    if pack:
        yield pack


def _tail(files: Sequence[FileEntry]) -> int:
    """Return from where on files are merged: the first is no larger than the others together."""
    total = 0
    first = max(0, len(files) - 1)
    for at in range(len(files) - 1, -1, -1):
        size_bytes = files[at].size_bytes
        if size_bytes <= total:
            first = at
        total += size_bytes
    return first


def _merged(blobs: BlobStore, stem: str, group: Sequence[FileEntry]) -> FileEntry:
    """Write the rows of some files into one, read it back, and return its entry."""
    data, rows, crc32 = _joined(blobs, group)
    first, last = group[0], group[-1]
    for attempt in range(_NAMES_MAX):
        name = f"{stem}-{first.offset_min}-{last.offset_max}-{attempt}.parquet"
        try:
            blobs.put_if_absent(name, data)
            break
        except AlreadyExistsError:
            continue  # left by one that died, or was slower
    else:
        msg = f"{blobs.path(stem)}: {_NAMES_MAX} files were left; see why compacting fails"
        raise ArchiveError(msg)
    entry = FileEntry(
        name=name,
        size_bytes=len(data),
        block_bytes=_BLOCK_BYTES,
        crc32=block_checksums(data, _BLOCK_BYTES),
        rows=sum(file.rows for file in group),
        offset_min=first.offset_min,
        offset_max=last.offset_max,
        ts_min_us=min(file.ts_min_us for file in group),
        ts_max_us=max(file.ts_max_us for file in group),
        arrival_min_us=min(file.arrival_min_us for file in group),
        arrival_max_us=max(file.arrival_max_us for file in group),
        layout=first.layout,
    )
    found_rows, found_crc32 = 0, 0
    for frame, _ in whole(blobs, entry):
        found_rows += frame.height
        found_crc32 = _digest(frame, found_crc32)
    if not (rows == found_rows == entry.rows and crc32 == found_crc32):
        msg = (
            f"{blobs.path(name)} does not hold the {entry.rows} rows of the {len(group)} files it"
            " was made of; they stay in use: run verify, and report this"
        )
        raise ArchiveError(msg)
    return entry


def _joined(blobs: BlobStore, group: Sequence[FileEntry]) -> tuple[memoryview, int, int]:
    """Return the bytes of one file with the rows of some, how many there are, and a checksum."""
    writer: FileWriter | None = None
    waiting: list[pl.DataFrame] = []
    rows = crc32 = 0
    for entry in group:
        for frame, metadata in whole(blobs, entry):
            if writer is None:
                writer = FileWriter(frame, metadata)
                schema = frame.schema
            if frame.schema != schema:
                msg = f"{blobs.path(entry.name)} has other columns than its layout says; run verify"
                raise ArchiveError(msg)
            rows += frame.height
            crc32 = _digest(frame, crc32)
            waiting.append(frame)
            if sum(one.height for one in waiting) >= writer.group_rows:
                waiting = _written(writer, waiting, writer.group_rows)
    assert writer is not None
    _written(writer, waiting, 1)
    return writer.finish(), rows, crc32


def _written(writer: FileWriter, frames: Sequence[pl.DataFrame], least: int) -> list[pl.DataFrame]:
    """Write whole row groups, and the rest too if it has so many rows; return what is left."""
    frame = pl.concat(frames)
    full = frame.height if least == 1 else frame.height - frame.height % least
    if full:
        writer.write(frame.head(full))
    return [frame.slice(full)] if full < frame.height else []


def _digest(frame: pl.DataFrame, before: int) -> int:
    """Return a checksum over rows in their order, however they are cut into frames."""
    return zlib.crc32(frame.hash_rows().to_numpy().tobytes(), before)
