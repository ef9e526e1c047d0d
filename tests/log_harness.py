"""What every implementation of the log is tested with: how it opens, and short hands for reading.

A new implementation joins the contract by one entry in `IMPLEMENTATIONS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater_connectors.log import EmbeddedLog, MemoryLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headwater_connectors.log import Consumer, Log, Records

NOW_US = 1_700_000_000_000_000
# Long enough for any machine: a test that waits this long has failed.
PATIENCE_S = 60.0


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_us = NOW_US

    def __call__(self) -> int:
        return self.now_us


@dataclass(frozen=True)
class Implementation:
    """How to open an empty log, and whether it can be given a clock."""

    open: Callable[[Path, Clock], Log]
    takes_clock: bool


IMPLEMENTATIONS = {
    "memory": Implementation(lambda _, clock: MemoryLog(clock=clock), takes_clock=True),
    "embedded": Implementation(
        lambda folder, clock: EmbeddedLog(folder / "log", clock=clock), takes_clock=True
    ),
    # No cache: every record is read back from the database.
    "embedded, uncached": Implementation(
        lambda folder, clock: EmbeddedLog(folder / "log", clock=clock, cache_bytes_max=0),
        takes_clock=True,
    ),
}


def fill(log: Log, topic: str, partition: int, count: int, *, first: int = 0) -> None:
    """Append the numbers first, first + 1, … in one flush."""
    producer = log.producer()
    producer.send_many(topic, partition, [b"%d" % n for n in range(first, first + count)])
    producer.close()


def drain(consumer: Consumer, count: int, *, records_max: int = 1_000) -> list[Records]:
    """Poll until `count` records came; fail when they don't."""
    polled: list[Records] = []
    while (have := sum(map(len, polled))) < count:
        records = consumer.poll(records_max, PATIENCE_S)
        assert records, f"{have} of {count} records came"
        polled += records
    assert have == count
    return polled


def numbers(polled: list[Records], partition: int = 0) -> list[int]:
    """Return the values of a partition as numbers, in the order polled."""
    chosen = [records.values for records in polled if records.partition == partition]
    return [int(value) for values in chosen for value in values if value is not None]


def reader(log: Log, topic: str, offsets: dict[int, int], group: str | None = None) -> Consumer:
    consumer = log.consumer(group)
    consumer.assign(topic, offsets)
    return consumer
