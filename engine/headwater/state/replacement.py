"""A folder built beside another and then put in its place, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from typing import TYPE_CHECKING

from headwater.errors import ConfigError
from headwater.state.store import check_unused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["replacement", "sync_folder"]


@contextlib.contextmanager
def replacement(into: Path) -> Iterator[Path]:
    """Yield a new, empty folder; at the end it takes the place of the store `into`.

    Files in it must be durable. After an error `into` is as it was. ConfigError if the store is
    open, or being replaced, anywhere. A crash at the very end may leave no `into`, never half of
    one.
    """
    check_unused(into)
    into.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (into.with_name(f".{into.name}.{what}") for what in ("new", "old"))
    with _locked(into):
        if old.exists() and not into.exists():
            old.rename(into)  # a crash came between the two renames below
        for left in (fresh, old):
            if left.exists():
                shutil.rmtree(left)
        fresh.mkdir()
        try:
            yield fresh
            sync_folder(fresh)
            check_unused(into)
            if into.exists():
                into.rename(old)
            try:
                fresh.rename(into)
            except OSError:
                old.rename(into)
                raise
            sync_folder(into.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(into: Path) -> Iterator[None]:
    with into.with_name(f".{into.name}.lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = (
                f"state folder {into} is being restored by another process; stop it or use"
                " another folder"
            )
            raise ConfigError(msg) from error
        yield
