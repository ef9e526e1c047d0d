"""Rows as Parquet: encodings chosen for size and CPU, and reading that checks every byte used."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from headwater_connectors.archive.errors import ArchiveError, MissingBlobError
from headwater_connectors.archive.schema import RAW, SYSTEM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headwater_connectors.archive.blobs import BlobReader, BlobStore
    from headwater_connectors.archive.manifest import FileEntry

__all__ = ["BLOCK_BYTES", "block_checksums", "decode", "encode"]

# Narrow columns of a row group are about 1 MiB: smaller blocks would only lengthen manifests.
BLOCK_BYTES = 128 << 10
# A reader holds one row group at a time, so both bounds are its memory.
_GROUP_ROWS_MAX = 128 << 10
_GROUP_BYTES_MAX = 64 << 20
_SAMPLE_ROWS = 4096
_CURE = "restore it from a copy, or archive the partition again in an empty place"


def encode(frame: pl.DataFrame, metadata: Mapping[str, str]) -> memoryview:
    """Return rows as the bytes of a Parquet file.

    Level 1 of zstd: level 3 costs 15 % more CPU and saves nothing on JSON payload. Integers and
    times are stored as differences; other columns as dictionaries where values repeat.
    """
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    dictionaries, encodings = _encodings(frame)
    row_bytes = max(1, frame.estimated_size() // max(1, frame.height))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=dictionaries,
        column_encoding=encodings,
        write_statistics=[name for name in frame.columns if name != RAW],
        # Ours are in the manifest; these let other tools notice damage.
        write_page_checksum=True,
    ) as writer:
        writer.add_key_value_metadata({f"headwater.{key}": text for key, text in metadata.items()})
        writer.write_table(
            table,
            row_group_size=max(1, min(_GROUP_ROWS_MAX, _GROUP_BYTES_MAX // row_bytes)),
        )
    return memoryview(sink.getvalue())


def block_checksums(data: memoryview) -> tuple[int, ...]:
    """Return the CRC-32 of each block of a file."""
    starts = range(0, len(data), BLOCK_BYTES)
    return tuple(zlib.crc32(data[start : start + BLOCK_BYTES]) for start in starts)


def decode(
    blobs: BlobStore, entry: FileEntry, columns: Mapping[str, pl.DataType], *, raw: bool
) -> Iterator[pl.DataFrame]:
    """Yield the row groups of a file: the system columns, `columns`, and the payload if `raw`.

    A column that the file was written without is null. ArchiveError names a file that is
    missing, cut or changed.
    """
    where = blobs.path(entry.name)
    with _opened(blobs, entry.name) as reader:
        source = _Verified(reader, entry, where)
        try:
            file = pq.ParquetFile(pa.PythonFile(source, "r"), pre_buffer=False)
            names = set(file.schema_arrow.names)
            if raw and RAW not in names:
                msg = f"{where} was archived without the raw payload; read it with raw=False"
                raise ArchiveError(msg)
            wanted = {**SYSTEM, **columns, **({RAW: pl.Binary()} if raw else {})}
            stored = [name for name in wanted if name in names]
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=stored)
                yield _completed(table, wanted, where)
        except pa.ArrowException as error:
            msg = f"{where} can't be read as Parquet ({error}); {_CURE}"
            raise ArchiveError(msg) from error


def _opened(blobs: BlobStore, name: str) -> BlobReader:
    try:
        return blobs.open(name)
    except MissingBlobError as error:
        msg = f"{error}, although a manifest names it; {_CURE}"
        raise ArchiveError(msg) from error


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
                f" keeps its type: {_CURE}"
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
                f" was cut or replaced; {_CURE}"
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
                    f" {min(entry.size_bytes, (index + 1) * block)}; {_CURE}"
                )
                raise ArchiveError(msg)
        self._at = end
        return data[start - first * block : end - first * block]
