"""Dead letters as a frame: what could not be a row, where it came from and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from headwater_connectors.dead_letters import dead_letter_topic, read_context

if TYPE_CHECKING:
    from headwater_connectors.log.log import Log

__all__ = ["dead_letter_frame"]

_SCHEMA: dict[str, pl.DataType] = {
    "partition": pl.Int64(),
    "offset": pl.Int64(),
    "reason": pl.String(),
    "message": pl.String(),
    "arrival": pl.Int64(),
    "value": pl.Binary(),
}
_POLL_RECORDS = 4096


def dead_letter_frame(log: Log, topic: str) -> pl.DataFrame:
    """Return the dead letters of a topic that its dead-letter topic holds now, in its order.

    Partition, offset and arrival are those of the source record; `value` is its bytes as sent.
    """
    name = dead_letter_topic(topic)
    starts, ends = log.start_offsets(name), log.end_offsets(name)
    left = {p: end for p, (start, end) in enumerate(zip(starts, ends, strict=True)) if end > start}
    rows: list[tuple[object, ...]] = []
    consumer = log.consumer(None)
    try:
        consumer.assign(name, {partition: starts[partition] for partition in left})
        while left:
            for records in consumer.poll(_POLL_RECORDS, 1.0):
                times = records.timestamps_us.tolist()
                for value, headers, time in zip(
                    records.values, records.headers, times, strict=True
                ):
                    found = read_context(headers)
                    rows.append(
                        (found.partition, found.offset, found.reason, found.message, time, value)
                    )
                if records.next_offset >= left.get(records.partition, 0):
                    left.pop(records.partition, None)
    finally:
        consumer.close()
    return pl.DataFrame(rows, _SCHEMA, orient="row").with_columns(
        pl.col("arrival").cast(pl.Datetime("us", "UTC"))
    )
