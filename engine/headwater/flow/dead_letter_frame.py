"""Dead letters, read back: what could not be a row, where it came from and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from headwater.errors import NotFoundError
from headwater_connectors.dead_letters import (
    DeadLetterContext,
    dead_letter_topic,
    original_headers,
    read_context,
)
from headwater_connectors.replay_header import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwater_connectors.log.log import Headers, Log

__all__ = ["DeadLetter", "dead_letter_frame", "dead_letters"]

_SCHEMA: dict[str, pl.DataType] = {
    "partition": pl.Int64(),
    "offset": pl.Int64(),
    "reason": pl.String(),
    "message": pl.String(),
    "arrival": pl.Int64(),
    "value": pl.Binary(),
}
_POLL_RECORDS = 4096


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record as it was sent, and what was wrong with it; `arrival_us` is its own timestamp."""

    context: DeadLetterContext
    key: bytes | None
    value: bytes | None
    headers: Headers
    arrival_us: int

    @property
    def origin(self) -> Origin:
        """The source record that it is."""
        return Origin(self.context.topic_id, self.context.partition, self.context.offset)


def dead_letters(log: Log, topic: str) -> Iterator[DeadLetter]:
    """Yield the dead letters of a topic that its dead-letter topic holds now, in its order.

    Records that are none of ours are passed over. A letter may come twice, where a worker was
    stopped before it had said how far it was.
    """
    name = dead_letter_topic(topic)
    starts, ends = log.start_offsets(name), log.end_offsets(name)
    left = {p: end for p, (start, end) in enumerate(zip(starts, ends, strict=True)) if end > start}
    consumer = log.consumer(None)
    try:
        consumer.assign(name, {partition: starts[partition] for partition in left})
        while left:
            for records in consumer.poll(_POLL_RECORDS, 1.0):
                times = records.timestamps_us.tolist()
                for key, value, headers, time in zip(
                    records.keys, records.values, records.headers, times, strict=True
                ):
                    try:
                        context = read_context(headers)
                        yield DeadLetter(context, key, value, original_headers(headers), time)
                    except NotFoundError:
                        continue
                if records.next_offset >= left.get(records.partition, 0):
                    left.pop(records.partition, None)
    finally:
        consumer.close()


def dead_letter_frame(log: Log, topic: str) -> pl.DataFrame:
    """Return the dead letters of a topic as a frame.

    Partition, offset and arrival are those of the source record; `value` is its bytes as sent.
    """
    rows = [
        (
            letter.context.partition,
            letter.context.offset,
            letter.context.reason,
            letter.context.message,
            letter.arrival_us,
            letter.value,
        )
        for letter in dead_letters(log, topic)
    ]
    return pl.DataFrame(rows, _SCHEMA, orient="row").with_columns(
        pl.col("arrival").cast(pl.Datetime("us", "UTC"))
    )
