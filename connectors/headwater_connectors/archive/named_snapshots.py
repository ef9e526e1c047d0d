"""Named snapshots: extents of the archive that retention leaves alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from headwater.errors import did_you_mean
from headwater_connectors.archive.errors import AlreadyExistsError, ArchiveError, MissingBlobError
from headwater_connectors.archive.sealed import seal, unseal
from headwater_connectors.archive.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headwater_connectors.archive.archive import Archive

__all__ = ["NamedSnapshot", "NamedSnapshots"]

# No topic can have this name.
_FOLDER = "named=snapshots/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TRIES_MAX = 8
_CURE = "restore it from a copy; nothing is retained until it can be read or is removed"


class NamedSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A snapshot, as its text, and when it was taken, in µs UTC."""

    name: str
    snapshot: str
    taken_us: int

    def begin(self, topic: str, topic_id: str, partition: int) -> int | None:
        """Return the offset after which it needs a partition, None if it does not."""
        for part in Snapshot.parse(self.snapshot).topics:
            is_of = (part.topic, part.topic_id) == (topic, topic_id)
            if is_of and partition < len(part.numbers) and part.numbers[partition]:
                return part.begins[partition]
        return None


class NamedSnapshots:
    """The named snapshots of an archive."""

    def __init__(self, archive: Archive) -> None:
        """Look at an archive; nothing is read yet."""
        self._archive = archive
        self._blobs = archive.blobs

    def all(self) -> list[NamedSnapshot]:
        """Return them by name; ArchiveError if one can't be read, for it may need anything."""
        names = [info.name.removeprefix(_FOLDER) for info in self._blobs.find(_FOLDER)]
        found = []
        for name in names:
            try:
                found.append(self._read(name.removesuffix(".json")))
            except MissingBlobError:
                continue  # removed meanwhile
        return found

    def get(self, name: str) -> NamedSnapshot:
        """Return one; ArchiveError if there is none of this name."""
        self._check(name)
        try:
            return self._read(name)
        except MissingBlobError as error:
            known = [one.name for one in self.all()]
            msg = f'no snapshot "{name}" in the archive.{did_you_mean(name, known)}'
            raise ArchiveError(msg) from error

    def resolve(self, text: str) -> Snapshot:
        """Return the snapshot of this name, or that has this text; ArchiveError if none has."""
        # A name has no @, a text has one for each topic.
        return Snapshot.parse(text if "@" in text else self.get(text).snapshot)

    def take(
        self, name: str, topics: Mapping[str, str] | Sequence[tuple[str, str]], now_us: int
    ) -> NamedSnapshot:
        """Name the present extent of topics, given as name → topic id or as pairs of those.

        ArchiveError if the name is taken.
        """
        self._check(name)
        for _ in range(_TRIES_MAX):
            snapshot = self._archive.snapshot(topics)
            named = NamedSnapshot(name, str(snapshot), now_us)
            data, _ = seal(named)
            try:
                self._blobs.put_if_absent(self._blob(name), data)
            except AlreadyExistsError as error:
                if self._blobs.get(self._blob(name)) != data:
                    msg = f'snapshot "{name}" exists already; choose another name, or remove it'
                    raise ArchiveError(msg) from error
            # Retention may have looked for names just before this one was there.
            if [t.begins for t in self._archive.snapshot(topics).topics] == [
                t.begins for t in snapshot.topics
            ]:
                return named
            self._blobs.delete([self._blob(name)])
        msg = f'snapshot "{name}": retention moves the beginning of history all the time; try again'
        raise ArchiveError(msg)

    def remove(self, name: str) -> None:
        """Forget one, so that retention may drop what it needed."""
        self.get(name)
        self._blobs.delete([self._blob(name)])

    def _read(self, name: str) -> NamedSnapshot:
        blob = self._blob(name)
        where = f'snapshot "{name}" ({self._blobs.path(blob)})'
        named, _ = unseal(self._blobs.get(blob), NamedSnapshot, where, _CURE)
        if named.name != name:
            msg = f'{where} is that of "{named.name}": files were moved; {_CURE}'
            raise ArchiveError(msg)
        return named

    def _check(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            msg = (
                f'"{name}" can\'t name a snapshot: begin with a letter or a digit and use at most'
                " 100 letters, digits, dots, dashes and underscores"
            )
            raise ArchiveError(msg)

    def _blob(self, name: str) -> str:
        return f"{_FOLDER}{name}.json"
