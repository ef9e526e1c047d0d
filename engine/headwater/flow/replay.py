"""Replay: dead letters sent again into their source topic, each of them once.

What was sent is said in `<namespace>.replays`, a topic of one partition that is never deleted from.
A run first claims a stream and says where the source topic ended then. One that died between
sending and saying so is made good by the next: it reads the source topic from there and finds what
was sent by the header it has. docs/decisions/0012-replay-by-claims.md has the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from headwater.errors import StateError
from headwater.flow.record_topic import RecordTopic
from headwater_connectors.replay_header import Origin, origin_of, with_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from headwater.flow.dead_letter_frame import DeadLetter
    from headwater_connectors.log.log import Log, Producer, Records

__all__ = ["LEASE_US", "Replayed", "Replays"]

# A claim that says nothing for so long is of a run that has died.
LEASE_US = 60_000_000
_BATCH = 500
_READ_RECORDS = 4_096
_READ_TIMEOUT_S = 1.0
_CURE = "let nothing else write to this topic"


class _Claimed(msgspec.Struct, frozen=True, tag="claimed"):
    """A run began to send letters of a stream; of several with a number the first one counts.

    `ends` are those of the source topic before the first letter of this run, and of the runs before
    it that were not finished, was sent.
    """

    stream: str
    number: int
    topic_id: str
    ends: list[int]
    at_us: int


class _Sent(msgspec.Struct, frozen=True, tag="sent"):
    """These records are in the source topic once more."""

    stream: str
    number: int
    origins: list[Origin]
    at_us: int


class _Finished(msgspec.Struct, frozen=True, tag="finished"):
    """A run has said all it had sent."""

    stream: str
    number: int


_Record = _Claimed | _Sent | _Finished


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many letters were sent, and how many were not.

    `before`: sent earlier. `recovered`: sent by a run that died before it could say so. `gone`: of
    a topic of the same name that was deleted since.
    """

    sent: int
    before: int
    recovered: int
    gone: int


class Replays:
    """What a namespace has replayed, read from its topic to the end whenever that matters."""

    def __init__(self, log: Log, namespace: str, clock: Callable[[], int]) -> None:
        self.name = f"{namespace}.replays"
        self._log = log
        self._namespace = namespace
        self._clock = clock
        self._records: RecordTopic[_Record] = RecordTopic(log, self.name, _Record, _CURE)
        self._claims: dict[str, _Claimed] = {}
        self._open: set[str] = set()
        self._heard_us: dict[str, int] = {}
        self._done: dict[str, set[Origin]] = {}
        self.read()

    def is_done(self, stream: str, origin: Origin) -> bool:
        """Whether a record was sent again before."""
        return origin in self._done.get(stream, ())

    def read(self) -> None:
        """Take in what was said since the last time; a namespace may have said nothing."""
        for record in self._records.read():
            self._hear(record)

    def replay(
        self, stream: str, letters: Iterable[DeadLetter], *, lease_us: int = LEASE_US
    ) -> Replayed:
        """Send this namespace's letters of a stream again, but for those sent before, and say so.

        `lease_us` is how long a run that says nothing may still be at work; 0 where the log has one
        process. Raises StateError while another run is.
        """
        topic = self._log.topic(stream)
        claim = self._claim(stream, topic.id, lease_us)
        producer = self._log.producer()
        try:
            recovered = self._recover(claim)
            sent = before = gone = 0
            batch: dict[Origin, DeadLetter] = {}
            for letter in letters:
                if letter.context.namespace != self._namespace:
                    continue  # those may be rows here
                if letter.origin.topic_id != topic.id:
                    gone += 1
                    continue
                if letter.origin in batch or self.is_done(stream, letter.origin):
                    before += 1
                    continue
                batch[letter.origin] = letter
                if len(batch) == _BATCH:
                    sent += self._send(claim, producer, batch, lease_us)
                    batch = {}
            sent += self._send(claim, producer, batch, lease_us)
            self._say(_Finished(stream, claim.number))
        finally:
            producer.close()
        return Replayed(sent, before, recovered, gone)

    def _claim(self, stream: str, topic_id: str, lease_us: int) -> _Claimed:
        self.read()
        now_us = self._clock()
        known = self._claims.get(stream)
        ends = self._log.end_offsets(stream)
        if known is not None and stream in self._open:
            left_us = self._heard_us[stream] + lease_us - now_us
            if left_us > 0:
                msg = (
                    f'dead letters of "{stream}" are being replayed by another run, or one has just'
                    f" died; run it again in {left_us / 1e6:.0f} s"
                )
                raise StateError(msg)
            if known.topic_id == topic_id:
                ends = known.ends
        number = 1 if known is None else known.number + 1
        wanted = _Claimed(stream, number, topic_id, ends, now_us)
        self._say(wanted)
        if self._claims[stream] != wanted:
            msg = f'dead letters of "{stream}" are being replayed by another run; wait for it'
            raise StateError(msg)
        return wanted

    def _recover(self, claim: _Claimed) -> int:
        """Say what runs before this one had sent without having said so."""
        ends = self._log.end_offsets(claim.stream)
        stretches = dict(enumerate(zip([*claim.ends, *[0] * len(ends)], ends, strict=False)))
        found = []
        for records in _until(self._log, claim.stream, stretches):
            for headers in records.headers:
                origin = origin_of(headers) if headers else None
                if (
                    origin is not None
                    and origin[0] == self._namespace
                    and not self.is_done(claim.stream, origin[1])
                ):
                    found.append(origin[1])
        if found:
            self._say(_Sent(claim.stream, claim.number, found, self._clock()))
        return len(found)

    def _send(
        self,
        claim: _Claimed,
        producer: Producer,
        batch: dict[Origin, DeadLetter],
        lease_us: int,
    ) -> int:
        if not batch:
            return 0
        self.read()
        silent_us = self._clock() - self._heard_us[claim.stream]
        if self._claims[claim.stream] != claim or (lease_us and 2 * silent_us > lease_us):
            msg = f'this replay of "{claim.stream}" stood still for too long; run it again'
            raise StateError(msg)
        for origin, letter in batch.items():
            # Without a timestamp: it arrives now, and no training set as of arrival has it before.
            producer.send(
                claim.stream,
                origin.partition,
                letter.value,
                key=letter.key,
                headers=with_origin(letter.headers, self._namespace, origin),
            )
        producer.flush()
        self._say(_Sent(claim.stream, claim.number, list(batch), self._clock()))
        return len(batch)

    def _say(self, record: _Record) -> None:
        self._records.say(record)
        self.read()

    def _hear(self, record: _Record) -> None:
        known = self._claims.get(record.stream)
        if isinstance(record, _Claimed):
            if record.number == (1 if known is None else known.number + 1):
                self._claims[record.stream] = record
                self._open.add(record.stream)
                self._heard_us[record.stream] = record.at_us
        elif isinstance(record, _Sent):
            # True whoever says it.
            self._done.setdefault(record.stream, set()).update(record.origins)
            if known is not None and record.number == known.number:
                self._heard_us[record.stream] = record.at_us
        elif known is not None and record.number == known.number:
            self._open.discard(record.stream)


def _until(log: Log, topic: str, stretches: dict[int, tuple[int, int]]) -> Iterator[Records]:
    """Yield the records of partitions from one offset up to, without, another."""
    left = {p: end for p, (first, end) in stretches.items() if first < end}
    if not left:
        return
    consumer = log.consumer(None)
    try:
        consumer.assign(topic, {p: stretches[p][0] for p in left})
        while left:
            for records in consumer.poll(_READ_RECORDS, _READ_TIMEOUT_S):
                yield records
                if records.next_offset >= left.get(records.partition, 0):
                    left.pop(records.partition, None)
    finally:
        consumer.close()
