"""The sending side of a stream: requests read ahead of their answers, within a bound."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import polars as pl

from headwater_serving.request import Request, at_us_of, columns_of, rows_of
from headwater_serving.vectors import Decoded, Vectors
from headwater_serving.wire import online_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from headwater.flow.answer import ServiceInfo
    from headwater_proto.v1 import serving_pb2
    from headwater_serving.wire import Source

__all__ = ["Feed"]

_AHEAD_ROWS_MAX = 256


class Feed:
    """Messages for a stream, drawn by gRPC's own thread; answers are matched in order.

    Consecutive requests with the same read time share a message of at most `batch_rows` rows: a
    message costs gRPC more than a row costs the reader. About 256 requests, or two messages, wait
    for an answer at most. A failure of the caller's iterator, or a request that doesn't fit, ends
    the messages; `failure` keeps it for the caller's thread.
    """

    def __init__(
        self,
        source: Source,
        info: ServiceInfo,
        requests: Iterable[Request | Mapping[str, object] | pl.DataFrame],
        batch_rows: int,
    ) -> None:
        self.failure: Exception | None = None
        self._source = source
        self._info = info
        self._requests = requests
        self._batch_rows = batch_rows
        self._sent: deque[list[int]] = deque()
        self._room = threading.Semaphore(max(2, _AHEAD_ROWS_MAX // batch_rows))
        self._closed = False

    def __iter__(self) -> Iterator[serving_pb2.GetOnlineFeaturesRequest]:
        for at_us, parts in self._batches():
            message = online_request(self._source, self._info.revision, _joined(parts), at_us)
            self._room.acquire()
            if self._closed:
                return
            self._sent.append([rows_of(part) for part in parts])
            yield message

    def answered(self, response: serving_pb2.GetOnlineFeaturesResponse) -> Iterator[Vectors]:
        """Yield the answers to the requests of the oldest message; make room for another."""
        rows = self._sent.popleft()
        decoded = Decoded(self._info, response, sum(rows))
        self._room.release()
        start = 0
        for count in rows:
            yield Vectors(decoded, start, start + count)
            start += count

    def close(self) -> None:
        """End the messages; the thread that draws them must not wait for room any more."""
        self._closed = True
        self._room.release()

    def _batches(self) -> Iterator[tuple[int | None, list[list[pl.Series]]]]:
        """Yield (read time in µs, the columns of each request) of consecutive requests."""
        pending: list[list[pl.Series]] = []
        pending_at_us: int | None = None
        room = self._batch_rows
        for at_us, columns in self._checked():
            rows = rows_of(columns)
            full = rows > room or len(pending) >= self._batch_rows
            if pending and (full or at_us != pending_at_us):
                yield pending_at_us, pending
                pending, room = [], self._batch_rows
            pending.append(columns)
            pending_at_us, room = at_us, room - rows
            if room <= 0:
                yield pending_at_us, pending
                pending, room = [], self._batch_rows
        if pending:
            yield pending_at_us, pending

    def _checked(self) -> Iterator[tuple[int | None, list[pl.Series]]]:
        try:
            for one in self._requests:
                request = one if isinstance(one, Request) else Request(one)
                yield at_us_of(request.at), columns_of(self._info, request)
        except Exception as error:  # noqa: BLE001 - raised in the thread that reads the answers
            self.failure = error


def _joined(parts: list[list[pl.Series]]) -> list[pl.Series]:
    if len(parts) == 1:
        return parts[0]
    return [pl.concat(column) for column in zip(*parts, strict=True)]
