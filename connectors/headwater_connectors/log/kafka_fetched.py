"""Records that were fetched and wait for their turn, by partition."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from headwater_connectors.log.log import Records
from headwater_connectors.log.packed_column import BytesColumn, PackedColumn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from confluent_kafka import KafkaError, Message
    from numpy.typing import NDArray

    from headwater_connectors.log.log import Headers, Topic

__all__ = ["Chunk", "Fetched"]

_T = TypeVar("_T")
_Key = tuple[str, int]  # topic name, partition


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of records of one partition as columns, in order of their offsets."""

    offsets: NDArray[np.int64]
    timestamps_us: NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers]

    def cut(self, begin: int, stop: int) -> Chunk:
        """Return some of the records; the columns stay shared."""
        if begin == 0 and stop == len(self.values):
            return self
        run = slice(begin, stop)
        return Chunk(
            self.offsets[run],
            self.timestamps_us[run],
            self.keys[run],
            self.values[run],
            self.headers[run],
        )


class Fetched:
    """Chunks by partition, the first of each with a mark how much of it is gone."""

    def __init__(self) -> None:
        """Start empty."""
        self._chunks: dict[_Key, deque[Chunk]] = {}
        self._begins: dict[_Key, int] = {}
        self._counts: dict[_Key, int] = {}
        self.records = 0
        self.bytes = 0  # of values

    def keys(self) -> set[_Key]:
        """Return the partitions that have records here."""
        return set(self._chunks)

    def count(self, key: _Key) -> int:
        """Count a partition's records."""
        return self._counts.get(key, 0)

    def add(self, key: _Key, chunk: Chunk) -> None:
        """Add records behind those that are there."""
        if key not in self._chunks:
            self._chunks[key], self._begins[key], self._counts[key] = deque(), 0, 0
        self._chunks[key].append(chunk)
        self._counts[key] += len(chunk.values)
        self.records += len(chunk.values)
        self.bytes += _size(chunk.values)

    def add_messages(
        self, messages: Sequence[Message], positions: Mapping[_Key, int]
    ) -> list[tuple[KafkaError, _Key]]:
        """Add the records of these partitions, drop others; return the errors among them."""
        errors: list[tuple[KafkaError, _Key]] = []
        wanted: dict[_Key, list[Message]] = {}
        for message in messages:
            key: _Key = (message.topic(), message.partition())  # type: ignore[assignment]
            error = message.error()
            if error is not None:
                errors.append((error, key))
            # A partition may have been revoked, or moved, while librdkafka gave us this one.
            elif message.offset() >= positions.get(key, 1 << 63):  # type: ignore[operator]
                wanted.setdefault(key, []).append(message)
        for key, kept in wanted.items():
            self.add(key, _chunk(kept))
        return errors

    def take(self, key: _Key, count: int, topic: Topic) -> Records:
        """Remove a partition's first records and return them as columns."""
        parts: list[Chunk] = []
        chunks, left = self._chunks[key], count
        while left:
            first, begin = chunks[0], self._begins[key]
            stop = min(begin + left, len(first.values))
            parts.append(first.cut(begin, stop))
            left -= stop - begin
            self._begins[key] = stop
            if stop == len(first.values):
                chunks.popleft()
                self._begins[key] = 0
        self._counts[key] -= count
        self.records -= count
        self.bytes -= sum(_size(part.values) for part in parts)
        if not chunks:
            self._forget(key)
        return Records(
            topic=topic.name,
            topic_id=topic.id,
            partition=key[1],
            offsets=np.concatenate([part.offsets for part in parts]),
            timestamps_us=np.concatenate([part.timestamps_us for part in parts]),
            keys=_joined([part.keys for part in parts]),
            values=_joined([part.values for part in parts]),
            headers=_joined([part.headers for part in parts]),
        )

    def drop(self, key: _Key) -> None:
        """Forget a partition's records."""
        if key not in self._chunks:
            return
        first, *rest = self._chunks[key]
        left = [first.values[self._begins[key] :], *(chunk.values for chunk in rest)]
        self.records -= self._counts[key]
        self.bytes -= sum(map(_size, left))
        self._forget(key)

    def _forget(self, key: _Key) -> None:
        del self._chunks[key], self._begins[key], self._counts[key]


def _size(values: Sequence[bytes | None]) -> int:
    if isinstance(values, BytesColumn):
        return values.packed_bytes - len(values)
    return sum(len(value) for value in values if value is not None)


def _joined(parts: list[Sequence[_T]]) -> Sequence[_T]:
    """Return one sequence with the items of all."""
    if len(parts) == 1:
        return parts[0]
    kind = type(parts[0])
    if issubclass(kind, PackedColumn) and all(type(part) is kind for part in parts):
        return kind.join(cast("Sequence[PackedColumn[_T]]", parts))
    return tuple(chain.from_iterable(parts))


def _chunk(messages: list[Message]) -> Chunk:
    return Chunk(
        offsets=np.array([message.offset() for message in messages], np.int64),
        timestamps_us=np.array([message.timestamp()[1] for message in messages], np.int64) * 1_000,
        keys=[message.key() for message in messages],
        values=[message.value() for message in messages],
        headers=[_headers(message) for message in messages],
    )


def _headers(message: Message) -> Headers:
    headers = message.headers()
    if not headers:
        return ()
    # Kafka tells no value from an empty one; we don't.
    pairs = cast("list[tuple[str, bytes | None]]", headers)
    return tuple([(name, b"" if value is None else value) for name, value in pairs])
