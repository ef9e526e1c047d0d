"""Records that were fetched and wait for their turn, by partition."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

import numpy as np

from headwater_connectors.log.log import Records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from confluent_kafka import KafkaError, Message

    from headwater_connectors.log.log import Headers, Topic

__all__ = ["Fetched"]

_Key = tuple[str, int]  # topic name, partition


class Fetched:
    """Messages of librdkafka by partition, in order of their offsets."""

    def __init__(self) -> None:
        """Start empty."""
        self._messages: dict[_Key, deque[Message]] = {}
        self.records = 0
        self.bytes = 0  # of values

    def keys(self) -> set[_Key]:
        """Return the partitions that have records here."""
        return set(self._messages)

    def count(self, key: _Key) -> int:
        """Count a partition's records."""
        waiting = self._messages.get(key)
        return 0 if waiting is None else len(waiting)

    def add(
        self, messages: Sequence[Message], positions: Mapping[_Key, int]
    ) -> list[tuple[KafkaError, _Key]]:
        """Add the records of these partitions, drop others; return the errors among them."""
        errors: list[tuple[KafkaError, _Key]] = []
        for message in messages:
            key: _Key = (message.topic(), message.partition())  # type: ignore[assignment]
            error = message.error()
            if error is not None:
                errors.append((error, key))
            # A partition may have been revoked, or moved, while librdkafka gave us this one.
            elif message.offset() >= positions.get(key, 1 << 63):  # type: ignore[operator]
                waiting = self._messages.get(key)
                if waiting is None:
                    waiting = self._messages[key] = deque()
                waiting.append(message)
                self.records += 1
                self.bytes += len(message)
        return errors

    def take(self, key: _Key, count: int, topic: Topic) -> Records:
        """Remove a partition's first records and return them as columns."""
        waiting = self._messages[key]
        taken = [waiting.popleft() for _ in range(count)]
        self.records -= count
        self.bytes -= sum(map(len, taken))
        if not waiting:
            del self._messages[key]
        return Records(
            topic=topic.name,
            topic_id=topic.id,
            partition=key[1],
            offsets=np.array([message.offset() for message in taken], np.int64),
            timestamps_us=np.array([message.timestamp()[1] for message in taken], np.int64) * 1_000,
            keys=[message.key() for message in taken],
            values=[message.value() for message in taken],
            headers=[_headers(message) for message in taken],
        )

    def drop(self, key: _Key) -> None:
        """Forget a partition's records."""
        gone = self._messages.pop(key, ())
        self.records -= len(gone)
        self.bytes -= sum(map(len, gone))


def _headers(message: Message) -> Headers:
    headers = message.headers()
    if not headers:
        return ()
    # Kafka tells no value from an empty one; we don't.
    pairs = cast("list[tuple[str, bytes | None]]", headers)
    return tuple([(name, b"" if value is None else value) for name, value in pairs])
