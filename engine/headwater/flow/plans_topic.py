"""The plans topic: what a namespace has agreed on, in the order in which it was said.

It has one partition and is never deleted from. Whoever joins reads it from the start; of two that
say a thing at once the one whose record comes first is heard.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from headwater.errors import ConfigError, DefinitionError, StateError
from headwater.flow.exchange import RECORD_BYTES_MAX
from headwater.flow.record_topic import RecordTopic
from headwater.flow.starts import Start  # noqa: TC001 - msgspec reads it
from headwater.plan.document import DOCUMENT_BYTES_MAX, read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headwater.plan.plan import Plan
    from headwater_connectors.log.log import Log

__all__ = ["Applied", "Made", "PlansTopic", "Started"]

_CURE = "run workers of one version, and let nothing else write to this topic"


class Made(msgspec.Struct, frozen=True, tag="made"):
    """The namespace was made, with so many shards; the first one counts."""

    shards: int


class Started(msgspec.Struct, frozen=True, tag="started"):
    """Where a stream begins, or begins anew; heard only in its turn: `number` 1, 2, 3 and on."""

    stream: str
    number: int
    start: Start


class Applied(msgspec.Struct, frozen=True, tag="applied"):
    """The definitions that count from here on, all of them; heard only in its turn, from 1 on."""

    number: int
    packed: bytes

    @property
    def document(self) -> bytes:
        """The document of `headwater.plan.document`; raise StateError if it can't be unpacked."""
        try:
            # One byte more than may be: whoever reads it refuses that by its size.
            return zlib.decompressobj().decompress(self.packed, DOCUMENT_BYTES_MAX + 1)
        except zlib.error as error:
            msg = (
                f"plan number {self.number} can't be unpacked ({error}); apply the definitions"
                " again: headwater apply"
            )
            raise StateError(msg) from error


_Record = Made | Started | Applied


class PlansTopic:
    """A namespace's plans topic, read to its end whenever something is to be known."""

    def __init__(self, log: Log, namespace: str) -> None:
        self.name = self.name_in(namespace)
        self.shards: int | None = None
        self.starts: dict[str, Started] = {}
        self.applied: Applied | None = None
        self._all_applied: list[Applied] = []
        self.namespace = namespace
        self._records: RecordTopic[_Record] = RecordTopic(log, self.name, _Record, _CURE)
        self.read()

    @staticmethod
    def name_in(namespace: str) -> str:
        """Return the name of a namespace's plans topic."""
        return f"{namespace}.plans"

    def read(self) -> None:
        """Take in what was said since the last time; a new namespace has said nothing."""
        for record in self._records.read():
            self._hear(record)

    def agree_on_shards(self, shards: int | None, default: int) -> int:
        """Return how many shards the namespace has; made with `shards` if it is new.

        Raises ConfigError if it was made with another number than the one asked for.
        """
        if self.shards is None:
            self._say(Made(shards or default))
        assert self.shards is not None
        if shards not in {None, self.shards}:
            msg = (
                f'namespace "{self.namespace}" has {self.shards} shards, the configuration asks'
                f" for {shards}; leave shards out, or use another namespace"
            )
            raise ConfigError(msg)
        return self.shards

    def agree_on_start(self, stream: str, topic_id: str, resolve: Callable[[], Start]) -> Start:
        """Return where a stream begins; resolved now if nobody has done it before.

        Raises StateError if its topic is another one than the one it began with.
        """
        if stream not in self.starts:
            self._say(Started(stream, 1, resolve()))
        start = self.starts[stream].start
        if start.topic_id != topic_id:
            msg = (
                f'topic "{stream}" was deleted and made again (id {start.topic_id} is now'
                f" {topic_id}): its offsets start anew; to go on with the new one run"
                f" headwater stream reset {stream}"
            )
            raise StateError(msg)
        return start

    def restart(self, stream: str, start: Start) -> bool:
        """Let a stream begin anew; return False if somebody else did so in the meantime."""
        known = self.starts.get(stream)
        wanted = Started(stream, 1 if known is None else known.number + 1, start)
        self._say(wanted)
        return self.starts[stream] == wanted

    @property
    def number(self) -> int:
        """The number of the plan that counts, 0 where nothing is applied yet."""
        return 0 if self.applied is None else self.applied.number

    def apply(self, document: bytes, *, after: int) -> bool:
        """Let a document count after the plan of that number; return False if another one does.

        Raises DefinitionError for a document that is too big for one record.
        """
        wanted = Applied(after + 1, zlib.compress(document, 9))
        if self.number != after:
            return False
        size = len(msgspec.json.encode(wanted))
        if size > RECORD_BYTES_MAX:
            msg = (
                f"the definitions take {size} bytes in the plans topic, at most"
                f" {RECORD_BYTES_MAX} fit; split them into two namespaces, or remove old versions:"
                " headwater view remove"
            )
            raise DefinitionError(msg)
        self._say(wanted)
        return self.applied == wanted

    def plan(self) -> Plan | None:
        """Return the plan that counts, compiled; None where nothing is applied yet.

        Raises StateError for one that this version, engine or namespace can't take.
        """
        if self.applied is None:
            return None
        return read_document(self.applied.document, self.namespace)

    def plans(self) -> Iterator[Plan]:
        """Yield every plan that was ever applied, the newest first, where it can still be taken."""
        for applied in reversed(self._all_applied):
            with suppress(StateError):
                yield read_document(applied.document, self.namespace)

    def _say(self, record: _Record) -> None:
        self._records.say(record)
        self.read()

    def _hear(self, record: _Record) -> None:
        if isinstance(record, Made):
            self.shards = self.shards or record.shards
        elif isinstance(record, Applied):
            if record.number == self.number + 1:
                self.applied = record
                self._all_applied.append(record)
        else:
            known = self.starts.get(record.stream)
            if record.number == (1 if known is None else known.number + 1):
                self.starts[record.stream] = record
