"""Parts: a training set written piece by piece, so that a run that was killed can go on."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING

import msgspec

from headwater.errors import ConfigError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl

__all__ = ["Parts", "Recipe", "file_checksum"]

_FORMAT = 1
_MANIFEST = "parts.json"
_CHUNK_BYTES = 1 << 20


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a training set is made of; parts of two recipes are never mixed.

    `history` is a snapshot, or the checksums of files of events.
    """

    service: str
    revision: str
    history: str
    spine: str
    rows: int
    rows_per_part: int
    time: str
    as_of: str

    @property
    def parts(self) -> int:
        """How many parts there will be; an empty spine has one."""
        return max(1, -(-self.rows // self.rows_per_part))

    def metadata(self) -> dict[str, str]:
        """Return what is kept in each Parquet file."""
        facts = msgspec.to_builtins(self)
        return {f"headwater.{name}": str(value) for name, value in facts.items()}


class _Part(msgspec.Struct, frozen=True):
    name: str
    rows: int
    size_bytes: int


class _Manifest(msgspec.Struct, kw_only=True):
    format: int
    recipe: Recipe
    done: dict[int, _Part]


class Parts:
    """The parts of a training set in a folder; a manifest says which of them are done."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        """Begin in a new folder, or go on in one of the same recipe.

        Raises StateError for a folder of another recipe, ConfigError for one of something else.
        """
        self.folder = folder
        known = _read(folder)
        if known is None:
            if folder.exists() and any(folder.iterdir()):
                msg = f"folder {folder} holds other files; give a new or an empty one"
                raise ConfigError(msg)
            known = _Manifest(format=_FORMAT, recipe=recipe, done={})
        elif known.recipe != recipe:
            before, now = msgspec.to_builtins(known.recipe), msgspec.to_builtins(recipe)
            changed = next(name for name in now if now[name] != before[name])
            msg = (
                f"folder {folder} was begun with another {changed.replace('_', ' ')}"
                f" ({before[changed]}, now {now[changed]}); give the same, or another folder"
            )
            raise StateError(msg)
        self._manifest = known
        self._check()

    @staticmethod
    def history_of(folder: Path) -> str | None:
        """Return the snapshot that a folder was begun with, None for a new folder."""
        known = _read(folder)
        return None if known is None else known.recipe.history

    @property
    def rows(self) -> int:
        """How many rows are done."""
        return sum(part.rows for part in self._manifest.done.values())

    def paths(self) -> list[Path]:
        """Return the files that are done, in order."""
        return [self.folder / part.name for _, part in sorted(self._manifest.done.items())]

    def missing(self) -> Iterator[tuple[int, int]]:
        """Yield (number, first row) of the parts that are not done."""
        recipe = self._manifest.recipe
        for number in range(recipe.parts):
            if number not in self._manifest.done:
                yield number, number * recipe.rows_per_part

    def write(self, number: int, frame: pl.DataFrame) -> None:
        """Make a part durable, then say that it is done."""
        name = f"part-{number:05}.parquet"
        self.folder.mkdir(exist_ok=True)
        partial = self.folder / f".{name}"
        frame.write_parquet(partial, metadata=self._manifest.recipe.metadata())
        _settle(partial, self.folder / name)
        size = (self.folder / name).stat().st_size
        self._manifest.done[number] = _Part(name, frame.height, size)
        partial = self.folder / f".{_MANIFEST}"
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(self._manifest)))
        _settle(partial, self.folder / _MANIFEST)

    def _check(self) -> None:
        for part in self._manifest.done.values():
            path = self.folder / part.name
            if not path.is_file() or path.stat().st_size != part.size_bytes:
                msg = (
                    f"{path} is missing or not as it was written; restore it, or remove folder"
                    f" {self.folder} and begin again"
                )
                raise StateError(msg)


def file_checksum(path: Path) -> str:
    """Return a file's size and CRC-32, which tell a changed one."""
    crc, size = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return f"{size}~{crc:08x}"


def _read(folder: Path) -> _Manifest | None:
    path = folder / _MANIFEST
    if not path.is_file():
        return None
    try:
        known = msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except msgspec.MsgspecError as error:
        msg = f"{path} can't be read ({error}); restore it, or use another folder"
        raise StateError(msg) from error
    if known.format != _FORMAT:
        msg = f"{path} has format {known.format}, this version reads {_FORMAT}; use another folder"
        raise StateError(msg)
    return known


def _settle(partial: Path, path: Path) -> None:
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(path)
