"""Blobs in an object store: S3, Google Cloud Storage or Azure, through obstore."""

from __future__ import annotations

import contextlib
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import obstore
from obstore import exceptions
from obstore.store import from_url

from headwater_connectors.archive.blobs import BlobInfo, check_name
from headwater_connectors.archive.errors import (
    AlreadyExistsError,
    ArchiveError,
    MissingBlobError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from obstore.store import ObjectStore

    from headwater_connectors.archive.blobs import BlobReader

__all__ = ["ObjectBlobs", "open_store"]

# A call gives up well before a worker's watchdog takes its loop for dead.
_CLIENT = {"timeout": "10s", "connect_timeout": "3s"}
_RETRY_MAX, _RETRY_S = 4, 12.0
_CLIENT_PREFIX, _RETRY_PREFIX = "client.", "retry."
_LIST_NAMES = 1_000
_DELETE_NAMES = 500
_REASON_CHARS_MAX = 240
# What a query of a URL holds may be a signature.
_QUERY = re.compile(r"\?\S*")
_NOT_FOUND, _NO_BUCKET = "404 Not Found", "can't {} {}: there is no such bucket; make it first"
_NO_RIGHTS = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
_MISSING = (FileNotFoundError, exceptions.NotFoundError)


def open_store(url: str, options: Mapping[str, str]) -> ObjectStore:
    """Return the store of a URL; nothing is asked of it yet.

    `options` are obstore's own: those that begin with `client.` are for its HTTP client, with
    `retry.` for its retries (`retry.max_retries`, `retry.retry_timeout_s`), the rest for the
    store. Variables such as AWS_ACCESS_KEY_ID count where an option is absent. ArchiveError for
    a URL or an option that can't be.
    """
    config: dict[str, Any] = {}
    client: dict[str, Any] = dict(_CLIENT)
    retries: dict[str, Any] = {
        "max_retries": _RETRY_MAX,
        "retry_timeout": timedelta(seconds=_RETRY_S),
    }
    try:
        for key, value in options.items():
            if key.startswith(_CLIENT_PREFIX):
                client[key.removeprefix(_CLIENT_PREFIX)] = value
            elif key == f"{_RETRY_PREFIX}max_retries":
                retries["max_retries"] = int(value)
            elif key == f"{_RETRY_PREFIX}retry_timeout_s":
                retries["retry_timeout"] = timedelta(seconds=float(value))
            else:
                config[key] = value
        build: Any = from_url  # which options there are depends on the URL
        store: ObjectStore = build(url, config=config, client_options=client, retry_config=retries)
    except (exceptions.BaseError, ValueError, TypeError) as error:
        msg = (
            f"object store {url} can't be used: {_reason(error)}; correct the URL, or the options"
            " in [object_store]"
        )
    else:
        return store
    # Raised here: what obstore says beyond its first line may hold a credential.
    raise ArchiveError(msg)


class ObjectBlobs:
    """Blobs as objects below a prefix; see BlobStore for what its methods promise.

    A blob is created by a conditional put, so the store must know `If-None-Match` (S3 and those
    that speak its language since 2024 do). Every call ends within the client's timeout and the
    retries'. Safe to use from any thread.
    """

    def __init__(self, store: ObjectStore, url: str) -> None:
        """Use a store, of which `url` is the name in messages."""
        self._store = store
        self._url = url.rstrip("/")

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Store an object, in place of the one that may be there."""
        with self._explained("write", name):
            obstore.put(self._store, check_name(name), _octets(data))

    def put_if_absent(self, name: str, data: bytes | memoryview) -> None:
        """Store an object under a free name."""
        with self._explained("write", name):
            octets = _octets(data)
            obstore.put(self._store, check_name(name), octets, mode="create", use_multipart=False)

    def put_file(self, name: str, path: Path) -> None:
        """Upload a file in parts."""
        if not path.is_file():
            msg = f"{path} is missing"
            raise MissingBlobError(msg)
        with self._explained("write", name):
            obstore.put(self._store, check_name(name), path)

    def copy(self, source: str, target: str) -> None:
        """Let the store copy an object."""
        with self._explained("copy", source):
            obstore.copy(self._store, check_name(source), check_name(target))

    def get(self, name: str) -> bytes:
        """Return a whole object."""
        with self._explained("read", name):
            return bytes(obstore.get(self._store, check_name(name)).bytes())

    def exists(self, name: str) -> bool:
        """Return whether an object is there."""
        try:
            with self._explained("read", name):
                obstore.head(self._store, check_name(name))
        except MissingBlobError:
            return False
        return True

    def open(self, name: str) -> BlobReader:
        """Open an object to read ranges of it."""
        with self._explained("read", name):
            return _RangeReader(self, name, obstore.head(self._store, check_name(name))["size"])

    def link(self, name: str, path: Path) -> bool:  # noqa: ARG002 - the protocol's names
        """Say that an object can't be made a file without copying it."""
        return False

    def find(self, prefix: str) -> list[BlobInfo]:
        """Return the objects whose names begin with `prefix`, by name."""
        folder = prefix.rpartition("/")[0]
        with self._explained("list", folder or prefix):
            listed = obstore.list(
                self._store, check_name(folder) if folder else None, chunk_size=_LIST_NAMES
            )
            found = [
                BlobInfo(
                    meta["path"],
                    meta["size"],
                    int(meta["last_modified"].timestamp() * 1_000_000),
                )
                for page in listed
                for meta in page
                if meta["path"].startswith(prefix)
            ]
        return sorted(found, key=lambda info: info.name)

    def folders(self, prefix: str) -> list[str]:
        """Return what follows `prefix`, up to the next slash, in the names of objects."""
        with self._explained("list", prefix):
            found = obstore.list_with_delimiter(
                self._store, check_name(prefix.rstrip("/")) if prefix else None
            )
        return sorted(one.rstrip("/").rpartition("/")[2] for one in found["common_prefixes"])

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that aren't there are passed over."""
        left = [check_name(name) for name in names]
        for first in range(0, len(left), _DELETE_NAMES):
            some = left[first : first + _DELETE_NAMES]
            try:
                with self._explained("delete", some[0]):
                    obstore.delete(self._store, some)
            except MissingBlobError:
                # Stores without bulk deletes stop at the first that isn't there.
                for name in some:
                    with contextlib.suppress(MissingBlobError), self._explained("delete", name):
                        obstore.delete(self._store, name)

    def path(self, name: str) -> str:
        """Return the object's URL."""
        return f"{self._url}/{name}"

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes of an object from `start` to `end`, exclusive."""
        with self._explained("read", name):
            return bytes(obstore.get_range(self._store, name, start=start, end=end))

    @contextlib.contextmanager
    def _explained(self, what: str, name: str) -> Iterator[None]:
        """Turn failures of the store into errors of one line, without what may be a secret."""
        found: ArchiveError
        where = self.path(name)
        try:
            yield
        except _MISSING:
            if what in {"write", "list"}:
                found = ArchiveError(_NO_BUCKET.format(what, where))
            else:
                found = MissingBlobError(f"{where} is missing")
        except exceptions.AlreadyExistsError:
            found = AlreadyExistsError(f"{where} exists already, and is never replaced")
        except _NO_RIGHTS as error:
            found = ArchiveError(
                f"can't {what} {where}: {_reason(error)}; give the worker's credentials the right"
                " to list, read, write and delete there"
            )
        except exceptions.BaseError as error:
            reason = _reason(error)
            found = StoreUnavailableError(
                f"can't {what} {where}: {reason}; see whether the store can be reached from"
                " here, and [object_store] for its endpoint and timeouts"
            )
            if what == "list" and _NOT_FOUND in reason:
                found = ArchiveError(_NO_BUCKET.format(what, where))
        except OSError as error:
            found = ArchiveError(f"can't {what} {where}: {error.strerror or _reason(error)}")
        else:
            return
        # Raised here: the error that it stands for may show a credential.
        raise found


class _RangeReader:
    """An object read by ranges."""

    def __init__(self, blobs: ObjectBlobs, name: str, size_bytes: int) -> None:
        self._blobs = blobs
        self._name = name
        self.size_bytes = size_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, fewer at the end of the object."""
        end = min(self.size_bytes, offset + length)
        return self._blobs.read_range(self._name, offset, end) if offset < end else b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is kept open."""


def _octets(data: bytes | memoryview) -> bytes | memoryview:
    """Return data as obstore takes it: Arrow's views are of signed bytes."""
    return data.cast("B") if isinstance(data, memoryview) else data


def _reason(error: Exception) -> str:
    """Return what obstore says, on one line and without queries and bodies of answers."""
    first = (str(error).strip().splitlines() or [""])[0].partition(": <?xml")[0]
    return _QUERY.sub("", first)[:_REASON_CHARS_MAX].strip()
