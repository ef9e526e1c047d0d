"""The folder of a durable local store: log, state, archive, and what was resolved once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from headwater.errors import ConfigError, StateError
from headwater.flow.settings import WorkerSettings
from headwater.flow.starts import Start  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOCAL_NAMESPACE", "LocalFolder", "local_settings"]

LOCAL_NAMESPACE = "local"

_SHARDS = 4
_FORMAT = 1
_META = "headwater.json"


def local_settings(path: Path | None) -> WorkerSettings:
    """Return the settings of a store in this process, with the shards its folder was made with."""
    shards = LocalFolder.shards_of(path) or _SHARDS
    return WorkerSettings(namespace=LOCAL_NAMESPACE, shards=shards, read_back_us=None)


class _Meta(msgspec.Struct):
    format: int
    namespace: str
    shards: int
    starts: dict[str, Start]


class LocalFolder:
    """Checks that a folder is ours, or makes it so; knows where things lie in it."""

    def __init__(self, path: Path, settings: WorkerSettings) -> None:
        self.path = path
        self._meta_path = path / _META
        self._temporary = self._meta_path.with_suffix(".tmp")
        if path.exists() and not path.is_dir():
            msg = f"{path} is a file; give a folder for the store"
            raise StateError(msg)
        if self._meta_path.exists():
            self._meta = self._read()
            self._check(settings)
            return
        # A process that died at once leaves no more than a half-written file of ours.
        if path.exists() and {entry.name for entry in path.iterdir()} - {self._temporary.name}:
            msg = (
                f"folder {path} holds other files and no Headwater store; give an empty or a new"
                " folder"
            )
            raise StateError(msg)
        path.mkdir(parents=True, exist_ok=True)
        self._meta = _Meta(_FORMAT, settings.namespace, settings.shards, {})
        self._write()

    def _read(self) -> _Meta:
        try:
            data = self._meta_path.read_bytes()
            raw = msgspec.json.decode(data)
            if raw.get("format") != _FORMAT:
                msg = (
                    f"folder {self.path} has store format {raw.get('format')}, this version reads"
                    f" {_FORMAT}; open it with the version that wrote it, or use a new folder"
                )
                raise StateError(msg)
            return msgspec.json.decode(data, type=_Meta)
        except (msgspec.DecodeError, msgspec.ValidationError, AttributeError) as error:
            msg = f"{self._meta_path} can't be read ({error}); restore it, or use a new folder"
            raise StateError(msg) from error

    def _check(self, settings: WorkerSettings) -> None:
        if (self._meta.namespace, self._meta.shards) != (settings.namespace, settings.shards):
            msg = (
                f'folder {self.path} is of namespace "{self._meta.namespace}" with'
                f" {self._meta.shards}"
                f' shards, asked for "{settings.namespace}" with {settings.shards}; use the same'
                " settings"
                " or a new folder"
            )
            raise StateError(msg)

    def _write(self) -> None:
        with self._temporary.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self._meta)))
            file.flush()
            os.fsync(file.fileno())
        self._temporary.replace(self._meta_path)

    @staticmethod
    def shards_of(path: Path | None) -> int | None:
        """Return how many shards a folder was made with, None where there is no store yet."""
        if path is None or not (path / _META).exists():
            return None
        try:
            return msgspec.json.decode((path / _META).read_bytes(), type=_Meta).shards
        except msgspec.MsgspecError:
            return None

    @staticmethod
    def log_of(path: Path) -> tuple[Path, str]:
        """Return the log and the namespace of a store's folder; ConfigError if there is no store.

        A folder that can't be read raises ConfigError too.
        """
        if not (path / _META).exists():
            msg = (
                f"no store in folder {path}; give the folder that headwater serve has with --folder"
            )
            raise ConfigError(msg)
        try:
            meta = msgspec.json.decode((path / _META).read_bytes(), type=_Meta)
        except msgspec.MsgspecError as error:
            msg = f"{path / _META} can't be read ({error}); restore it, or use another folder"
            raise ConfigError(msg) from error
        return path / "log", meta.namespace

    @property
    def log(self) -> Path:
        """The log's folder."""
        return self.path / "log"

    @property
    def archive(self) -> Path:
        """The archive's folder."""
        return self.path / "archive"

    @property
    def state(self) -> Path:
        """The folder of the shards' stores."""
        return self.path / "state"

    @property
    def samples(self) -> Path:
        """The folder of samples of what was served."""
        return self.path / "samples"

    def starts(self) -> dict[str, Start]:
        """Where each stream's history begins, as resolved when it was first opened."""
        return self._meta.starts

    def keep_starts(self, starts: dict[str, Start]) -> None:
        """Write down where streams begin."""
        if starts != self._meta.starts:
            self._meta.starts = starts
            self._write()
