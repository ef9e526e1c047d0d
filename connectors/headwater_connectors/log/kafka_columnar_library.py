"""librdkafka itself: the functions of the library that confluent-kafka brings, and its handles.

Nothing is taken on trust. The library must be the one confluent-kafka reports, messages must lie
in memory as the kernels read them (`_probe` makes some and reads them back, without a broker), and
a client's handle must name that very client as its owner.
"""

from __future__ import annotations

import ctypes
import functools
import re
import sys
import time
from ctypes import POINTER, Structure, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka
import numpy as np
from confluent_kafka import cimpl

from headwater_connectors.log import kafka_columnar_kernels as kernels

if TYPE_CHECKING:
    from confluent_kafka import Consumer
    from numpy.typing import NDArray

__all__ = ["Library", "TopicPartitionHead", "UnusableError", "load"]

_CONSUMER = 1  # RD_KAFKA_CONSUMER
_PROBE_S = 5.0


class UnusableError(Exception):
    """Why records can't be fetched as columns here."""


class TopicPartitionHead(Structure):
    """The head of rd_kafka_topic_partition_t."""

    _fields_ = (("topic", c_char_p), ("partition", c_int32), ("offset", c_int64))


_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "rd_kafka_conf_destroy": (None, c_void_p),
    "rd_kafka_conf_new": (c_void_p,),
    "rd_kafka_conf_set": (c_int, c_void_p, c_char_p, c_char_p, c_void_p, c_size_t),
    "rd_kafka_conf_set_events": (None, c_void_p, c_int),
    "rd_kafka_destroy": (None, c_void_p),
    "rd_kafka_event_destroy": (None, c_void_p),
    "rd_kafka_event_error": (c_int, c_void_p),
    "rd_kafka_event_error_string": (c_char_p, c_void_p),
    "rd_kafka_event_message_array": (c_size_t, c_void_p, c_void_p, c_size_t),
    "rd_kafka_event_topic_partition": (POINTER(TopicPartitionHead), c_void_p),
    "rd_kafka_event_type": (c_int, c_void_p),
    "rd_kafka_name": (c_char_p, c_void_p),
    "rd_kafka_new": (c_void_p, c_int, c_void_p, c_void_p, c_size_t),
    "rd_kafka_opaque": (c_void_p, c_void_p),
    "rd_kafka_produce": (
        c_int, c_void_p, c_int32, c_int, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p,
    ),
    "rd_kafka_purge": (c_int, c_void_p, c_int),
    "rd_kafka_queue_destroy": (None, c_void_p),
    "rd_kafka_queue_forward": (None, c_void_p, c_void_p),
    "rd_kafka_queue_get_main": (c_void_p, c_void_p),
    "rd_kafka_queue_get_partition": (c_void_p, c_void_p, c_char_p, c_int32),
    "rd_kafka_queue_new": (c_void_p, c_void_p),
    "rd_kafka_queue_poll": (c_void_p, c_void_p, c_int),
    "rd_kafka_topic_destroy": (None, c_void_p),
    "rd_kafka_topic_name": (c_char_p, c_void_p),
    "rd_kafka_topic_new": (c_void_p, c_void_p, c_char_p, c_void_p),
    "rd_kafka_topic_partition_destroy": (None, POINTER(TopicPartitionHead)),
    "rd_kafka_type": (c_int, c_void_p),
    "rd_kafka_version": (c_int,),
}  # fmt: skip


class Library:
    """The functions of librdkafka, with their types, and the addresses of those kernels call."""

    def __init__(self) -> None:
        """Find them in the library that confluent-kafka uses; UnusableError if that can't be."""
        if sys.implementation.name != "cpython" or ctypes.sizeof(c_void_p) != 8:
            raise UnusableError("it needs a 64-bit CPython")
        try:
            # What the extension was linked with is found through the extension.
            self._library = ctypes.CDLL(cimpl.__file__)
            for name, (result, *arguments) in _SIGNATURES.items():
                function = getattr(self._library, name)
                function.restype, function.argtypes = result, arguments
            found = [getattr(self._library, name) for name in kernels.FUNCTIONS]
        except (AttributeError, OSError) as error:
            raise UnusableError(f"librdkafka's functions can't be reached: {error}") from error
        addresses = [ctypes.cast(function, c_void_p).value for function in found]
        self.functions: NDArray[np.int64] = np.array(addresses, np.int64)
        said, is_ = confluent_kafka.libversion()[1], self.call("rd_kafka_version")
        if said != is_:
            raise UnusableError(f"confluent-kafka reports librdkafka {said:#x}, this is {is_:#x}")

    def call(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - foreign functions
        """Call a function of the library."""
        return getattr(self._library, name)(*arguments)

    def handle(self, client: Consumer) -> int:
        """Return the address of the client's rd_kafka_t; UnusableError if it can't be told.

        It is borrowed: confluent-kafka destroys it when the client is closed.
        """
        found = c_void_p.from_address(id(client) + object.__basicsize__).value
        if not found or found % 8:
            raise UnusableError("the client's handle isn't where confluent-kafka keeps it")
        # The owner is looked at first: it is a number in librdkafka's memory, to be compared.
        if self.call("rd_kafka_opaque", found) != id(client):
            raise UnusableError("the client's handle names another owner")
        name = (self.call("rd_kafka_name", found) or b"").decode(errors="replace")
        if self.call("rd_kafka_type", found) != _CONSUMER or not re.search(r"#consumer-\d+$", name):
            raise UnusableError(f'the client\'s handle is that of "{name}", which is no consumer')
        return found


@functools.cache
def load() -> Library:
    """Return the library, found and checked once; UnusableError says why it can't be used."""
    library = Library()
    _probe(library)
    return library


def _probe(library: Library) -> None:
    """Read messages that never leave this process, and compare; every kernel is compiled then."""
    config = library.call("rd_kafka_conf_new")
    library.call("rd_kafka_conf_set", config, b"log_level", b"0", None, 0)
    library.call("rd_kafka_conf_set_events", config, 1)  # RD_KAFKA_EVENT_DR
    producer = library.call("rd_kafka_new", 0, config, None, 0)
    if not producer:
        library.call("rd_kafka_conf_destroy", config)
        raise UnusableError("librdkafka gives no client to check its messages with")
    topic = library.call("rd_kafka_topic_new", producer, b"probe", None)
    queue = library.call("rd_kafka_queue_get_main", producer)
    try:
        nothing, count, one = np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(1, np.uint8)
        kernels.receive(library.functions, queue, 0, nothing, nothing, count)
        kernels.release(library.functions, nothing, count)
        kernels.pack_headers(library.functions, nothing, count, one, np.zeros(4, np.int64))
        copied = 2  # RD_KAFKA_MSG_F_COPY
        for value, key in _PROBES:
            lengths = (0 if value is None else len(value)), (0 if key is None else len(key))
            library.call(
                "rd_kafka_produce", topic, 3, copied, value, lengths[0], key, lengths[1], None
            )
        library.call("rd_kafka_purge", producer, 1)  # RD_KAFKA_PURGE_F_QUEUE
        _check_reports(library, queue, topic)
    finally:
        library.call("rd_kafka_queue_destroy", queue)
        library.call("rd_kafka_topic_destroy", topic)
        library.call("rd_kafka_destroy", producer)


_PROBES: Final[tuple[tuple[bytes | None, bytes | None], ...]] = (
    (b"value", b"key"),
    (None, b"gone"),
    (b"\n" * 300, None),
)


def _check_reports(library: Library, queue: int, topic: int) -> None:
    """Read the delivery reports of the probe's messages; they are undelivered, and whole."""
    deadline = time.monotonic() + _PROBE_S
    found: list[tuple[bytes | None, bytes | None]] = []
    while len(found) < len(_PROBES) and time.monotonic() < deadline:
        event = library.call("rd_kafka_queue_poll", queue, 100)
        if not event:
            continue
        try:
            messages = np.zeros(len(_PROBES), np.int64)
            count = library.call(
                "rd_kafka_event_message_array", event, messages.ctypes.data, messages.size
            )
            found += _read_back(library, messages[:count], topic)
        finally:
            library.call("rd_kafka_event_destroy", event)
    if found != list(_PROBES):
        raise UnusableError("librdkafka's messages don't lie in memory as is known")


def _read_back(
    library: Library, messages: NDArray[np.int64], topic: int
) -> list[tuple[bytes | None, bytes | None]]:
    scratch = np.zeros(4, np.int64)
    fields = np.zeros((7, messages.size), np.int64)
    kernels.read_fields(library.functions, messages, fields, scratch)
    name = library.call("rd_kafka_topic_name", topic)
    for row in fields.T.tolist():
        if (
            row[kernels.PARTITION] != 3
            or row[kernels.OFFSET] != -1001  # RD_KAFKA_OFFSET_INVALID
            or row[kernels.TIMESTAMP_MS] != -1  # none for a message that failed
            or row[kernels.HEADER_BYTES] != -1
            or library.call("rd_kafka_topic_name", row[kernels.TOPIC]) != name
        ):
            raise UnusableError(f"librdkafka's messages have other fields than is known: {row}")
    columns = []
    for length, field in (
        (fields[kernels.VALUE_LENGTH], kernels.VALUE),
        (fields[kernels.KEY_LENGTH], kernels.KEY),
    ):
        bounds = np.zeros(messages.size + 1, np.int64)
        np.cumsum(np.maximum(length, 0) + 1, out=bounds[1:])
        buffer = np.zeros(int(bounds[-1]), np.uint8)
        kernels.copy_payloads(messages, field, bounds, buffer)
        cut = [buffer[a + 1 : b].tobytes() for a, b in pairwise(bounds)]
        columns.append([None if n < 0 else b for n, b in zip(length, cut, strict=True)])
    return list(zip(*columns, strict=True))
