"""The archive: a writer that extends partitions, and readers of any snapshot."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater_connectors.archive.chain import Chain
from headwater_connectors.archive.errors import (
    AlreadyExistsError,
    ArchiveConflictError,
    ArchiveError,
)
from headwater_connectors.archive.generation import UNTRIMMED, dropped
from headwater_connectors.archive.lacked import lacked_after, lacked_until
from headwater_connectors.archive.manifest import Manifest
from headwater_connectors.archive.parquet import encode
from headwater_connectors.archive.rows import check_offsets, column_types, described, ordered
from headwater_connectors.archive.scan import Scan, column_dtypes
from headwater_connectors.archive.schema import OFFSET, RAW, fingerprint, merged
from headwater_connectors.archive.selection import Selection
from headwater_connectors.archive.snapshot import Snapshot, TopicSnapshot, checksum

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    import polars as pl

    from headwater_connectors.archive.blobs import BlobStore
    from headwater_connectors.archive.generation import Generation
    from headwater_connectors.archive.manifest import FileEntry, Link

__all__ = ["NO_FRONTIER_US", "Archive", "Beginning"]

# The frontier where nothing is archived: before all times.
NO_FRONTIER_US = -(1 << 63)

_TOPIC = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")
_TOPIC_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PARTITIONS_MAX = 100_000
_FILE_ROWS_MAX = 1 << 20
_ORPHANS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Beginning:
    """From where a partition is archived: after an offset.

    `dropped_us` is the arrival in µs UTC of the last row that retention dropped, None if it
    dropped nothing.
    """

    after_offset: int
    dropped_us: int | None


class Archive:
    """Rows of streams, by topic id and partition; safe to use from any thread.

    A partition has one writer at a time and any number of readers. Files lie at
    `<topic>/<topic_id>/partition=<p>/rows/<first>-<last>-<n>.parquet`, manifests at
    `<topic>/<topic_id>/partition=<p>/manifests/<number>.json`; a file that no manifest names is
    never read. Beside them `generations/<number>.json` and `compacted/…parquet` hold the same rows
    in fewer files.
    """

    def __init__(self, blobs: BlobStore, *, stamp: str) -> None:
        """Use a blob store; `stamp`, of the engine that decodes, is kept with what is written."""
        self.blobs = blobs
        self._stamp = stamp
        self._lock = threading.Lock()
        self._chains: dict[tuple[str, str, int], Chain] = {}
        # Partitions are only ever added, so these are lower bounds.
        self._partitions: dict[tuple[str, str], int] = {}

    def append(
        self,
        topic: str,
        topic_id: str,
        partition: int,
        frame: pl.DataFrame,
        *,
        to_offset: int,
        frontier_us: int,
        from_offset: int | None = None,
        keep_raw: bool = True,
    ) -> Manifest:
        """Make rows durable and return the manifest that says so.

        It covers the records after the last manifest up to and with `to_offset`, of which
        `frame` holds those that could be decoded: `__offset`, `__ts`, `__arrival` (Int64, times in
        µs UTC), `__raw` (Binary; left out with keep_raw=False) and the stream's columns. Without
        rows the frame may have no columns. The first manifest needs `from_offset`, exclusive, so
        -1 is the beginning; later ones are checked against it. The frontier never goes back. If
        there is nothing new to say, the last manifest is returned.

        Raises ArchiveConflictError if another writer extended the partition: go on from
        `position`. Raises ArchiveError if a column has changed its type. After any error nothing
        was added, or all of it was: `position` tells.
        """
        chain = self.chain(topic, topic_id, partition)
        where = f"archive of {topic}[{partition}]"
        tail = chain.tail()
        start = _start(tail, from_offset, to_offset, where)
        columns = tail.manifest.columns if tail else {}
        if frame.width:
            frame = ordered(frame, where, keep_raw=keep_raw)
            columns = merged(columns, column_types(frame, where), where)
        if frame.height:
            check_offsets(frame, start, to_offset, where)
        elif tail and to_offset == start and frontier_us <= tail.manifest.frontier_us:
            return tail.manifest
        self._announce(topic, topic_id, partition)
        pieces = frame.iter_slices(_FILE_ROWS_MAX) if frame.height else ()
        types = column_types(frame, where) if frame.height else {}
        manifest = Manifest(
            topic=topic,
            topic_id=topic_id,
            partition=partition,
            number=tail.manifest.number + 1 if tail else 1,
            previous=tail.crc32 if tail else "",
            from_offset=start,
            to_offset=to_offset,
            frontier_us=max(frontier_us, tail.manifest.frontier_us) if tail else frontier_us,
            rows=frame.height,
            rows_total=frame.height + (tail.manifest.rows_total if tail else 0),
            stamp=self._stamp,
            columns=columns,
            files=tuple(self._write(f"{chain.folder}/rows", piece, types) for piece in pieces),
            lacked=lacked_after(chain, tail, columns, types, to_offset),
        )
        return chain.extend(manifest).manifest

    def position(self, topic: str, topic_id: str, partition: int) -> int | None:
        """Return the last offset covered, None if nothing is: where a writer goes on."""
        newest = self.chain(topic, topic_id, partition).newest()
        return newest.manifest.to_offset if newest else None

    def beginning(self, topic: str, topic_id: str, partition: int) -> Beginning | None:
        """Return from where the archive holds a partition, None if it holds nothing."""
        chain = self.chain(topic, topic_id, partition)
        generation = chain.generations.newest()
        if generation is not None:
            is_trimmed = generation.begin != UNTRIMMED
            return Beginning(generation.start, generation.begin_us if is_trimmed else None)
        if chain.newest() is None:
            return None
        return Beginning(chain.at(1).manifest.from_offset, None)

    def partitions(self) -> list[tuple[str, str, int]]:
        """Return topic, topic id and number of every partition there is."""
        found = []
        for topic in self.blobs.folders(""):
            if not _TOPIC.fullmatch(topic):
                continue
            for topic_id in self.blobs.folders(f"{topic}/"):
                count = self._partition_count(topic, topic_id)
                found += [(topic, topic_id, partition) for partition in range(count)]
        return found

    def frontier_us(
        self,
        topic: str,
        topic_id: str,
        partitions: Iterable[int],
        snapshot: Snapshot | None = None,
    ) -> int:
        """Return the arrival time in µs UTC up to which all of these partitions are archived.

        NO_FRONTIER_US if one has no manifest yet.
        """
        wanted = list(partitions)
        if not wanted:
            msg = f'the frontier of no partition of "{topic}" was asked for; name at least one'
            raise ArchiveError(msg)
        if snapshot is None:
            newest = {part: self.chain(topic, topic_id, part).newest() for part in wanted}
        else:
            newest = dict(enumerate(self._heads(snapshot.of(topic, topic_id))))
        links = [newest.get(partition) for partition in wanted]
        return min(link.manifest.frontier_us if link else NO_FRONTIER_US for link in links)

    def snapshot(self, topics: Mapping[str, str] | Iterable[tuple[str, str]]) -> Snapshot:
        """Return the present extent of topics, given as name → topic id or as pairs of those."""
        parts = []
        pairs = topics.items() if isinstance(topics, Mapping) else topics
        for topic, topic_id in sorted(pairs):
            count = self._partition_count(topic, topic_id)
            chains = [self.chain(topic, topic_id, part) for part in range(count)]
            generations = [chain.generations.newest() for chain in chains]
            heads = [chain.newest() for chain in chains]
            numbers = tuple(link.manifest.number if link else 0 for link in heads)
            crc32 = checksum(link.crc32 if link else "" for link in heads)
            begins = tuple(one.begin if one else UNTRIMMED for one in generations)
            parts.append(TopicSnapshot(topic, topic_id, numbers, crc32, begins))
        return Snapshot(tuple(parts))

    def rows(self, topic: str, topic_id: str, snapshot: Snapshot | None = None) -> int:
        """Count the rows of a topic, from the last manifests alone."""
        part = self._part(topic, topic_id, snapshot)
        heads, generations = self._heads(part), self._generations(part)
        total = sum(link.manifest.rows_total for link in heads if link)
        for begin, generation in zip(part.begins, generations, strict=True):
            if generation is not None:
                before = [file.rows for file in generation.files if file.offset_max <= begin]
                total -= generation.rows_dropped + sum(before)
        return total

    def manifests(
        self, topic: str, topic_id: str, partition: int, snapshot: Snapshot | None = None
    ) -> Iterator[Manifest]:
        """Yield the manifests of a partition; each is checked to extend the one before it.

        The files of older ones may be gone: what holds their rows now a scan finds.
        """
        numbers = self._part(topic, topic_id, snapshot).numbers
        number = numbers[partition] if partition < len(numbers) else 0
        chain = self.chain(topic, topic_id, partition)
        links = chain.up_to(number, chain.generations.newest())
        return (link.manifest for link in links)

    def files(self, topic: str, topic_id: str, partition: int) -> Iterator[FileEntry]:
        """Yield the files that hold a partition's rows now; the first may have dropped rows too."""
        chain = self.chain(topic, topic_id, partition)
        generation, newest = chain.generations.newest(), chain.newest()
        if generation:
            yield from generation.files
        if newest:
            for link in chain.above(generation, newest.manifest.number):
                yield from link.manifest.files

    def extents(
        self, topic: str, topic_id: str, snapshot: Snapshot | None = None
    ) -> dict[int, tuple[int, int]]:
        """Return the offsets (from, to] that are archived of each partition that has some."""
        part = self._part(topic, topic_id, snapshot)
        found = {}
        for partition, head in enumerate(self._heads(part)):
            beginning = self.beginning(topic, topic_id, partition)
            if head is not None and beginning is not None:
                begin = max(beginning.after_offset, part.begins[partition])
                found[partition] = (begin, head.manifest.to_offset)
        return found

    def lacks_until(
        self,
        topic: str,
        topic_id: str,
        partition: int,
        columns: Collection[str],
        snapshot: Snapshot | None = None,
    ) -> int | None:
        """Return the last offset archived without all of these columns, None if they were there.

        Up to there a scan says null in places, and the raw records may have more.
        """
        chain = self.chain(topic, topic_id, partition)
        if snapshot is None:
            head = chain.newest()
        else:
            part = snapshot.of(topic, topic_id)
            number = part.numbers[partition] if partition < len(part.numbers) else 0
            head = self._at(part, chain, number)
        if head is None:
            return None
        manifest = head.manifest
        if not set(columns) <= manifest.columns.keys():
            return manifest.to_offset
        lacked = lacked_until(chain, manifest)
        return max((lacked[name] for name in columns if name in lacked), default=None)

    def scan(  # noqa: PLR0913 - each one narrows the rows
        self,
        topic: str,
        topic_id: str,
        *,
        columns: Sequence[str] | Mapping[str, pl.DataType],
        snapshot: Snapshot | None = None,
        ts_before_us: int | None = None,
        ts_from_us: int | None = None,
        stretches: Mapping[int, tuple[int, int]] | None = None,
        raw: bool = False,
        batch_rows: int = 1_000_000,
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield (partition, rows) in the order of partitions and offsets.

        Rows have `__offset`, `__ts`, `__arrival`, the columns asked for, and `__raw` if `raw`;
        frames have `batch_rows` rows, the last one of a partition fewer. Memory: a batch and one
        row group. With ts_from_us ≤ ts < ts_before_us only such rows come, and files without any
        are not opened. `stretches` names the partitions to read and of each the offsets
        (from, to], all of which must be archived.

        A column that was archived from some record on is null before it. Columns given with
        their types may be missing from the archive altogether. Raises ArchiveError, here or
        while rows are read, for an unknown column, a column of two types, and for every file
        that is missing, cut or changed.
        """
        if batch_rows < 1:
            msg = f"batch_rows is {batch_rows}: ask for at least one row"
            raise ValueError(msg)
        part = self._part(topic, topic_id, snapshot)
        heads, generations = self._heads(part), self._generations(part)
        dtypes = column_dtypes(columns, heads, topic)
        scans = []
        for partition in sorted(range(len(heads)) if stretches is None else stretches):
            stretch = None if stretches is None else stretches[partition]
            selection = Selection(ts_from_us, ts_before_us, stretch)
            head = generation = None
            if partition < len(heads):
                head, generation = heads[partition], generations[partition]
                if generation and generation.begin < part.begins[partition]:
                    selection = selection.after(part.begins[partition])
            chain = self.chain(topic, topic_id, partition)
            scans.append(Scan(self.blobs, chain, head, selection, generation))
        for scan in scans:
            scan.check_stretch()
        return (
            (scan.chain.partition, batch)
            for scan in scans
            for batch in scan.batches(dtypes, raw=raw, batch_rows=batch_rows)
        )

    def _write(self, folder: str, frame: pl.DataFrame, types: Mapping[str, str]) -> FileEntry:
        """Write one file under a name that nobody uses and return its entry."""
        payload = RAW if RAW in frame.columns else ""
        layout = fingerprint(types, payload, self._stamp)
        data = encode(frame, {"schema": fingerprint(types), "stamp": self._stamp})
        first, last = frame[OFFSET][0], frame[OFFSET][-1]
        for attempt in range(_ORPHANS_MAX):
            name = f"{folder}/{first}-{last}-{attempt}.parquet"
            # A file without a manifest may belong to a writer that still lives: leave it alone.
            if self.blobs.exists(name):
                continue
            with contextlib.suppress(AlreadyExistsError):
                self.blobs.put_if_absent(name, data)
                return described(name, data, frame, layout)
        msg = (
            f"{self.blobs.path(folder)}: {_ORPHANS_MAX} files of offsets {first}-{last} were left"
            " without a manifest; see why the writer fails each time, then delete those that no"
            " manifest names"
        )
        raise ArchiveError(msg)

    def chain(self, topic: str, topic_id: str, partition: int) -> Chain:
        """Return the manifests and generations of a partition; ArchiveError for a wrong name."""
        if not _TOPIC.fullmatch(topic) or not _TOPIC_ID.fullmatch(topic_id):
            msg = (
                f'topic "{topic}" with id "{topic_id}" can\'t be archived: topics have letters,'
                " digits, dots, dashes and underscores, ids no dots"
            )
            raise ArchiveError(msg)
        if not 0 <= partition <= _PARTITIONS_MAX:
            msg = f"partition {partition} of {topic}: partitions are 0 to {_PARTITIONS_MAX}"
            raise ArchiveError(msg)
        key = (topic, topic_id, partition)
        with self._lock:
            if key not in self._chains:
                self._chains[key] = Chain(self.blobs, *key)
            return self._chains[key]

    def _announce(self, topic: str, topic_id: str, partition: int) -> None:
        """Let readers find a partition and, since they count, all before it."""
        key = (topic, topic_id)
        known = self._partitions.get(key, 0)
        for before in range(known, partition + 1):
            self.chain(topic, topic_id, before).announce()
        self._know(key, partition + 1)

    def _partition_count(self, topic: str, topic_id: str) -> int:
        key = (topic, topic_id)
        count = self._partitions.get(key, 0)
        while self.chain(topic, topic_id, count).is_announced():
            count += 1
        if self.chain(topic, topic_id, count + 1).is_announced():
            # They are announced in order, so this one has come in between, or was lost.
            if not self.chain(topic, topic_id, count).is_announced():
                path = self.blobs.path(self.chain(topic, topic_id, count).folder)
                msg = f"{path} is missing although the next partition is there; restore it"
                raise ArchiveError(msg)
            return self._partition_count(topic, topic_id)
        self._know(key, count)
        return count

    def _know(self, key: tuple[str, str], count: int) -> None:
        with self._lock:
            self._partitions[key] = max(count, self._partitions.get(key, 0))

    def _part(self, topic: str, topic_id: str, snapshot: Snapshot | None) -> TopicSnapshot:
        return (snapshot or self.snapshot({topic: topic_id})).of(topic, topic_id)

    def _heads(self, part: TopicSnapshot) -> list[Link | None]:
        """Return the last manifest of each partition of a snapshot."""
        chains = [
            self.chain(part.topic, part.topic_id, partition)
            for partition in range(len(part.numbers))
        ]
        heads = [
            self._at(part, chain, number)
            for chain, number in zip(chains, part.numbers, strict=True)
        ]
        if checksum(link.crc32 if link else "" for link in heads) != part.crc32:
            msg = (
                f"snapshot {part} was taken of other manifests than those that are here; use the"
                " archive that it was taken of, or take a new one"
            )
            raise ArchiveError(msg)
        return heads

    def _at(self, part: TopicSnapshot, chain: Chain, number: int) -> Link | None:
        """Return the manifest of a number in a snapshot; None for number 0."""
        try:
            return chain.at(number) if number else None
        except ArchiveError:
            self._generations(part)  # which says so where retention has dropped them
            raise

    def _generations(self, part: TopicSnapshot) -> list[Generation | None]:
        """Return the newest generation of each partition; ArchiveError if a snapshot needs more."""
        found = []
        for partition, begin in enumerate(part.begins):
            generation = self.chain(part.topic, part.topic_id, partition).generations.newest()
            if generation is not None and generation.begin > begin and part.numbers[partition]:
                msg = f"snapshot {part} can't be read any more: {dropped(generation)}"
                raise ArchiveError(msg)
            found.append(generation)
        return found


def _start(tail: Link | None, from_offset: int | None, to_offset: int, where: str) -> int:
    """Return the offset after which an append begins."""
    if tail is None:
        if from_offset is None:
            msg = (
                f"{where}: nothing is archived yet; say after which offset history begins with"
                " from_offset= (-1 is the beginning)"
            )
            raise ArchiveError(msg)
        start = from_offset
    else:
        start = tail.manifest.to_offset
        if from_offset not in (None, start) or to_offset < start:
            msg = (
                f"{where}: it reaches offset {start}, this append covers"
                f" ({start if from_offset is None else from_offset}, {to_offset}]; go on from the"
                " archive's position"
            )
            raise ArchiveConflictError(msg)
    if to_offset < start:
        msg = f"{where}: to_offset={to_offset} lies before from_offset={start}"
        raise ArchiveError(msg)
    return start
