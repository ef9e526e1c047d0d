"""History: a stretch of a lane's past, read again from its source topic.

It serves a hole in the exchange, a shard whose state is gone, and a view that is new to a shard.
It is right whenever it runs: merges commute, and checkpoints are atomic.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from headwater.flow.decode import Decoder
from headwater.flow.exchange import wires_of
from headwater.flow.patience import patiently

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from headwater.flow.settings import WorkerSettings
    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan
    from headwater_connectors.formats.schema_registry import RegistrySettings
    from headwater_connectors.log.log import Log

__all__ = ["History"]

_POLL_RECORDS = 16_384
_POLL_TIMEOUT_S = 1.0


class History:
    """Reads source topics again, as ingest would have sent them."""

    def __init__(
        self,
        plan: Plan,
        log: Log,
        settings: WorkerSettings,
        starts: Mapping[str, Start],
        registry: RegistrySettings | None,
    ) -> None:
        self._log = log
        self._starts = starts
        self._shards = settings.shards
        self._wires = wires_of(plan)
        self._decoders = {
            topic: Decoder(stream, settings.namespace, registry)
            for topic, stream in plan.streams.items()
        }

    def before(self, binding: str, partition: int) -> int:
        """Return the last offset of a partition that isn't part of its stream any more."""
        return self._starts[self._wires[binding].stream.topic].position(partition) - 1

    def rows(
        self, binding: str, partition: int, stretch: tuple[int, int]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (shard, rows) of the offsets `(from, to]` of a partition, by shard and offset.

        Raises OffsetLostError where the topic no longer holds them. While the log can't be reached
        it waits: what asked for a stretch can't go on without it.
        """
        wire = self._wires[binding]
        topic = wire.stream.topic
        done, last = stretch
        consumer = self._log.consumer(None)
        try:
            if done < last:
                patiently(partial(consumer.assign, topic, {partition: done + 1}))
            while done < last:
                poll = partial(consumer.poll, _POLL_RECORDS, _POLL_TIMEOUT_S)
                for records in patiently(poll):
                    frame = self._decoders[topic].decode(records).frame
                    frame = frame[: int(frame["__offset"].search_sorted(last, side="right"))]
                    keyed = wire.keyed(frame, self._shards)
                    for shard in range(self._shards):
                        yield shard, keyed.of_shard(shard)
                    done = records.next_offset - 1
        finally:
            consumer.close()
