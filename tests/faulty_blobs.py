"""Blobs in memory whose store has faults: each kind at a call of one's choice."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from obstore.store import MemoryStore

from headwater_connectors.archive.errors import AlreadyExistsError, StoreUnavailableError
from headwater_connectors.archive.object_blobs import ObjectBlobs

if TYPE_CHECKING:
    from collections.abc import Callable

# What a call meets: an error before anything happened, no answer until the deadline, an error
# although it has happened, its answer lost and a second try of the client's own, which finds the
# first one's effect.
FAULTS = ("fails", "hangs", "done_but_fails", "answer_lost")

_CHANGING = {"put", "put_if_absent", "delete"}


class FaultyBlobs(ObjectBlobs):
    """A store of which call number `at` (from 1; None for none) meets a fault, and maybe more."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        super().__init__(store or MemoryStore(), "s3://shop")
        self.fault = "fails"
        self.at: int | None = None
        self.times = 1
        self.calls = 0
        self.met = 0

    def break_at(self, at: int, fault: str, times: int = 1) -> None:
        self.at, self.fault, self.times, self.calls, self.met = at, fault, times, 0, 0

    def put(self, name, data):
        return self._call("put", super().put, name, data)

    def put_if_absent(self, name, data):
        return self._call("put_if_absent", super().put_if_absent, name, data)

    def get(self, name):
        return self._call("get", super().get, name)

    def exists(self, name):
        return self._call("exists", super().exists, name)

    def open(self, name):
        return self._call("open", super().open, name)

    def read_range(self, name, start, end):
        return self._call("read", super().read_range, name, start, end)

    def find(self, prefix):
        return self._call("find", super().find, prefix)

    def delete(self, names):
        return self._call("delete", super().delete, list(names))

    def _call(self, what: str, call: Callable[..., Any], *given: Any) -> Any:
        self.calls += 1
        if self.at is None or not self.at <= self.calls < self.at + self.times:
            return call(*given)
        self.met += 1
        where = given[0]
        if self.fault == "answer_lost" and what in _CHANGING:
            call(*given)
            return call(*given)
        if self.fault == "done_but_fails" and what in _CHANGING:
            with contextlib.suppress(AlreadyExistsError):
                call(*given)
        said = "no answer within 10 s" if self.fault == "hangs" else "500 Internal Server Error"
        msg = f"can't {what} s3://shop/{where}: {said}; see whether the store can be reached"
        raise StoreUnavailableError(msg)
