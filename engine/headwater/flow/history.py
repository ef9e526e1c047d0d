"""History: a stretch of a lane's past, read again from its source topic.

It serves a hole in the exchange, a shard whose state is gone, and a view that is new to a shard.
It is right whenever it runs: merges commute, and checkpoints are atomic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.flow.decode import Decoder
from headwater.flow.exchange import wires_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from headwater.plan.plan import Plan
    from headwater_connectors.log.log import Log

__all__ = ["History"]

_POLL_RECORDS = 16_384
_POLL_TIMEOUT_S = 1.0


class History:
    """Reads source topics again, as ingest would have sent them."""

    def __init__(self, plan: Plan, log: Log, shards: int) -> None:
        self._log = log
        self._shards = shards
        self._wires = wires_of(plan)
        self._decoders = {topic: Decoder(stream) for topic, stream in plan.streams.items()}

    def rows(
        self, binding: str, partition: int, stretch: tuple[int, int]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (shard, rows) of the offsets `(from, to]` of a partition, by shard and offset.

        Raises OffsetLostError where the topic no longer holds them.
        """
        wire = self._wires[binding]
        topic = wire.stream.topic
        done, last = stretch
        consumer = self._log.consumer(None)
        try:
            consumer.assign(topic, {partition: done + 1})
            while done < last:
                for records in consumer.poll(_POLL_RECORDS, _POLL_TIMEOUT_S):
                    frame = self._decoders[topic].decode(records).frame
                    frame = frame[: int(frame["__offset"].search_sorted(last, side="right"))]
                    keyed = wire.keyed(frame, self._shards)
                    for shard in range(self._shards):
                        yield shard, keyed.of_shard(shard)
                    done = records.next_offset - 1
        finally:
            consumer.close()
