"""Rows as Parquet: encodings chosen for size and CPU, and reading that checks every byte used."""

from __future__ import annotations

import contextlib
import io
import zlib
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from headwater_connectors.archive.errors import ArchiveError
from headwater_connectors.archive.schema import RAW, SYSTEM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headwater_connectors.archive.blobs import BlobReader, BlobStore
    from headwater_connectors.archive.manifest import FileEntry

__all__ = [
    "BLOCK_BYTES",
    "CURE",
    "FileWriter",
    "block_checksums",
    "check",
    "decode",
    "encode",
    "whole",
]

# Narrow columns of a row group are about 1 MiB: smaller blocks would only lengthen manifests.
BLOCK_BYTES = 128 << 10
# A reader holds one row group at a time, so both bounds are its memory.
_GROUP_ROWS_MAX = 128 << 10
_GROUP_BYTES_MAX = 64 << 20
_SAMPLE_ROWS = 4096
_OURS = "headwater."
_CHECK_BYTES = 8 << 20
CURE = "restore it from a copy, or archive the partition again in an empty place"


class FileWriter:
    """Rows on their way into the bytes of one Parquet file, which it holds in memory.

    Level 1 of zstd: level 3 costs 15 % more CPU and saves nothing on JSON payload. Integers and
    times are stored as differences; other columns as dictionaries where values repeat.
    """

    def __init__(self, first: pl.DataFrame, metadata: Mapping[str, str]) -> None:
        """Choose encodings by the first rows, which are still to be written."""
        dictionaries, encodings = _encodings(first)
        row_bytes = max(1, first.estimated_size() // max(1, first.height))
        self.group_rows: int = max(1, min(_GROUP_ROWS_MAX, _GROUP_BYTES_MAX // int(row_bytes)))
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(
            self._sink,
            _table(first.clear()).schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=dictionaries,
            column_encoding=encodings,
            # Of texts they cost an eighth of the CPU, and the smallest and largest say little.
            write_statistics=[
                n for n, d in first.schema.items() if d not in {pl.String, pl.Binary}
            ],
            # Ours are in the manifest; these let other tools notice damage.
            write_page_checksum=True,
        )
        self._writer.add_key_value_metadata(
            {f"{_OURS}{key}": text for key, text in metadata.items()}
        )

    def write(self, frame: pl.DataFrame) -> None:
        """Add rows, as row groups."""
        self._writer.write_table(_table(frame), row_group_size=self.group_rows)

    def finish(self) -> memoryview:
        """Return the file's bytes."""
        self._writer.close()
        return memoryview(self._sink.getvalue())


def encode(frame: pl.DataFrame, metadata: Mapping[str, str]) -> memoryview:
    """Return rows as the bytes of a Parquet file."""
    writer = FileWriter(frame, metadata)
    writer.write(frame)
    return writer.finish()


def block_checksums(data: memoryview, block_bytes: int) -> tuple[int, ...]:
    """Return the CRC-32 of each block of a file."""
    starts = range(0, len(data), block_bytes)
    return tuple(zlib.crc32(data[start : start + block_bytes]) for start in starts)


def decode(
    blobs: BlobStore, entry: FileEntry, columns: Mapping[str, pl.DataType], *, raw: bool
) -> Iterator[pl.DataFrame]:
    """Yield the row groups of a file: the system columns, `columns`, and the payload if `raw`.

    A column that the file was written without is null. ArchiveError names a file that is
    missing, cut or changed.
    """
    where = blobs.path(entry.name)
    with _parquet(blobs, entry, where) as file:
        names = set(file.schema_arrow.names)
        if raw and RAW not in names:
            msg = f"{where} was archived without the raw payload; read it with raw=False"
            raise ArchiveError(msg)
        wanted = {**SYSTEM, **columns, **({RAW: pl.Binary()} if raw else {})}
        stored = [name for name in wanted if name in names]
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=stored)
            yield _completed(table, wanted, where)


def whole(blobs: BlobStore, entry: FileEntry) -> Iterator[tuple[pl.DataFrame, dict[str, str]]]:
    """Yield the row groups of a file with all its columns, and what `encode` was told of it.

    Errors as those of `decode`.
    """
    with _parquet(blobs, entry, blobs.path(entry.name)) as file:
        stored = file.schema_arrow.metadata or {}
        metadata = {
            key.decode().removeprefix(_OURS): text.decode()
            for key, text in (*stored.items(), *(file.metadata.metadata or {}).items())
            if key.decode().startswith(_OURS)
        }
        for group in range(file.num_row_groups):
            frame = pl.from_arrow(file.read_row_group(group))
            assert isinstance(frame, pl.DataFrame)
            yield frame, metadata


def check(blobs: BlobStore, entry: FileEntry) -> None:
    """Read every byte of a file; errors as those of `decode`, and for a wrong number of rows."""
    where = blobs.path(entry.name)
    with blobs.open(entry.name) as reader:
        source = _Verified(reader, entry, where)
        while source.read(_CHECK_BYTES):
            pass
    with _parquet(blobs, entry, where) as file:
        if file.metadata.num_rows != entry.rows:
            msg = (
                f"{where} has {file.metadata.num_rows} rows, its manifest says {entry.rows}; {CURE}"
            )
            raise ArchiveError(msg)


@contextlib.contextmanager
def _parquet(blobs: BlobStore, entry: FileEntry, where: str) -> Iterator[Any]:
    """Open a file as Parquet; what is wrong with it while it is open names it."""
    with blobs.open(entry.name) as reader:
        source = _Verified(reader, entry, where)
        try:
            yield pq.ParquetFile(pa.PythonFile(source, "r"), pre_buffer=False)
        except pa.ArrowException as error:
            msg = f"{where} can't be read as Parquet ({error}); {CURE}"
            raise ArchiveError(msg) from error


def _table(frame: pl.DataFrame) -> Any:  # noqa: ANN401 - pyarrow has no types
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _encodings(frame: pl.DataFrame) -> tuple[list[str], dict[str, str]]:
    """Return the columns that get a dictionary, and the encodings of others."""
    dictionaries: list[str] = []
    encodings: dict[str, str] = {}
    for name, dtype in frame.schema.items():
        if dtype.is_integer() or dtype.is_temporal():
            encodings[name] = "DELTA_BINARY_PACKED"
        elif name != RAW and dtype != pl.Boolean:
            sample = frame[name].head(_SAMPLE_ROWS)
            if sample.n_unique() <= len(sample) // 2:
                dictionaries.append(name)
            elif dtype.is_float():
                encodings[name] = "BYTE_STREAM_SPLIT"
    return dictionaries, encodings


def _completed(table: Any, wanted: Mapping[str, pl.DataType], where: str) -> pl.DataFrame:  # noqa: ANN401 - pyarrow has no types
    """Return a table as a frame with all wanted columns, nulls where it has none."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    for name, dtype in frame.schema.items():
        if dtype != wanted[name]:
            msg = (
                f'{where}: column "{name}" is {dtype}, the manifests say {wanted[name]}; a column'
                f" keeps its type: {CURE}"
            )
            raise ArchiveError(msg)
    absent = [
        pl.lit(None, dtype).alias(name) for name, dtype in wanted.items() if name not in frame
    ]
    return frame.with_columns(absent).select(wanted.keys())


class _Verified(io.RawIOBase):
    """A file for Arrow to read, of which every block is checked before a byte is handed out."""

    def __init__(self, reader: BlobReader, entry: FileEntry, where: str) -> None:
        self._reader = reader
        self._entry = entry
        self._where = where
        self._at = 0
        if reader.size_bytes != entry.size_bytes:
            msg = (
                f"{where} has {reader.size_bytes} bytes, its manifest says {entry.size_bytes}: it"
                f" was cut or replaced; {CURE}"
            )
            raise ArchiveError(msg)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._entry.size_bytes}
        self._at = bases[whence] + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        entry, start = self._entry, self._at
        end = entry.size_bytes if size < 0 else min(entry.size_bytes, start + size)
        if end <= start:
            return b""
        block = entry.block_bytes
        first, last = start // block, -(-end // block)
        data = self._reader.read_at(
            first * block, min(entry.size_bytes, last * block) - first * block
        )
        view = memoryview(data)
        for index in range(first, last):
            at = (index - first) * block
            if zlib.crc32(view[at : at + block]) != entry.crc32[index]:
                msg = (
                    f"{self._where} is damaged between bytes {index * block} and"
                    f" {min(entry.size_bytes, (index + 1) * block)}; {CURE}"
                )
                raise ArchiveError(msg)
        self._at = end
        return data[start - first * block : end - first * block]
