"""Verification: every manifest and every byte of a partition, and all that is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headwater_connectors.archive.errors import (
    ArchiveError,
    MissingBlobError,
    StoreUnavailableError,
)
from headwater_connectors.archive.manifest import check_follows
from headwater_connectors.archive.parquet import CURE, check

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.archive.chain import Chain
    from headwater_connectors.archive.generation import Generation
    from headwater_connectors.archive.manifest import FileEntry, Link

__all__ = ["Verified", "verify"]

_PROBLEMS_MAX = 100


@dataclass(slots=True)
class Verified:
    """What a partition holds, and what is wrong: one line each, at most a hundred."""

    topic: str
    topic_id: str
    partition: int
    manifests: int = 0
    files: int = 0
    rows: int = 0
    size_bytes: int = 0
    stamps: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def note(self, error: ArchiveError) -> None:
        """Keep what is wrong, unless there is enough; a store that fails says nothing of files."""
        if isinstance(error, StoreUnavailableError):
            raise error
        if len(self.problems) < _PROBLEMS_MAX:
            self.problems.append(str(error))


def verify(
    archive: Archive,
    topic: str,
    topic_id: str,
    partition: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Verified:
    """Read everything of a partition and say what is wrong with it; it goes on after a problem.

    `progress` gets the manifests and files that are done, and how many there are as far as is
    known. Raises StoreUnavailableError where nothing can be said.
    """
    chain = archive.chain(topic, topic_id, partition)
    found = Verified(topic, topic_id, partition)
    try:
        generation, head = chain.generations.newest(), chain.newest()
    except ArchiveError as error:
        found.note(error)
        return found
    if head is None:
        return found
    files = list(generation.files) if generation else []
    done = 0
    for link in _links(chain, generation, head.manifest.number, found):
        if generation is None or link.manifest.number > generation.manifest:
            files += link.manifest.files
        done += 1
        progress(done, head.manifest.number + len(files))
    start = generation.start if generation else -(1 << 63)
    for entry in files:
        _check(archive, entry, start, found)
        start = entry.offset_max
        done += 1
        progress(done, done - found.files + len(files))
    expected = head.manifest.rows_total - (generation.rows_dropped if generation else 0)
    if found.rows != expected:
        found.note(
            ArchiveError(
                f"{archive.blobs.path(chain.folder)}: its files have {found.rows} rows, its"
                f" manifests say {expected}; restore the partition from a copy"
            )
        )
    return found


def _links(chain: Chain, generation: Generation | None, last: int, found: Verified) -> list[Link]:
    """Return the manifests that can be read; note those that can't, or that don't fit."""
    links = []
    before: Link | None = None
    first = generation.first_manifest if generation else 1
    previous = generation.first_previous if generation else ""
    for number in range(first, last + 1):
        try:
            link = chain.at(number)
            if before is not None or number == first:
                check_follows(before, link, chain.where(number), previous=previous)
            if generation and number == generation.manifest:
                chain.check_made_of(generation, link)
        except ArchiveError as error:
            found.note(error)
            before = None
            continue
        found.manifests += 1
        found.stamps.add(link.manifest.stamp)
        links.append(link)
        before = link
    return links


def _check(archive: Archive, entry: FileEntry, after: int, found: Verified) -> None:
    found.files += 1
    found.rows += entry.rows
    found.size_bytes += entry.size_bytes
    if entry.offset_min <= after:
        msg = (
            f"{archive.blobs.path(entry.name)} begins at offset {entry.offset_min}, what is before"
            f" it ends at {after}; restore the manifests from one copy"
        )
        found.note(ArchiveError(msg))
    try:
        check(archive.blobs, entry)
    except MissingBlobError as error:
        found.note(ArchiveError(f"{error}, although a manifest names it; {CURE}"))
    except ArchiveError as error:
        found.note(error)
