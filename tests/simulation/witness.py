"""The witness: a model of the rules beside one process, and what must hold after its steps."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from headwater.flow.exchange import split
from headwater.state.lane import lane_of, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simulation.broker import Broker

    from headwater.flow.exchange import Header
    from headwater.flow.starts import Start
    from headwater.flow.worker import Worker
    from headwater_connectors.log.log import Records

__all__ = ["Witness"]


class Witness:
    """Knows how far each lane must be (the chain rule), and how many holes must be counted.

    `kept` returns the exchange offset that the newest durable checkpoint of a shard goes on from.
    """

    def __init__(
        self,
        broker: Broker,
        starts: Mapping[str, Start],
        shards: int,
        kept: Callable[[int], int],
    ) -> None:
        self.worker: Worker | None = None
        self.holes: Counter[int] = Counter()
        self.foreign = 0
        self._broker = broker
        self._starts = starts
        self._shards = shards
        self._kept = kept
        self._chain: dict[int, dict[str, int]] = {}
        self._horizons: dict[int, int] = {}
        self._topics = {start.topic_id: topic for topic, start in starts.items()}

    def opened(self, numbers: list[int]) -> None:
        """Begin with shards: what they go on from is what their mark says."""
        assert self.worker is not None
        for number in numbers:
            shard = self.worker.shards[number]
            self._chain[number] = dict(shard.applied)
            self._horizons[number] = shard.horizon_us
            mark = shard.store.mark() if shard.has_store else None
            if mark is not None:
                got = (shard.next_offset, shard.applied, shard.horizon_us)
                kept = self._of_plan(mark.applied)
                assert got == (mark.next_offset, kept, mark.horizon_us), (number, got, mark)
            assert not shard.unbuilt, f"shard {number}: views without their past: {shard.unbuilt}"

    def closed(self, numbers: list[int]) -> None:
        """Forget shards that were given up."""
        assert self.worker is not None
        for number in [] if self.worker.memory.released else numbers:
            assert number not in self.worker.shards, f"shard {number} was given up and is held"
            self._chain.pop(number, None)
            self._horizons.pop(number, None)

    def follow(self) -> None:
        """Forget the lanes that the plan has no more: should they come back, they begin anew."""
        self._chain = {number: self._of_plan(lanes) for number, lanes in self._chain.items()}

    def _of_plan(self, applied: Mapping[str, int]) -> dict[str, int]:
        assert self.worker is not None
        known = self.worker.current.now.wires
        return {lane: at for lane, at in applied.items() if parts_of(lane)[1] in known}

    def seen(self, records: Records) -> None:
        """Follow the chain rule over the records a shard is given."""
        assert self.worker is not None
        lanes = self._chain[records.partition]
        shard = self.worker.shards[records.partition]
        known = self.worker.current.now.wires
        headers = [split(value or b"")[0] for value in records.values]
        headers = [one for one in headers if one.binding in known]
        # What was written for another definition is as good as missing, all of a poll at once.
        reach: dict[str, int] = {}
        for header in headers:
            if self._is_foreign(header):
                reach[header.lane] = max(header.to_offset, reach.get(header.lane, -1))
        for header in headers:
            start = self._starts[self._topics[header.topic_id]]
            first = start.position(header.partition) - 1
            if header.lane not in lanes and shard.waits_for(header.lane):
                # What is below is history, and nothing is missing from the exchange.
                lanes[header.lane] = max(header.from_offset, first)
            done = max(lanes.get(header.lane, first), first)
            foreign = self._is_foreign(header)
            upto = reach[header.lane] if foreign else header.to_offset
            self.foreign += foreign
            self.holes[records.partition] += (upto if foreign else header.from_offset) > done
            if upto > done:
                lanes[header.lane] = upto

    def _is_foreign(self, header: Header) -> bool:
        assert self.worker is not None
        wire = self.worker.current.now.wires[header.binding]
        return bool(header.rows) and header.schema != wire.schema_id

    def committing(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Every shard has an acknowledged record to below what ingest commits, in every lane."""
        assert self.worker is not None
        topic_id = self._broker.log.topic(topic).id
        # The lanes that it sends: those of a newer plan it begins in its next step.
        plan = self.worker.ingests[topic]._publisher._running.plan
        for binding in plan.bindings_of(topic):
            for partition, offset in offsets.items():
                lane = lane_of(topic_id, binding.id, partition)
                for shard in range(self._shards):
                    told = self._broker.told.get((shard, lane), -1)
                    assert told >= offset - 1, (
                        f"committed {offset} of {lane} before shard {shard} was told: {told}"
                    )

    def deleting(self, before: Mapping[int, int]) -> None:
        """What the exchange forgets is in a durable checkpoint."""
        for shard, offset in before.items():
            kept = self._kept(shard)
            assert offset <= kept, f"shard {shard} forgets below {offset}, is kept to {kept}"

    def counted_holes(self, shard: int) -> int:
        """Return what the worker's metric says."""
        assert self.worker is not None
        return int(self.worker.metrics.holes.labels(str(shard))._value.get())

    def check(self) -> None:
        """The shards are where the chain rule says, every hole is counted, no horizon goes back."""
        assert self.worker is not None
        for number, shard in self.worker.shards.items():
            assert shard.applied == self._chain[number], (
                f"shard {number} has applied {shard.applied}, the chain says {self._chain[number]}"
            )
            counted, wanted = self.counted_holes(number), self.holes[number]
            assert counted == wanted, f"shard {number}: {counted} holes counted, not {wanted}"
            assert shard.horizon_us >= self._horizons[number], f"shard {number}: horizon went back"
            self._horizons[number] = shard.horizon_us
