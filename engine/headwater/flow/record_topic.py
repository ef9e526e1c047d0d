"""Record topics: what workers and commands of a namespace agree on, one record after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from headwater.errors import NotFoundError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwater_connectors.log.log import Log

__all__ = ["RecordTopic"]

_READ_RECORDS = 1_000
_READ_TIMEOUT_S = 1.0

_Record = TypeVar("_Record")


class RecordTopic(Generic[_Record]):
    """JSON records of some `kinds` in a topic, read from its beginning on.

    `cure` ends the message about a record that is none of them. Not for several threads at once.
    """

    def __init__(self, log: Log, name: str, kinds: Any, cure: str) -> None:  # noqa: ANN401 - a type
        self.name = name
        self._log = log
        self._decoder: msgspec.json.Decoder[_Record] = msgspec.json.Decoder(kinds)
        self._cure = cure
        self._next = 0

    def read(self) -> Iterator[_Record]:
        """Yield what was said since the last time; nothing where there is no topic yet.

        Raises StateError at a record of another kind, now and every time after.
        """
        try:
            (end,) = self._log.end_offsets(self.name)
        except NotFoundError:
            return
        consumer = self._log.consumer(None)
        try:
            if self._next < end:
                consumer.assign(self.name, {0: self._next})
            while self._next < end:
                for records in consumer.poll(_READ_RECORDS, _READ_TIMEOUT_S):
                    for offset, value in zip(records.offsets.tolist(), records.values, strict=True):
                        record = self._decoded(offset, value)
                        self._next = offset + 1
                        yield record
                    self._next = records.next_offset
        finally:
            consumer.close()

    def _decoded(self, offset: int, value: bytes | None) -> _Record:
        try:
            return self._decoder.decode(value or b"")
        except msgspec.MsgspecError as error:
            msg = (
                f"{self.name}[0]: the record at offset {offset} is none of ours ({error});"
                f" {self._cure}"
            )
            raise StateError(msg) from error

    def say(self, record: _Record) -> None:
        """Append a record, durably; the topic is made if it isn't there."""
        self._log.create_topic(self.name, partitions=1, append_time=True)
        producer = self._log.producer()
        try:
            producer.send(self.name, 0, msgspec.json.encode(record))
            producer.flush()
        finally:
            producer.close()
