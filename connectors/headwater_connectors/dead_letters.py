"""Dead letters: records that could not be used, kept as they were, with the reason in headers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from headwater.errors import ConfigError, HeadwaterError, NotFoundError

if TYPE_CHECKING:
    from headwater_connectors.formats.decoded import Reject
    from headwater_connectors.log.log import Headers, Records, Topic

__all__ = [
    "MESSAGE_BYTES_MAX",
    "DeadLetterContext",
    "DeadLetterProducer",
    "DeadLetters",
    "dead_letter_topic",
    "original_headers",
    "read_context",
]

MESSAGE_BYTES_MAX: Final = 1024

PREFIX: Final = "__headwater.errors."
FIELDS: Final = (
    "topic", "partition", "offset", "stage", "reason", "message", "topic_id", "namespace",
)  # fmt: skip
NAMES: Final = tuple(PREFIX + field for field in FIELDS)


class DeadLetterProducer(Protocol):
    """What dead letters need of a producer."""

    def send(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None,
        headers: Headers,
        timestamp_us: int | None,
    ) -> None:
        """Send one record; only a flush says that it is in the log."""
        ...

    def flush(self) -> None:
        """Return when everything sent is acknowledged."""
        ...


@dataclass(frozen=True, slots=True)
class DeadLetterContext:
    """Where a dead letter came from, which stage of which namespace refused it, and why."""

    topic: str
    partition: int
    offset: int
    stage: str
    reason: str
    message: str
    topic_id: str
    namespace: str


class DeadLetters:
    """Sends records to a dead-letter topic; `counts` has how many, by reason.

    Key, value, headers and timestamp stay as they were; what went wrong is in headers appended to
    the record's own. Flush before committing the offsets of the records. The topic keeps
    producers' timestamps, and takes records larger than the source's by the appended headers (at
    most 2 KiB where topic names have at most 249 characters).
    """

    def __init__(self, producer: DeadLetterProducer, topic: Topic, namespace: str) -> None:
        """Send to a topic, usually named by `dead_letter_topic`; it has at least one partition.

        Namespaces may share it, as they share the source topic.
        """
        if topic.partitions < 1:
            raise ConfigError(f'dead-letter topic "{topic.name}" has no partition; create it anew')
        self.topic = topic
        self.counts: Counter[str] = Counter()
        self._producer = producer
        self._namespace = namespace

    def put(self, records: Records, reject: Reject, *, stage: str) -> None:
        """Send the record of a run that was rejected, to its partition modulo the topic's.

        A message beyond 1 KiB of UTF-8 is cut at a character.
        """
        row = reject.row
        context = DeadLetterContext(
            topic=records.topic,
            partition=records.partition,
            offset=int(records.offsets[row]),
            stage=stage,
            reason=reject.reason,
            message=reject.message,
            topic_id=records.topic_id,
            namespace=self._namespace,
        )
        self._producer.send(
            self.topic.name,
            records.partition % self.topic.partitions,
            records.values[row],
            key=records.keys[row],
            headers=(*records.headers[row], *_context_headers(context)),
            timestamp_us=int(records.timestamps_us[row]),
        )
        self.counts[reject.reason] += 1

    def flush(self) -> None:
        """Return when every dead letter is in the log; the producer's errors come through."""
        self._producer.flush()


def dead_letter_topic(topic: str) -> str:
    """Return the usual name of a topic's dead-letter topic."""
    return f"{topic}.dlq"


def read_context(headers: Headers) -> DeadLetterContext:
    """Read back what `DeadLetters.put` wrote.

    A record that was put twice has two sets; the last one counts. Raises NotFoundError for a
    record that is no dead letter, HeadwaterError for one whose headers were altered.
    """
    found = dict(headers)
    for name in NAMES:
        if name not in found:
            raise NotFoundError(
                f'no header "{name}": the record is no dead letter of Headwater; skip it'
            )
    try:
        text = {field: found[name].decode() for field, name in zip(FIELDS, NAMES, strict=True)}
        partition, offset = int(text["partition"]), int(text["offset"])
    except ValueError as error:
        raise HeadwaterError(
            f'headers "{PREFIX}*" can\'t be read ({error}): something altered them on their way'
        ) from error
    return DeadLetterContext(**{**text, "partition": partition, "offset": offset})  # type: ignore[arg-type]


def original_headers(headers: Headers) -> Headers:
    """Return the headers the record had before it was put, as a replay needs them."""
    own = len(headers) - len(NAMES)
    if own < 0 or tuple(name for name, _ in headers[own:]) != NAMES:
        raise NotFoundError(
            f'the last headers are not "{PREFIX}*": the record is no dead letter of Headwater'
        )
    return headers[:own]


def _context_headers(context: DeadLetterContext) -> Headers:
    # What comes from a broken record may hold half a surrogate pair, which UTF-8 can't.
    message = context.message.encode("utf-8", "backslashreplace")[:MESSAGE_BYTES_MAX]
    values = (
        context.topic.encode(),
        str(context.partition).encode(),
        str(context.offset).encode(),
        context.stage.encode(),
        context.reason.encode(),
        message.decode("utf-8", "ignore").encode(),
        context.topic_id.encode(),
        context.namespace.encode(),
    )
    return tuple(zip(NAMES, values, strict=True))
