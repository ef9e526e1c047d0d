"""Blobs: named, immutable runs of bytes; what an archive asks of a folder or an object store."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol, Self

from headwater_connectors.archive.errors import (
    AlreadyExistsError,
    ArchiveError,
    MissingBlobError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["BlobReader", "BlobStore", "FolderBlobs"]

# Under the root, so that a rename never leaves the file system.
_INCOMING = ".incoming"
_STAGE_TRIES_MAX = 16


class BlobReader(Protocol):
    """A blob open for reading; a context manager."""

    size_bytes: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, fewer at the end of the blob."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class BlobStore(Protocol):
    """Keeps blobs under names such as `flights/a1/LATEST`; safe to use from any thread.

    A write that returns is durable; a reader sees all of a blob or none of it. Nothing is ever
    listed, because object stores list late and slowly. Failures are raised as ArchiveError.
    """

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Store a blob, in place of the one that may be there."""
        ...

    def put_if_absent(self, name: str, data: bytes | memoryview) -> None:
        """Store a blob; AlreadyExistsError if the name is taken. Of two callers one succeeds."""
        ...

    def get(self, name: str) -> bytes:
        """Return a blob; MissingBlobError if it isn't there."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether a blob is there."""
        ...

    def open(self, name: str) -> BlobReader:
        """Open a blob to read parts of it; MissingBlobError if it isn't there."""
        ...

    def path(self, name: str) -> str:
        """Return where a blob is, for messages."""
        ...


class FolderBlobs:
    """Blobs as files below a folder.

    A file is written under `.incoming`, made durable, and then named by a rename or a hard link.
    `durable=False` leaves out every fsync: for folders that need not outlive a power failure.
    """

    def __init__(self, root: str | os.PathLike[str], *, durable: bool = True) -> None:
        """Use a folder; it is made by the first write."""
        self._root = Path(root)
        self._durable = durable
        # Folders that this process has made durable: one a dead process made may not be.
        self._folders: set[Path] = set()
        self._swept = False

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Write a file and rename it over the one that may be there; see BlobStore."""
        target = self._target(name)
        with self._explained("write", name), self._staged(data) as staged:
            staged.replace(target)
            self._sync(target.parent)

    def put_if_absent(self, name: str, data: bytes | memoryview) -> None:
        """Write a file and link it under a free name; see BlobStore."""
        target = self._target(name)
        with self._explained("write", name), self._staged(data) as staged:
            try:
                # Unlike a rename, a link never replaces what is there.
                os.link(staged, target)
            except FileExistsError as error:
                msg = f"{target} exists already, and is never replaced"
                raise AlreadyExistsError(msg) from error
            self._sync(target.parent)

    def get(self, name: str) -> bytes:
        """Read a whole file; see BlobStore."""
        with self._explained("read", name):
            return self._location(name).read_bytes()

    def exists(self, name: str) -> bool:
        """Return whether the file is there; see BlobStore."""
        with self._explained("read", name):
            return self._location(name).is_file()

    def open(self, name: str) -> _FileReader:
        """Open a file; see BlobStore."""
        with self._explained("read", name):
            return _FileReader(self._location(name))

    def path(self, name: str) -> str:
        """Return the file's path."""
        return str(self._location(name))

    def _location(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or "/".join(parts) != name or name.startswith("/") or ".." in parts:
            msg = f'"{name}" is not a blob name: use parts separated by single slashes'
            raise ArchiveError(msg)
        if parts[0] == _INCOMING:
            msg = f'"{name}": "{_INCOMING}" holds unfinished files; use another first part'
            raise ArchiveError(msg)
        return self._root.joinpath(*parts)

    def _target(self, name: str) -> Path:
        target = self._location(name)
        with self._explained("write", name):
            self._make_folder(target.parent)
        return target

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and its entries up to the root's own durable, once in this process."""
        if folder in self._folders:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for entry in (folder, *folder.parents):
            self._sync(entry.parent)
            if entry == self._root:
                break
        self._folders.add(folder)

    def _sync(self, folder: Path) -> None:
        if not self._durable:
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _staged(self, data: bytes | memoryview) -> Iterator[Path]:
        """Yield the path of a durable, still unnamed file with the data."""
        incoming = self._root / _INCOMING
        self._make_folder(incoming)
        if not self._swept:
            _sweep(incoming)
            self._swept = True
        descriptor, staged = _locked_file(incoming)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if self._durable:
                    os.fsync(descriptor)
                # The lock is held until the file has its name.
                yield staged
        finally:
            staged.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self, what: str, name: str) -> Iterator[None]:
        """Turn failures of the file system into errors that say what to do."""
        try:
            yield
        except FileNotFoundError as error:
            msg = f"{self._location(name)} is missing"
            raise MissingBlobError(msg) from error
        except OSError as error:
            msg = (
                f"can't {what} {self._location(name)}: {error.strerror or error}; the archive"
                " needs space, permission and a file system with hard links"
            )
            raise ArchiveError(msg) from error


class _FileReader:
    """A file read by position."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size_bytes = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, fewer at the end of the file."""
        try:
            parts = [os.pread(self._descriptor, length, offset)]
            # One call returns at most 2 GiB, and less when a signal comes in between.
            while (missing := length - sum(map(len, parts))) and parts[-1]:
                parts.append(os.pread(self._descriptor, missing, offset + length - missing))
        except OSError as error:
            msg = f"can't read {self._path}: {error.strerror}; check the disk, then try again"
            raise ArchiveError(msg) from error
        return b"".join(parts) if len(parts) > 1 else parts[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


def _locked_file(folder: Path) -> tuple[int, Path]:
    """Create a file that `_sweep` leaves alone: it is locked while its writer lives."""
    for _ in range(_STAGE_TRIES_MAX):
        descriptor, name = tempfile.mkstemp(dir=folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        # A sweep came between the two calls.
        os.close(descriptor)
    msg = f"{folder}: new files vanish; something else deletes files there, stop it"
    raise ArchiveError(msg)


def _sweep(folder: Path) -> None:
    """Delete what writers left that were killed; the system has released their locks."""
    for left in folder.iterdir():
        with contextlib.suppress(FileNotFoundError, BlockingIOError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
