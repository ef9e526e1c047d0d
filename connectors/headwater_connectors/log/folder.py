"""The folder of an embedded log: whose it is, and who has it open."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from headwater.errors import ConfigError, StateError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DATABASE_NAME", "LOCK_NAME", "FolderLock"]

DATABASE_NAME = "log.sqlite"
LOCK_NAME = "log.lock"
_SHOWN_FILES_MAX = 3


class FolderLock:
    """Holds a folder for this log until it is closed or its process dies."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if there is none, and lock it.

        ConfigError if it can't be made or is in use, StateError if it holds other files.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(folder)
            self._descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            msg = f'log folder "{folder}" can\'t be used: {error.strerror}; give another path'
            raise ConfigError(msg) from error
        try:
            # The kernel releases it when the process ends, however it ends. It is held by the
            # open file, so a second open in the same process is refused as well.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            msg = (
                f'log folder "{folder}" is already in use by process {owner or "(unknown)"};'
                " close it there or give another path"
            )
            raise ConfigError(msg) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others open the folder."""
        os.close(self._descriptor)


def _refuse_foreign(folder: Path) -> None:
    """Raise StateError if the folder holds files and none of them is a log's database."""
    names = sorted(entry.name for entry in folder.iterdir())
    others = [name for name in names if name != LOCK_NAME]
    if others and DATABASE_NAME not in others:
        shown = ", ".join(others[:_SHOWN_FILES_MAX])
        more = ", …" if len(others) > _SHOWN_FILES_MAX else ""
        msg = f'folder "{folder}" holds other files ({shown}{more}) and no log; give an empty one'
        raise StateError(msg)
