"""Retention: old files leave the archive, and nothing that a named snapshot needs.

History is cut from its beginning, so there never is a gap. It takes two visits: the first says in a
new generation from where history begins now, and since when; the second, a grace period later, when
nobody reads it any more, removes the files. A named snapshot that came between the two gets its
rows back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from headwater_connectors.archive.compaction import covered, extended
from headwater_connectors.archive.generation import UNTRIMMED, Dropped, Trim
from headwater_connectors.archive.named_snapshots import NamedSnapshots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.archive.blobs import BlobStore
    from headwater_connectors.archive.chain import Chain
    from headwater_connectors.archive.generation import Generation
    from headwater_connectors.archive.manifest import FileEntry, Link
    from headwater_connectors.archive.named_snapshots import NamedSnapshot

__all__ = ["Retained", "retain"]

_ROWS_FILE = re.compile(r"/rows/[0-9]+-([0-9]+)-[0-9]+\.parquet$")
_COMPACTED_FILE = re.compile(r"/compacted/([0-9]{10})-[0-9-]+\.parquet$")
# For one that reads the list and is about to read the generation before.
_GENERATIONS_KEPT = 2
_ROUNDS_MAX = 16


@dataclass(frozen=True, slots=True)
class Retained:
    """What a visit did, or would do, to one partition.

    `dropped` files are before the beginning of history now; `deleted` ones are gone. `held_by`
    names the snapshots without which more would be dropped.
    """

    topic: str
    topic_id: str
    partition: int
    begin: int
    begin_us: int
    dropped_files: int = 0
    dropped_rows: int = 0
    dropped_bytes: int = 0
    deleted_files: int = 0
    deleted_bytes: int = 0
    held_by: tuple[str, ...] = ()


def retain(
    archive: Archive,
    topic: str,
    topic_id: str,
    partition: int,
    *,
    before_us: int | None,
    grace_us: int,
    now_us: int,
    dry_run: bool = False,
) -> Retained:
    """Drop whole files of which every row arrived before a time, in µs UTC; None drops none.

    Files that were dropped or replaced longer than `grace_us` ago are deleted, and those that a
    crash left. Raises ArchiveConflictError if another one was quicker, which does no harm.
    """
    chain = archive.chain(topic, topic_id, partition)
    named = NamedSnapshots(archive)
    before = chain.generations.newest()
    holders = _holders(chain, named.all())
    after = _cut(chain, before, None if holders else before_us, now_us)
    if after is None:
        return Retained(topic, topic_id, partition, UNTRIMMED, 0)
    after, gone = _expired(_restored(after, holders), now_us - grace_us)
    known = {one.file.name for one in before.dropped} if before else set()
    cut = [one.file for one in after.dropped if one.why == "old" and one.file.name not in known]
    if not dry_run:
        if before is None or not _is_same(before, after):
            chain.generations.add(after)
            # A snapshot may have been named since we looked.
            late = _restored(after, _holders(chain, named.all()))
            if late is not after:
                after, cut = msgspec.structs.replace(late, number=after.number + 1), []
                chain.generations.add(after)
        _sweep(archive.blobs, chain, after)
    return Retained(
        topic,
        topic_id,
        partition,
        after.begin,
        after.begin_us,
        dropped_files=len(cut),
        dropped_rows=sum(file.rows for file in cut),
        dropped_bytes=sum(file.size_bytes for file in cut),
        deleted_files=len(gone),
        deleted_bytes=sum(file.size_bytes for file in gone),
        held_by=tuple(holders),
    )


def _holders(chain: Chain, named: Sequence[NamedSnapshot]) -> dict[str, int]:
    """Return the snapshots that need the partition, and after which offset."""
    begins = {one.name: one.begin(*chain.of) for one in named}
    return {name: begin for name, begin in begins.items() if begin is not None}


def _is_same(before: Generation, after: Generation) -> bool:
    """Whether nothing is to be said but that there are more manifests."""
    fields = ("begin", "dropped", "trims")
    return all(getattr(before, field) == getattr(after, field) for field in fields)


def _cut(
    chain: Chain, before: Generation | None, before_us: int | None, now_us: int
) -> Generation | None:
    """Return the next generation, without the files at the beginning that are old."""
    number = before.number + 1 if before else 1
    found = before
    for _ in range(_ROUNDS_MAX):
        files, last, is_all = covered(chain, found)
        if last is None:
            return None
        found = extended(chain, found, last, tuple(files), ())
        count = 0
        while before_us is not None and count < len(files):
            if files[count].arrival_max_us >= before_us:
                break
            count += 1
        if count:
            found = _without(chain, found, count, now_us)
        if is_all or count < len(files):
            break
    assert found is not None
    return msgspec.structs.replace(found, number=number)


def _without(chain: Chain, generation: Generation, count: int, now_us: int) -> Generation:
    """Drop the first files of a generation."""
    old, kept = generation.files[:count], generation.files[count:]
    begin = old[-1].offset_max
    first = _first_above(chain, generation, begin)
    trims = generation.trims
    if first.manifest.number > generation.first_manifest:
        trims = (*trims, Trim(generation.first_manifest, now_us))
    return msgspec.structs.replace(
        generation,
        begin=begin,
        begin_us=max(generation.begin_us, *(file.arrival_max_us for file in old)),
        rows=sum(file.rows for file in kept),
        rows_dropped=generation.rows_dropped + sum(file.rows for file in old),
        first_manifest=first.manifest.number,
        first_previous=first.manifest.previous,
        files=kept,
        dropped=(*generation.dropped, *(Dropped(file, now_us, "old") for file in old)),
        trims=trims,
    )


def _first_above(chain: Chain, generation: Generation, begin: int) -> Link:
    """Return the oldest manifest that reaches above an offset, the newest covered if none does."""
    low, high = generation.first_manifest, generation.manifest
    while low < high:
        middle = (low + high) // 2
        if chain.at(middle).manifest.to_offset > begin:
            high = middle
        else:
            low = middle + 1
    return chain.at(low)


def _restored(generation: Generation, holders: Mapping[str, int]) -> Generation:
    """Give the rows back that a named snapshot needs; the same generation if it needs none."""
    begin = min(holders.values(), default=generation.begin)
    if begin >= generation.begin:
        return generation
    back = [
        one.file for one in generation.dropped if one.why == "old" and one.file.offset_min > begin
    ]
    names = {file.name for file in back}
    files = (*sorted(back, key=lambda file: file.offset_min), *generation.files)
    return msgspec.structs.replace(
        generation,
        begin=begin,
        begin_us=0 if begin == UNTRIMMED else generation.begin_us,
        rows=sum(file.rows for file in files),
        rows_dropped=generation.rows_dropped - sum(file.rows for file in back),
        files=files,
        dropped=tuple(one for one in generation.dropped if one.file.name not in names),
    )


def _expired(generation: Generation, until_us: int) -> tuple[Generation, list[FileEntry]]:
    """Forget what was dropped until then, so that the sweep takes it; return those files too."""
    gone = [one.file for one in generation.dropped if one.since_us <= until_us]
    kept = tuple(one for one in generation.dropped if one.since_us > until_us)
    trims = tuple(trim for trim in generation.trims if trim.since_us > until_us)
    return msgspec.structs.replace(generation, dropped=kept, trims=trims), gone


def _sweep(blobs: BlobStore, chain: Chain, generation: Generation) -> None:
    """Delete what no generation from this one on can name.

    A file of rows can only be named by the manifest that covers it, and all up to this generation's
    offset are written; a compacted one only by the generation in its name.
    """
    named = {file.name for file in generation.files}
    named |= {one.file.name for one in generation.dropped}
    bounds = {"rows": (_ROWS_FILE, generation.to_offset)}
    bounds["compacted"] = (_COMPACTED_FILE, generation.number)
    for kind, (pattern, bound) in bounds.items():
        found = [info.name for info in blobs.find(f"{chain.folder}/{kind}/")]
        matches = [(name, pattern.search(name)) for name in found if name not in named]
        blobs.delete([name for name, match in matches if match and int(match[1]) <= bound])
    chain.forget_before(
        min([generation.first_manifest, *(trim.first_manifest for trim in generation.trims)])
    )
    chain.generations.forget_before(generation.number + 1 - _GENERATIONS_KEPT)
