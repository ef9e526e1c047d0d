"""Fetching records as columns: librdkafka's own queues, without a Python object a record.

The client stays confluent-kafka's: its configuration, its group, its callbacks. We borrow its
handle and lead the queues of the partitions it reads away from its own queue, into one of ours.

Its callbacks must not run in a call of ours: they take the GIL back from a call of confluent-kafka,
and there is none. So the queue is read as *events*, which call nothing, and the group's affairs
(rebalances above all) come where they always do, from the client's own `consume`.
`rd_kafka_consume_batch_queue` would be 0.1 µs a record cheaper, and calls the error callback when a
topic that is read goes away.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from confluent_kafka import KafkaError

from headwater_connectors.log.kafka_fetched import Chunk
from headwater_connectors.log.packed_column import BytesColumn, PackedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from confluent_kafka import Consumer
    from numpy.typing import NDArray

    from headwater_connectors.log.kafka_columnar_library import Library
    from headwater_connectors.log.log import Headers

__all__ = ["SWITCH", "ColumnarFetch", "Harvest", "HeadersColumn", "open_fetch", "prepare"]

_LOGGER = logging.getLogger("headwater.kafka")

# Set to "plain", records are fetched one by one.
SWITCH: Final = "HEADWATER_KAFKA_FETCH"

# Few enough that what a pass has touched is still in the cache at the next one.
_EVENTS_MAX = 2_000

_Key = tuple[str, int]  # topic name, partition
_Queues = dict[_Key, int]


@dataclass(frozen=True, slots=True)
class Harvest:
    """What one fetch brought: records by partition, and errors with the partition they are of."""

    chunks: list[tuple[_Key, Chunk]]
    errors: list[tuple[KafkaError, _Key]]
    is_all: bool  # nothing was left waiting


class HeadersColumn(PackedColumn["Headers"]):
    """Headers as `pack_headers` packs them, taken apart when asked for."""

    __slots__ = ()

    def item(self, raw: bytes | None) -> Headers:
        """Return the headers that were packed; names that aren't UTF-8 are mended."""
        headers: list[tuple[str, bytes]] = []
        at = 0
        while raw and at < len(raw):
            name_length, value_length = np.frombuffer(raw, np.int32, 2, at).tolist()
            value_at = at + 8 + name_length
            name = raw[at + 8 : value_at].decode(errors="replace")
            at = value_at + value_length
            headers.append((name, raw[value_at:at]))
        return tuple(headers)


class ColumnarFetch:
    """The records of a client's partitions, as columns.

    For one thread at a time, the one that calls the client. Close it before the client.
    """

    def __init__(self, client: Consumer, library: Library) -> None:
        """Borrow the client's handle; UnusableError if that can't be."""
        # Imported where it is known that it can be.
        from headwater_connectors.log import kafka_columnar_kernels  # noqa: PLC0415

        self._kernels: Any = kafka_columnar_kernels
        self._library = library
        self._functions = library.functions
        self._handle = library.handle(client)
        # Kept, so that it is there until our queues are gone.
        self._client = client
        self._queues: _Queues = {}
        self._queue: int = library.call("rd_kafka_queue_new", self._handle)
        self._events = np.zeros(_EVENTS_MAX, np.int64)
        self._messages = np.zeros(_EVENTS_MAX, np.int64)
        self._count = np.zeros(1, np.int64)
        self._scratch = np.zeros(4, np.int64)
        self._release: Callable[[], None] = functools.partial(
            kafka_columnar_kernels.release, self._functions, self._events, self._count
        )
        # At exit a thread may still be fetching.
        self._lock = threading.Lock()
        self.close = weakref.finalize(
            self, _close, library, self._lock, self._release, self._queues, self._queue
        )

    def direct(self, keys: Iterable[_Key], *, anew: bool = False) -> None:
        """Take the records of these partitions, and of no others, from now on.

        To be called before the client begins to read them. `anew` forgets what waits, and queues
        of topics that were deleted.
        """
        with self._lock:
            if not self.close.alive:
                return
            wanted = set(keys)
            for key in [key for key in self._queues if anew or key not in wanted]:
                _drop(self._library, self._queues.pop(key))
            for topic, partition in wanted - self._queues.keys():
                queue = self._library.call(
                    "rd_kafka_queue_get_partition", self._handle, topic.encode(), partition
                )
                assert queue, "librdkafka makes a topic and a partition that it doesn't know yet"
                self._queues[topic, partition] = queue
            self._forward()

    def fetch(self, positions: Mapping[_Key, int], wait_s: float) -> Harvest:
        """Return what waits, from these positions on; wait for the first of it."""
        with self._lock:
            if not self.close.alive:
                return Harvest([], [], is_all=True)
            # librdkafka, when it has stopped a partition, leads its queue nowhere.
            self._forward()
            return self._harvest(positions, wait_s)

    def _harvest(self, positions: Mapping[_Key, int], wait_s: float) -> Harvest:
        # Nothing waits, but where an interrupt hit the release of the last time.
        self._release()
        try:
            self._kernels.receive(
                self._functions,
                self._queue,
                int(wait_s * 1_000),
                self._events,
                self._messages,
                self._count,
            )
            count = int(self._count[0])
            messages = self._messages[:count]
            errors = [self._error(self._events[at]) for at in np.flatnonzero(messages == 0)]
            if errors:
                messages = messages[messages != 0]
            return Harvest(
                self._chunks(messages, positions) if messages.size else [],
                [error for error in errors if error is not None],
                is_all=count < _EVENTS_MAX,
            )
        finally:
            self._release()

    def _forward(self) -> None:
        for queue in self._queues.values():
            self._library.call("rd_kafka_queue_forward", queue, self._queue)

    def _error(self, event: np.int64) -> tuple[KafkaError, _Key] | None:
        """Return what an event says that holds no record."""
        call, at = self._library.call, int(event)
        code = call("rd_kafka_event_error", at)
        if not code:
            return None
        text = (call("rd_kafka_event_error_string", at) or b"").decode(errors="replace")
        where = call("rd_kafka_event_topic_partition", at)
        if not where:
            return KafkaError(code, text), ("", -1)
        try:
            key = (where.contents.topic.decode(), where.contents.partition)
        finally:
            call("rd_kafka_topic_partition_destroy", where)
        return KafkaError(code, text), key

    def _chunks(
        self, messages: NDArray[np.int64], positions: Mapping[_Key, int]
    ) -> list[tuple[_Key, Chunk]]:
        """Copy the records out, in a chunk for each partition."""
        kernels = self._kernels
        fields = np.empty((7, messages.size), np.int64)
        kernels.read_fields(self._functions, messages, fields, self._scratch)
        chunks: list[tuple[_Key, Chunk]] = []
        for rows in _runs(fields[kernels.TOPIC], fields[kernels.PARTITION]):
            first = fields[:, rows[0]]
            name = self._library.call("rd_kafka_topic_name", int(first[kernels.TOPIC]))
            key = (name.decode(), int(first[kernels.PARTITION]))
            offsets = fields[kernels.OFFSET, rows]
            assert (offsets[1:] > offsets[:-1]).all(), "a partition's offsets ascend"
            # A partition may have been revoked, or moved, while librdkafka gave us these.
            begin = offsets.searchsorted(positions.get(key, 1 << 62))
            if begin < offsets.size:
                kept = rows[begin:]
                chunks.append((key, self._chunk(messages[kept], fields[:, kept])))
        return chunks

    def _chunk(self, messages: NDArray[np.int64], fields: NDArray[np.int64]) -> Chunk:
        kernels = self._kernels
        headers: Sequence[Headers] = ((),) * messages.size
        lengths = fields[kernels.HEADER_BYTES]
        if (lengths >= 0).any():
            bounds, buffer = _layout(lengths)
            kernels.pack_headers(self._functions, messages, bounds, buffer, self._scratch)
            headers = HeadersColumn(buffer.tobytes(), bounds, None)
        return Chunk(
            offsets=fields[kernels.OFFSET].copy(),
            timestamps_us=fields[kernels.TIMESTAMP_MS] * 1_000,
            keys=self._payloads(messages, fields[kernels.KEY_LENGTH], kernels.KEY),
            values=self._payloads(messages, fields[kernels.VALUE_LENGTH], kernels.VALUE),
            headers=headers,
        )

    def _payloads(
        self, messages: NDArray[np.int64], lengths: NDArray[np.int64], field: int
    ) -> Sequence[bytes | None]:
        nulls = lengths < 0
        if nulls.all():
            return (None,) * messages.size
        bounds, buffer = _layout(lengths)
        self._kernels.copy_payloads(messages, field, bounds, buffer)
        return BytesColumn(buffer.tobytes(), bounds, nulls if nulls.any() else None)


def prepare() -> None:
    """Find the library and compile the kernels, once, before a client is made.

    A client that was left alone for a second takes another until its first record.
    """
    if os.environ.get(SWITCH) != "plain":
        _library()


def open_fetch(client: Consumer) -> ColumnarFetch | None:
    """Return the columnar fetch of a client, or None, with a line in the log, where it can't be."""
    if os.environ.get(SWITCH) == "plain":
        return None
    library = _library()
    if library is None:
        return None
    try:
        return ColumnarFetch(client, library)
    except _unusable() as error:
        _tell(str(error))
        return None


@functools.cache
def _library() -> Library | None:
    try:
        # Numba compiles, or finds no folder for its cache, when the module is imported.
        from headwater_connectors.log.kafka_columnar_library import (  # noqa: PLC0415
            UnusableError,
            load,
        )
    except (ImportError, OSError, RuntimeError) as error:
        _tell(f"{type(error).__name__}: {error}")
        return None
    try:
        return load()
    except UnusableError as error:
        _tell(str(error))
        return None


@functools.cache
def _unusable() -> type[Exception]:
    from headwater_connectors.log.kafka_columnar_library import UnusableError  # noqa: PLC0415

    return UnusableError


@functools.cache
def _tell(reason: str) -> None:
    """Log once that the plain path is taken."""
    _LOGGER.warning("records are fetched one by one, which is slower: %s", " ".join(reason.split()))


def _close(
    library: Library,
    lock: threading.Lock,
    release: Callable[[], None],
    queues: _Queues,
    queue: int,
) -> None:
    """Give everything back that is librdkafka's, or the client could not be destroyed."""
    with lock:
        release()
        while queues:
            _drop(library, queues.popitem()[1])
        library.call("rd_kafka_queue_destroy", queue)


def _drop(library: Library, queue: int) -> None:
    library.call("rd_kafka_queue_forward", queue, None)
    library.call("rd_kafka_queue_destroy", queue)


def _runs(topics: NDArray[np.int64], partitions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the positions of each partition's records, in their order."""
    if (partitions == partitions[0]).all() and (topics == topics[0]).all():
        return [np.arange(topics.size)]
    order = np.lexsort((partitions, topics))
    topics, partitions = topics[order], partitions[order]
    changes = (topics[1:] != topics[:-1]) | (partitions[1:] != partitions[:-1])
    return np.split(order, np.flatnonzero(changes) + 1)


def _layout(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the bounds of items of these lengths, each behind a newline, and room for them."""
    bounds = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(np.maximum(lengths, 0) + 1, out=bounds[1:])
    return bounds, np.empty(int(bounds[-1]), np.uint8)
