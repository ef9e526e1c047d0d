"""Generations: all files of a partition in one list, so that nobody walks every manifest.

A generation stands for the manifests up to one of them. It holds the same rows in the same order,
in fewer files, and says where history begins. The newest one counts.
"""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from headwater_connectors.archive.errors import (
    AlreadyExistsError,
    ArchiveConflictError,
    ArchiveError,
    MissingBlobError,
)
from headwater_connectors.archive.manifest import FileEntry  # noqa: TC001 - msgspec reads it
from headwater_connectors.archive.sealed import seal, unseal

if TYPE_CHECKING:
    from headwater_connectors.archive.blobs import BlobStore

__all__ = ["UNTRIMMED", "Dropped", "Generation", "Generations", "Trim", "dropped"]

# The beginning of a history of which nothing was ever dropped.
UNTRIMMED = -1

_NAME = re.compile(r"generations/([0-9]{10})\.json$")
_TRIES_MAX = 8
_CURE = "restore it from a copy; without it files that are not there any more would be missed"


class Dropped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that nobody who begins to read now needs; `since_us` is when that came to be.

    "replaced" by a file with the same rows, or "old": before the beginning of history.
    """

    file: FileEntry
    since_us: int
    why: Literal["replaced", "old"]


class Trim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Manifests from `first_manifest` on that nobody who begins to read since then needs."""

    first_manifest: int
    since_us: int


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifests up to number `manifest`, with that checksum, have become.

    History begins after offset `begin`, which arrived at `begin_us`; UNTRIMMED and 0 if nothing
    was dropped. `rows_dropped` counts what is before it. `first_manifest` is the oldest one that
    is kept, and `first_previous` the checksum of the one before it.
    """

    topic: str
    topic_id: str
    partition: int
    number: int
    manifest: int
    manifest_crc32: str
    from_offset: int
    to_offset: int
    begin: int
    begin_us: int
    rows: int
    rows_dropped: int
    first_manifest: int
    first_previous: str
    files: tuple[FileEntry, ...]
    dropped: tuple[Dropped, ...]
    trims: tuple[Trim, ...]

    @property
    def start(self) -> int:
        """The offset after which its rows begin."""
        return self.from_offset if self.begin == UNTRIMMED else self.begin


def dropped(generation: Generation) -> str:
    """Return, for messages, that history begins later than it did and from where."""
    try:
        began = f"{datetime.fromtimestamp(generation.begin_us / 1_000_000, UTC):%F %T} UTC"
    except (OverflowError, ValueError, OSError):  # records may bear any time
        began = f"{generation.begin_us} µs"
    return (
        f"retention has dropped what came up to {began}: history of"
        f" {generation.topic}[{generation.partition}] begins after offset {generation.begin} now;"
        " ask for what came later, or keep what you need by a named snapshot"
    )


class Generations:
    """The generations of one partition; safe to use from any thread."""

    def __init__(self, blobs: BlobStore, topic: str, topic_id: str, partition: int) -> None:
        """Look at a partition; nothing is read yet."""
        self._blobs = blobs
        self._of = (topic, topic_id, partition)
        self._folder = f"{topic}/{topic_id}/partition={partition}/generations/"
        self._lock = threading.Lock()
        self._known: Generation | None = None

    def newest(self) -> Generation | None:
        """Return the generation that counts now, None if there is none yet."""
        for _ in range(_TRIES_MAX):
            numbers = self.numbers()
            if not numbers:
                if self._known is not None:
                    msg = f"generation {self._where(self._known.number)} is missing; {_CURE}"
                    raise ArchiveError(msg)
                return None
            try:
                return self.at(numbers[-1])
            except MissingBlobError:
                continue  # it was replaced and deleted since
        msg = f"{self._blobs.path(self._folder)} changes all the time; try again"
        raise ArchiveError(msg)

    def numbers(self) -> list[int]:
        """Return the numbers of the generations that are there, in order."""
        names = (_NAME.search(info.name) for info in self._blobs.find(self._folder))
        return sorted(int(match[1]) for match in names if match)

    def at(self, number: int) -> Generation:
        """Return a generation; MissingBlobError if it isn't there."""
        known = self._known
        if known is not None and known.number == number:
            return known
        where = f"generation {self._where(number)}"
        found, _ = unseal(self._blobs.get(self._name(number)), Generation, where, _CURE)
        if (found.topic, found.topic_id, found.partition) != self._of or found.number != number:
            msg = (
                f"{where} is number {found.number} of topic {found.topic} (id {found.topic_id}),"
                f" partition {found.partition}: files were moved; {_CURE}"
            )
            raise ArchiveError(msg)
        self._remember(found)
        return found

    def add(self, generation: Generation) -> None:
        """Let a generation count; ArchiveConflictError if another one took its number."""
        data, _ = seal(generation)
        name = self._name(generation.number)
        try:
            self._blobs.put_if_absent(name, data)
        except AlreadyExistsError as error:
            if self._blobs.get(name) != data:
                msg = (
                    f"{self._where(generation.number)} was written by another one that compacts or"
                    " retains; nothing is lost, try again"
                )
                raise ArchiveConflictError(msg) from error
        if self.numbers()[-1] != generation.number:
            msg = (
                f"{self._where(generation.number)} comes too late: there are newer ones; nothing is"
                " lost, try again"
            )
            raise ArchiveConflictError(msg)
        self._remember(generation)

    def forget_before(self, number: int) -> None:
        """Delete the generations below a number."""
        self._blobs.delete([self._name(each) for each in self.numbers() if each < number])

    def _remember(self, generation: Generation) -> None:
        with self._lock:
            if self._known is None or generation.number > self._known.number:
                self._known = generation

    def _name(self, number: int) -> str:
        return f"{self._folder}{number:010d}.json"

    def _where(self, number: int) -> str:
        return self._blobs.path(self._name(number))
