"""Scans: the rows of one partition in batches, as far as a snapshot reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from headwater.errors import did_you_mean
from headwater_connectors.archive.errors import ArchiveError
from headwater_connectors.archive.parquet import decode
from headwater_connectors.archive.schema import dtype_of, merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from headwater_connectors.archive.blobs import BlobStore
    from headwater_connectors.archive.chain import Chain
    from headwater_connectors.archive.manifest import Link, Manifest
    from headwater_connectors.archive.selection import Selection

__all__ = ["Scan", "column_dtypes"]


@dataclass(frozen=True, slots=True)
class Scan:
    """The wanted rows of one partition, up to the last manifest of a snapshot."""

    blobs: BlobStore
    chain: Chain
    head: Link | None
    selection: Selection

    def check_end(self) -> None:
        """Check that the archive reaches the end of the stretch asked for."""
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
        for link in self.chain.up_to(self.head.manifest.number):
            self._check_begin(link.manifest)
            for entry in link.manifest.files:
                if self.selection.may_hold(entry):
                    for frame in decode(self.blobs, entry, dtypes, raw=raw):
                        yield self.selection.filtered(frame)

    def _check_begin(self, manifest: Manifest) -> None:
        stretch = self.selection.stretch
        if manifest.number > 1 or stretch is None or stretch[0] >= stretch[1]:
            return
        if stretch[0] < manifest.from_offset:
            msg = (
                f"{self.chain.folder}: offsets {stretch} were asked for and the archive begins"
                f" after {manifest.from_offset}; read what is before from the topic"
            )
            raise ArchiveError(msg)


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
