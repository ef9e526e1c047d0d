"""Any interleaving of sends, polls, deletions and reopenings agrees with a log of plain lists."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from headwater_connectors.log import (
    EmbeddedLog,
    Limits,
    MemoryLog,
    OffsetLostError,
    TopicGoneError,
)

if TYPE_CHECKING:
    from headwater_connectors.log import Log

PARTITIONS = 2
PARTITION = st.integers(0, PARTITIONS - 1)
CONSUMER = st.integers(0, 1)
# Small enough that buffers fill up, batches are split and polls stop at the bound in bytes.
LIMITS = Limits(
    record_bytes_max=100, buffer_bytes_max=1_500, batch_bytes_max=40, poll_bytes_max=600
)
BYTES = st.binary(max_size=12)
RECORD = st.tuples(
    st.none() | BYTES,  # key
    st.none() | BYTES,  # value
    st.just(()) | st.lists(st.tuples(st.text(max_size=3), BYTES), max_size=2).map(tuple),
    st.integers(0, 50),  # timestamp
)


class LogModel(RuleBasedStateMachine):
    """A log beside plain lists; subclasses say how it is opened."""

    can_reopen = False

    def open(self) -> Log:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.log = self.open()
        self.producer = self.log.producer()
        self.consumers = [self.log.consumer(f"g{c}") for c in range(2)]
        self.forget()
        self.seek_all()

    def forget(self) -> None:
        """Begin with a new, empty topic."""
        self.topic = self.log.create_topic("t", partitions=PARTITIONS, append_time=False)
        self.sent: list[list[tuple]] = [[] for _ in range(PARTITIONS)]
        self.starts = [0] * PARTITIONS
        self.flushed = [0] * PARTITIONS
        self.committed: list[dict[int, int]] = [{}, {}]

    def seek_all(self) -> None:
        self.positions = [dict(enumerate(self.starts)) for _ in self.consumers]
        for consumer, positions in zip(self.consumers, self.positions, strict=True):
            consumer.assign("t", positions)

    @rule(partition=PARTITION, record=RECORD)
    def send(self, partition: int, record: tuple) -> None:
        key, value, headers, stamp = record
        self.producer.send("t", partition, value, key=key, headers=headers, timestamp_us=stamp)
        self.sent[partition].append(record)

    @rule(partition=PARTITION, records=st.lists(RECORD, max_size=12))
    def send_many(self, partition: int, records: list[tuple]) -> None:
        keys, values, headers, stamps = zip(*records, strict=True) if records else ((),) * 4
        self.producer.send_many(
            "t", partition, values, keys=keys, headers=headers, timestamps_us=stamps
        )
        self.sent[partition] += records

    @rule()
    def flush(self) -> None:
        self.producer.flush()
        self.flushed = [len(sent) for sent in self.sent]
        assert self.log.end_offsets("t") == self.flushed

    @rule(c=CONSUMER, records_max=st.integers(1, 20))
    def poll(self, c: int, records_max: int) -> None:
        positions, ends = self.positions[c], self.log.end_offsets("t")
        if any(at < self.starts[p] for p, at in positions.items()):
            with pytest.raises(OffsetLostError):
                self.consumers[c].poll(records_max, 0)
            return
        polled = self.consumers[c].poll(records_max, 0)
        assert bool(polled) == any(at < ends[p] for p, at in positions.items())
        assert sum(map(len, polled)) <= records_max
        assert len({records.partition for records in polled}) == len(polled)
        for records in polled:
            at = positions[records.partition]
            assert records.offsets.tolist() == list(range(at, at + len(records)))
            stamps = records.timestamps_us.tolist()
            rows = list(zip(records.keys, records.values, records.headers, stamps, strict=True))
            assert rows == self.sent[records.partition][at : records.next_offset]
            positions[records.partition] = records.next_offset

    @rule(c=CONSUMER, partition=PARTITION, data=st.data())
    def seek(self, c: int, partition: int, data: st.DataObject) -> None:
        end = self.log.end_offsets("t")[partition]
        offset = data.draw(st.integers(self.starts[partition], end), label="offset")
        # Positions below the start stay as they are.
        self.positions[c][partition] = offset
        self.consumers[c].assign("t", self.positions[c])

    @rule(c=CONSUMER)
    def commit(self, c: int) -> None:
        self.consumers[c].commit("t", self.positions[c])
        self.committed[c].update(self.positions[c])

    @rule(partition=PARTITION, data=st.data())
    def delete_records(self, partition: int, data: st.DataObject) -> None:
        end = self.log.end_offsets("t")[partition]
        # Mostly near the end, where batches are dropped or just kept.
        near_end = st.integers(max(0, end - 2), end)
        before = data.draw(near_end | st.integers(0, end), label="before")
        self.log.delete_records("t", {partition: before})
        self.starts[partition] = max(self.starts[partition], before)

    @rule()
    def delete_topic_and_make_it_again(self) -> None:
        self.producer.flush()
        self.log.delete_topic("t")
        old = self.topic
        self.forget()
        assert self.topic.id != old.id
        for consumer in self.consumers:
            with pytest.raises(TopicGoneError):
                consumer.poll(1, 0)
        self.seek_all()

    @rule(stamp=st.integers(-1, 51))
    def offsets_at(self, stamp: int) -> None:
        expected = [
            next((o for o in range(start, end) if sent[o][3] >= stamp), end)
            for sent, start, end in zip(
                self.sent, self.starts, self.log.end_offsets("t"), strict=True
            )
        ]
        assert self.log.offsets_at("t", stamp) == expected

    @rule()
    def reopen(self) -> None:
        """What was not flushed may be lost, from the end only."""
        if not self.can_reopen:
            return
        ends = self.log.end_offsets("t")
        self.log.close()
        self.log = self.open()
        self.sent = [sent[:end] for sent, end in zip(self.sent, ends, strict=True)]
        self.producer = self.log.producer()
        self.consumers = [self.log.consumer(f"g{c}") for c in range(2)]
        assert self.log.end_offsets("t") == ends
        for consumer, positions in zip(self.consumers, self.positions, strict=True):
            consumer.assign("t", positions)

    @invariant()
    def offsets_agree(self) -> None:
        assert self.log.topics() == [self.topic]
        assert self.log.start_offsets("t") == self.starts
        ends = self.log.end_offsets("t")
        for end, flushed, sent in zip(ends, self.flushed, self.sent, strict=True):
            assert flushed <= end <= len(sent)
        for consumer, committed in zip(self.consumers, self.committed, strict=True):
            assert consumer.committed("t") == committed

    def teardown(self) -> None:
        self.log.close()


class MemoryLogModel(LogModel):
    def open(self) -> Log:
        return MemoryLog(limits=LIMITS)


class EmbeddedLogModel(LogModel):
    can_reopen = True

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        super().__init__()

    def open(self) -> Log:
        # Room for a few batches: some are read from the cache, some from the database.
        return EmbeddedLog(Path(self.folder.name), limits=LIMITS, cache_bytes_max=1_000)

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


@pytest.mark.parametrize("model", [MemoryLogModel, EmbeddedLogModel])
def test_any_interleaving_agrees_with_plain_lists(model: type[LogModel]) -> None:
    examples = min(settings.default.max_examples, 60)
    run_state_machine_as_test(model, settings=settings(max_examples=examples))
