"""The chain of manifests of one partition: find the newest, walk them all, add one."""

from __future__ import annotations

import contextlib
import re
import threading
import zlib
from typing import TYPE_CHECKING

from headwater_connectors.archive.errors import (
    AlreadyExistsError,
    ArchiveConflictError,
    ArchiveError,
    MissingBlobError,
    StoreUnavailableError,
)
from headwater_connectors.archive.generation import Generations
from headwater_connectors.archive.manifest import check_follows, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwater_connectors.archive.blobs import BlobStore
    from headwater_connectors.archive.generation import Generation
    from headwater_connectors.archive.manifest import Link, Manifest

__all__ = ["Chain"]

_CURE = "restore it from a copy, or archive the partition again in an empty place"


class Chain:
    """A partition's manifests, numbered from 1; safe to use from any thread.

    `LATEST` names a manifest that is there, mostly the newest: it is written after it. It also
    says that the partition exists, before there is any manifest.
    """

    def __init__(self, blobs: BlobStore, topic: str, topic_id: str, partition: int) -> None:
        """Look at a partition; nothing is read yet."""
        self.partition = partition
        self.folder = f"{topic}/{topic_id}/partition={partition}"
        self.generations = Generations(blobs, topic, topic_id, partition)
        self._blobs = blobs
        self.of = (topic, topic_id, partition)
        self._hint_name = f"{self.folder}/LATEST"
        self._lock = threading.Lock()
        self._tail: Link | None = None

    def forget_before(self, number: int) -> None:
        """Delete the manifests below a number, from the oldest on."""
        folder = f"{self.folder}/manifests/"
        if number > 1 and self._blobs.exists(self._name(number - 1)):
            kept = self._name(number)
            self._blobs.delete([i.name for i in self._blobs.find(folder) if i.name < kept])

    def is_announced(self) -> bool:
        """Return whether readers find the partition."""
        if self._blobs.exists(self._hint_name) or self._blobs.exists(self._name(1)):
            return True
        return bool(self.generations.numbers())

    def announce(self) -> None:
        """Let readers find the partition."""
        if not self.is_announced():
            with contextlib.suppress(AlreadyExistsError):
                self._blobs.put_if_absent(self._hint_name, _hint(0))

    def newest(self) -> Link | None:
        """Return the newest manifest there is now, None if there is none."""
        link = self._tail or self._near_the_end()
        while (following := self._after(link)) is not None:
            link = following
        return self._remembered(link)

    def tail(self) -> Link | None:
        """Return the newest manifest seen so far; looks for it only the first time."""
        return self._tail or self.newest()

    def at(self, number: int) -> Link:
        """Return a manifest that must be there."""
        try:
            return self._read(number)
        except MissingBlobError as error:
            raise self._lost(number) from error

    def up_to(self, number: int, generation: Generation | None) -> Iterator[Link]:
        """Yield the manifests that are kept, up to `number`, each checked to extend the last.

        `generation` says which is the oldest.
        """
        first = generation.first_manifest if generation else 1
        if first <= number:
            link = self.at(first)
            previous = generation.first_previous if generation else ""
            check_follows(None, link, self.where(first), previous=previous)
            yield link
            yield from self._following(link, number)

    def above(self, generation: Generation | None, number: int) -> Iterator[Link]:
        """Return the manifests above a generation, up to `number`, each checked like in `up_to`.

        That the generation was made of these manifests is checked at once.
        """
        if generation is None:
            return self.up_to(number, None)
        before = self.at(generation.manifest)
        self.check_made_of(generation, before)
        return self._following(before, number)

    def _following(self, before: Link, number: int) -> Iterator[Link]:
        for current in range(before.manifest.number + 1, number + 1):
            link = self.at(current)
            check_follows(before, link, self.where(current))
            yield link
            before = link

    def check_made_of(self, generation: Generation, link: Link) -> None:
        """Check that a manifest is the last one of a generation."""
        if link.crc32 != generation.manifest_crc32:
            msg = (
                f"manifest {self.where(generation.manifest)} is not the one that generation"
                f" {generation.number} was made of; restore the partition from one copy"
            )
            raise ArchiveError(msg)

    def extend(self, manifest: Manifest) -> Link:
        """Add a manifest; ArchiveConflictError if another writer was quicker."""
        data, link = pack(manifest)
        try:
            self._blobs.put_if_absent(self._name(manifest.number), data)
        except AlreadyExistsError as error:
            # A store that tries again by itself may have lost the answer to its first try.
            if self._blobs.get(self._name(manifest.number)) != data:
                msg = (
                    f"{self.where(manifest.number)} was written by another writer; go on from the"
                    " archive's position, and let one writer own a partition"
                )
                raise ArchiveConflictError(msg) from error
        self._remembered(link)
        # The rows are there: an old hint only makes the search longer.
        with contextlib.suppress(StoreUnavailableError):
            self._blobs.put(self._hint_name, _hint(manifest.number))
        return link

    def _near_the_end(self) -> Link | None:
        """Return a manifest from which the newest is not far; None for the beginning."""
        hint = self._hinted()
        try:
            if hint:
                return self._read(hint)
        except MissingBlobError as error:
            generation = self.generations.newest()
            if generation is None or generation.manifest < hint:
                raise self._lost(hint) from error
            return self.at(generation.manifest)
        generation = self.generations.newest()
        return self.at(generation.manifest) if generation else None

    def _after(self, link: Link | None) -> Link | None:
        """Return the manifest that follows, None if there is none."""
        number = link.manifest.number + 1 if link else 1
        if not self._blobs.exists(self._name(number)):
            if not self._blobs.exists(self._name(number + 1)):
                return None
            # Both may have been written between the two questions; if not, one was lost.
            if not self._blobs.exists(self._name(number)):
                raise self._lost(number)
        following = self.at(number)
        check_follows(link, following, self.where(number))
        return following

    def _remembered(self, link: Link | None) -> Link | None:
        """Keep a link unless a newer one is known; return the newer of the two."""
        with self._lock:
            known = self._tail
            if known is None or (link and link.manifest.number > known.manifest.number):
                self._tail = link
            return self._tail

    def _read(self, number: int) -> Link:
        where = self.where(number)
        link = unpack(self._blobs.get(self._name(number)), where)
        manifest = link.manifest
        found = (manifest.topic, manifest.topic_id, manifest.partition)
        if found != self.of or manifest.number != number:
            msg = (
                f"manifest {where} is number {manifest.number} of topic {found[0]} (id {found[1]}),"
                f" partition {found[2]}: files were moved; {_CURE}"
            )
            raise ArchiveError(msg)
        return link

    def _hinted(self) -> int:
        """Return what LATEST says; 0, the start of a longer search, if that can't be read."""
        try:
            data = self._blobs.get(self._hint_name)
        except MissingBlobError:
            return 0
        match = re.match(rb"([0-9]{1,10}) ", data)
        number = int(match[1]) if match else 0
        return number if data == _hint(number) else 0

    def _name(self, number: int) -> str:
        return f"{self.folder}/manifests/{number:010d}.json"

    def where(self, number: int) -> str:
        """Return where a manifest is, for messages."""
        return self._blobs.path(self._name(number))

    def _lost(self, number: int) -> ArchiveError:
        return ArchiveError(f"manifest {self.where(number)} is missing; {_CURE}")


def _hint(number: int) -> bytes:
    """Return what LATEST holds; with a checksum, for a wrong number would hide what is there."""
    return b"%d %08x\n" % (number, zlib.crc32(b"%d" % number))
