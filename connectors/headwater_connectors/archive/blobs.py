"""Blobs: named, immutable runs of bytes; what is asked of a folder or an object store."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

from headwater_connectors.archive.errors import (
    AlreadyExistsError,
    ArchiveError,
    MissingBlobError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

__all__ = ["BlobInfo", "BlobReader", "BlobStore", "FolderBlobs", "check_name"]

# Under the root, so that a rename never leaves the file system.
_INCOMING = ".incoming"
_STAGE_TRIES_MAX = 16
_COPY_BYTES = 1 << 20
# Another file system, another owner, too many links, none at all: then bytes are copied.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A blob as it is listed; `modified_us` is the store's clock when it got its name.

    A file that was linked and not copied keeps the time of its bytes.
    """

    name: str
    size_bytes: int
    modified_us: int


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

    A write that returns is durable; a reader sees all of a blob or none of it. Failures are raised
    as ArchiveError, a store that doesn't answer in time among them. What readers trust is named in
    a manifest; lists are for finding manifests and for cleaning up.
    """

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Store a blob, in place of the one that may be there."""
        ...

    def put_if_absent(self, name: str, data: bytes | memoryview) -> None:
        """Store a blob; AlreadyExistsError if the name is taken. Of two callers one succeeds."""
        ...

    def put_file(self, name: str, path: Path) -> None:
        """Store a file that never changes, in place of the blob that may be there.

        The file is streamed, or linked where the store is on the same file system.
        """
        ...

    def copy(self, source: str, target: str) -> None:
        """Store a blob under another name too; MissingBlobError if it isn't there.

        The store does it, and either name outlives the other.
        """
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

    def link(self, name: str, path: Path) -> bool:
        """Make a blob a file at a free path without copying it; False where that can't be done.

        MissingBlobError if the blob isn't there. The file must never be written to.
        """
        ...

    def find(self, prefix: str) -> list[BlobInfo]:
        """Return the blobs whose names begin with `prefix`, by name.

        Those written before the call are among them, and those deleted before it are not.
        """
        ...

    def folders(self, prefix: str) -> list[str]:
        """Return what follows `prefix`, up to the next slash, in the names of blobs; in order.

        The prefix is empty or ends with a slash; what has no slash after it is left out.
        """
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Delete blobs; those that aren't there are passed over."""
        ...

    def path(self, name: str) -> str:
        """Return where a blob is, for messages."""
        ...


def check_name(name: str) -> str:
    """Return a blob's name; ArchiveError if it can't be one."""
    parts = PurePosixPath(name).parts
    if not parts or "/".join(parts) != name or name.startswith("/") or ".." in parts:
        msg = f'"{name}" is not a blob name: use parts separated by single slashes'
        raise ArchiveError(msg)
    return name


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

    def put_file(self, name: str, path: Path) -> None:
        """Link a file, or copy it and rename the copy; see BlobStore."""
        target = self._target(name)
        with self._explained("write", name), _opened(path) as file:
            if self._durable:
                os.fsync(file.fileno())
            if _linked(path, target) or (target.exists() and path.samefile(target)):
                self._sync(target.parent)
                return
            with self._staged(file) as staged:
                staged.replace(target)
                self._sync(target.parent)

    def copy(self, source: str, target: str) -> None:
        """Link a file under another name; see BlobStore."""
        self.put_file(target, self._location(source))

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

    def link(self, name: str, path: Path) -> bool:
        """Link the file; see BlobStore."""
        with self._explained("read", name):
            return _linked(self._location(name), path)

    def find(self, prefix: str) -> list[BlobInfo]:
        """Walk the folder that the prefix names a part of; see BlobStore."""
        folder = prefix.rpartition("/")[0]
        top = self._location(folder) if folder else self._root
        with self._explained("list", folder or prefix):
            found = [info for info in self._walk(top) if info.name.startswith(prefix)]
        return sorted(found, key=lambda info: info.name)

    def folders(self, prefix: str) -> list[str]:
        """Return the folders in the one that the prefix names; see BlobStore."""
        top = self._location(prefix.rstrip("/")) if prefix else self._root
        try:
            return sorted(
                entry.name
                for entry in os.scandir(top)
                if entry.is_dir(follow_symlinks=False) and entry.name != _INCOMING
            )
        except FileNotFoundError:
            return []
        except OSError as error:
            msg = f"can't list {top}: {error.strerror or error}; the folder needs permission"
            raise ArchiveError(msg) from error

    def delete(self, names: Iterable[str]) -> None:
        """Unlink files; see BlobStore."""
        folders: dict[Path, str] = {}
        for name in names:
            path = self._location(name)
            with self._explained("delete", name), contextlib.suppress(FileNotFoundError):
                path.unlink()
                folders[path.parent] = name
        for folder, name in folders.items():
            with self._explained("delete", name):
                self._sync(folder)

    def path(self, name: str) -> str:
        """Return the file's path."""
        return str(self._location(name))

    def _location(self, name: str) -> Path:
        parts = check_name(name).split("/")
        if parts[0] == _INCOMING:
            msg = f'"{name}": "{_INCOMING}" holds unfinished files; use another first part'
            raise ArchiveError(msg)
        return self._root.joinpath(*parts)

    def _target(self, name: str) -> Path:
        target = self._location(name)
        with self._explained("write", name):
            self._make_folder(target.parent)
        return target

    def _walk(self, folder: Path) -> Iterator[BlobInfo]:
        """Yield the files below a folder; those that vanish meanwhile are passed over."""
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if path != self._root / _INCOMING:
                    yield from self._walk(path)
                continue
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                name = path.relative_to(self._root).as_posix()
                yield BlobInfo(name, stat.st_size, stat.st_mtime_ns // 1000)

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
    def _staged(self, data: bytes | memoryview | BinaryIO) -> Iterator[Path]:
        """Yield the path of a durable, still unnamed file with the data, or another file's."""
        incoming = self._root / _INCOMING
        self._make_folder(incoming)
        if not self._swept:
            _sweep(incoming)
            self._swept = True
        descriptor, staged = _locked_file(incoming)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if isinstance(data, bytes | memoryview):
                    file.write(data)
                else:
                    shutil.copyfileobj(data, file, _COPY_BYTES)
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
                f"can't {what} {self._location(name)}: {error.strerror or error}; the folder"
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


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be stored; a missing one is named, and not the name it was to get."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        msg = f"{path} is missing"
        raise MissingBlobError(msg) from error
    with file:
        yield file


def _linked(source: Path, target: Path) -> bool:
    """Link a file under a free name; False where the file systems don't, or the name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


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
