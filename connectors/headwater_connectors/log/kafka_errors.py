"""What Kafka says went wrong, as errors of one line with the cause and the cure."""

from __future__ import annotations

import threading

from confluent_kafka import KafkaError, KafkaException

from headwater.errors import ConfigError, HeadwaterError
from headwater_connectors.log.log import LogUnreachableError, NotAMemberError

__all__ = ["Faults", "KafkaFailureError", "KafkaUnreachableError", "failure", "is_retriable"]

_CREDENTIALS = frozenset(
    (
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - librdkafka's own codes are public there
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError._SSL,  # noqa: SLF001
    )
)
_RIGHTS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional id",
}
_NO_MEMBER = frozenset(
    (
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError._STATE,  # noqa: SLF001 - the consumer has left the group
    )
)
_TOO_OLD = frozenset(
    (
        KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001
        KafkaError.UNSUPPORTED_VERSION,
    )
)
_UNREACHABLE = frozenset(
    (
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
    )
)
# A topic just made, a leader just elected, a coordinator just started: it passes.
_RETRIABLE = _UNREACHABLE | {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.NOT_CONTROLLER,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
    KafkaError._NOENT,  # noqa: SLF001 - no partition has a leader
    KafkaError._WAIT_COORD,  # noqa: SLF001
}


class KafkaUnreachableError(ConfigError, LogUnreachableError):
    """No broker answered in time; unlike other settings that are wrong, this may pass."""


class KafkaFailureError(HeadwaterError):
    """Kafka refused a request, for a reason that no setting of ours explains."""


_MEANINGS: tuple[tuple[frozenset[int], tuple[type[HeadwaterError], str, str]], ...] = (
    (
        _CREDENTIALS,
        (
            ConfigError,
            "refused the connection",
            "check sasl.* and ssl.* settings and the security.protocol",
        ),
    ),
    (_TOO_OLD, (ConfigError, "is too old", "use Apache Kafka 3.6 or later")),
    (
        _NO_MEMBER,
        (
            NotAMemberError,
            "has given the partitions to another member",
            "what is in doubt is read again by whoever has it now",
        ),
    ),
    # No answer in the end: who asked waits, as for a broker that is gone.
    (
        _RETRIABLE,
        (
            KafkaUnreachableError,
            "is not ready",
            "wait until its partitions and groups have a leader; if they get none, see its log",
        ),
    ),
    (
        frozenset((KafkaError.FENCED_INSTANCE_ID,)),
        (
            ConfigError,
            "knows another worker with the same id",
            "give every worker an id of its own",
        ),
    ),
)


class Faults:
    """What librdkafka last reported of its connections, which its time-outs do not say."""

    def __init__(self) -> None:
        """Start without a fault."""
        self._lock = threading.Lock()
        self._last: KafkaError | None = None
        self._refused: KafkaError | None = None

    def report(self, error: KafkaError) -> None:
        """Keep an error; librdkafka calls this from its own threads and from polls."""
        with self._lock:
            if error.code() in _CREDENTIALS:
                self._refused = error
            # That all brokers are down says less than why one of them is.
            elif error.code() != KafkaError._ALL_BROKERS_DOWN or self._last is None:  # noqa: SLF001
                self._last = error

    def clear(self) -> None:
        """Forget what was reported: a request went through."""
        if self._last is not None or self._refused is not None:
            with self._lock:
                self._last = self._refused = None

    @property
    def refused(self) -> KafkaError | None:
        """The refusal of our credentials or certificates, if that is what happened."""
        return self._refused

    @property
    def last(self) -> KafkaError | None:
        """The last fault of any kind."""
        return self._refused or self._last


def is_retriable(error: KafkaError) -> bool:
    """Tell whether the same request may go through in a moment."""
    return error.code() in _RETRIABLE


def failure(
    error: KafkaError | KafkaException | None, doing: str, servers: str, last: KafkaError | None
) -> HeadwaterError:
    """Return the error to raise for one of Kafka's, or for no answer (None).

    `doing` completes "can't …"; `last` is the last fault of the connections.
    """
    cause: KafkaError | None = error.args[0] if isinstance(error, KafkaException) else error
    if cause is None or cause.code() in _UNREACHABLE:
        if last is not None and last.code() in _CREDENTIALS:
            cause = last
        else:
            why = _line(last or cause)
            return KafkaUnreachableError(
                f"can't {doing}: no answer from Kafka at {servers}{why and ': ' + why};"
                " check the address, the security settings and that a broker is running"
            )
    kind, says, cure = _meaning(cause.code())
    return kind(f"can't {doing}: Kafka at {servers} {says}: {_line(cause)}; {cure}")


def _meaning(code: int) -> tuple[type[HeadwaterError], str, str]:
    """Return the error to raise for a refusal, what Kafka does with it, and what to do."""
    if code in _RIGHTS:
        return ConfigError, "denies it", f"grant this user the right on the {_RIGHTS[code]}"
    for codes, meaning in _MEANINGS:
        if code in codes:
            return meaning
    return KafkaFailureError, "answered", "see the broker's log"


def _line(error: KafkaError | None) -> str:
    return "" if error is None else " ".join(error.str().split())
