"""Scans: the rows of one partition in batches, as far as a snapshot reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from headwater.errors import did_you_mean
from headwater_connectors.archive.errors import ArchiveError, MissingBlobError
from headwater_connectors.archive.generation import UNTRIMMED, dropped
from headwater_connectors.archive.parquet import CURE, decode
from headwater_connectors.archive.schema import dtype_of, merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from headwater_connectors.archive.blobs import BlobStore
    from headwater_connectors.archive.chain import Chain
    from headwater_connectors.archive.generation import Generation
    from headwater_connectors.archive.manifest import FileEntry, Link
    from headwater_connectors.archive.selection import Selection

__all__ = ["Scan", "column_dtypes"]


@dataclass(frozen=True, slots=True)
class Scan:
    """The wanted rows of one partition, up to the last manifest of a snapshot.

    A generation has the rows of many manifests in few files, of which it takes those in the
    snapshot: all of them, or, where it reaches beyond, the offsets that the snapshot has.
    """

    blobs: BlobStore
    chain: Chain
    head: Link | None
    selection: Selection
    generation: Generation | None = None

    def check_stretch(self) -> None:
        """Check that the archive holds the stretch asked for, as far as one can see from here."""
        stretch = self.selection.stretch
        if stretch is None or stretch[0] >= stretch[1]:
            return
        end = self.head.manifest.to_offset if self.head else None
        if end is None or end < stretch[1]:
            reached = "holds nothing" if end is None else f"ends at offset {end}"
            msg = (
                f"{self.chain.folder}: offsets {stretch} were asked for and the archive {reached};"
                " read the rest from the topic"
            )
            raise ArchiveError(msg)
        if self.generation:
            self._check_begin(self.generation.start)

    def batches(
        self, dtypes: Mapping[str, pl.DataType], *, raw: bool, batch_rows: int
    ) -> Iterator[pl.DataFrame]:
        """Yield frames of `batch_rows` rows, the last one fewer."""
        pending: list[pl.DataFrame] = []
        missing = batch_rows
        for found in self._groups(dtypes, raw=raw):
            frame = found
            while frame.height >= missing:
                yield pl.concat([*pending, frame.head(missing)])
                frame = frame.slice(missing)
                pending, missing = [], batch_rows
            if frame.height:
                pending.append(frame)
                missing -= frame.height
        if pending:
            yield pl.concat(pending)

    def _groups(self, dtypes: Mapping[str, pl.DataType], *, raw: bool) -> Iterator[pl.DataFrame]:
        if self.head is None:
            return
        selection = self.selection
        if self.generation and self.generation.manifest > self.head.manifest.number:
            selection = selection.up_to(self.head.manifest.to_offset)
        for entry in self._files(self.head):
            if selection.may_hold(entry):
                whole = selection.covers(entry)
                try:
                    for frame in decode(self.blobs, entry, dtypes, raw=raw):
                        yield frame if whole else selection.filtered(frame)
                except MissingBlobError as error:
                    raise self._missing(entry, error) from error

    def _files(self, head: Link) -> Iterator[FileEntry]:
        links = self.chain.above(self.generation, head.manifest.number)
        if self.generation:
            yield from self.generation.files
        for link in links:
            if link.manifest.number == 1:
                self._check_begin(link.manifest.from_offset)
            yield from link.manifest.files

    def _check_begin(self, start: int) -> None:
        stretch = self.selection.stretch
        if stretch is None or stretch[0] >= stretch[1] or stretch[0] >= start:
            return
        generation = self.generation
        if generation and generation.begin != UNTRIMMED:
            msg = f"offsets {stretch} of {self.chain.folder} were asked for; {dropped(generation)}"
        else:
            msg = (
                f"{self.chain.folder}: offsets {stretch} were asked for and the archive begins"
                f" after {start}; read what is before from the topic"
            )
        raise ArchiveError(msg)

    def _missing(self, entry: FileEntry, error: MissingBlobError) -> ArchiveError:
        """Tell a file that was lost from one that retention removed while this was reading."""
        newest = self.chain.generations.newest()
        if newest and (self.generation is None or newest.number > self.generation.number):
            named = {one.name for one in newest.files}
            if entry.offset_max <= newest.to_offset and entry.name not in named:
                return ArchiveError(
                    f"{error}: it was dropped or replaced after this scan began, and the grace"
                    " period is over; read again"
                )
        return ArchiveError(f"{error}, although a manifest names it; {CURE}")


def column_dtypes(
    columns: Sequence[str] | Mapping[str, pl.DataType], heads: Iterable[Link | None], topic: str
) -> dict[str, pl.DataType]:
    """Return the types of the columns that a scan asks for, from the last manifests."""
    archived: dict[str, str] = {}
    for link in heads:
        if link:
            where = f"archive of {topic}[{link.manifest.partition}]"
            archived = merged(archived, link.manifest.columns, where)
    dtypes: dict[str, pl.DataType] = {}
    for name in columns:
        given = columns[name] if isinstance(columns, Mapping) else None
        if name in archived:
            dtypes[name] = dtype_of(archived[name])
            if given is not None and given != dtypes[name]:
                msg = (
                    f'archive of {topic}: column "{name}" is {dtypes[name]} there and {given} here;'
                    " a column keeps its type: give the new one another name"
                )
                raise ArchiveError(msg)
        elif given is not None:
            dtypes[name] = given
        elif archived:
            msg = (
                f'archive of {topic}: no column "{name}".{did_you_mean(name, archived)} Give'
                " columns with their types if they may have come after the last row."
            )
            raise ArchiveError(msg)
    return dtypes
