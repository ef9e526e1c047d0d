"""The settings of Kafka clients: the user's, passed through, and ours, which stay ours."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import KafkaException

from headwater.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ADMIN", "CONSUMER", "PRODUCER", "News", "build", "check_config"]

_T = TypeVar("_T")
Config = dict[str, Any]

_LOGGER = logging.getLogger("headwater.kafka")

# What the guarantees rest on, and librdkafka's other names for the same keys.
_OWNED = {
    "acks": "records count as sent when every in-sync replica has them",
    "auto.offset.reset": "a position outside the log is an error, never a jump",
    "bootstrap.servers": "give it as the log's address",
    "delivery.report.only.error": "every failed record is reported",
    "delivery.timeout.ms": "records are retried until they are in the log",
    "enable.auto.commit": "offsets are committed when the state is safe",
    "enable.auto.offset.store": "offsets are committed when the state is safe",
    "enable.idempotence": "a retry must not write a record twice",
    "enable.partition.eof": "the consumer looks for the end itself",
    "group.id": "the group belongs to the task",
    "message.timeout.ms": "records are retried until they are in the log",
    "metadata.broker.list": "give it as the log's address",
    "request.required.acks": "records count as sent when every in-sync replica has them",
    "transactional.id": "the log has no transactions",
}
_DIGITS = re.compile(r"\d+")
_QUIET_S = 10.0
_WORDS_MAX = 1_000
_SECRET = re.compile(r"password|secret|\.pem$|token|jaas|oauthbearer\.config|passphrase|\.key$")

ADMIN: Mapping[str, Any] = {"reconnect.backoff.max.ms": 1_000}
PRODUCER: Mapping[str, Any] = {
    "acks": "all",
    "delivery.report.only.error": True,
    "enable.idempotence": True,
    "linger.ms": 1,
    "message.timeout.ms": 0,
    "queue.buffering.max.kbytes": 64 << 10,
    "queue.buffering.max.messages": 500_000,
    "reconnect.backoff.max.ms": 1_000,
    # How long records wait for a topic that was deleted to come back.
    "topic.metadata.propagation.max.ms": 5_000,
}
CONSUMER: Mapping[str, Any] = {
    "auto.offset.reset": "error",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    # A partition that was just assigned waits for the answer to the fetch before it.
    "fetch.wait.max.ms": 100,
    # librdkafka's second would be a second without records after each full queue.
    "fetch.queue.backoff.ms": 10,
    "isolation.level": "read_committed",
    "queued.max.messages.kbytes": 16 << 10,
    "reconnect.backoff.max.ms": 1_000,
}


def check_config(config: Mapping[str, str]) -> None:
    """Refuse keys that we own."""
    for key in config:
        if key in _OWNED:
            msg = f'kafka setting "{key}" is not yours to set: {_OWNED[key]}; remove it'
            raise ConfigError(msg)


def build(
    client: Callable[..., _T],
    servers: str,
    ours: Mapping[str, Any],
    config: Mapping[str, str],
    **more: object,
) -> _T:
    """Return a client with the user's settings over our defaults; `more` are ours alone."""
    settings = {**ours, **config, "bootstrap.servers": servers, **more}
    try:
        return client(settings, logger=_logger())
    except KafkaException as error:
        reason = _redacted(" ".join(error.args[0].str().split()), config)
    except (TypeError, ValueError) as error:
        reason = _redacted(str(error), config)
    msg = f"kafka settings for {servers} are refused: {reason}; see librdkafka's CONFIGURATION.md"
    # Raised here: the cause, which may hold a password, is not part of the traceback.
    raise ConfigError(msg)


def _redacted(text: str, config: Mapping[str, str]) -> str:
    for key, value in config.items():
        if _SECRET.search(key) and value:
            text = text.replace(str(value), "***")
    return text


def _logger() -> logging.Logger:
    """Return the logger of all clients."""
    if not _LOGGER.filters:
        _LOGGER.addFilter(News().is_in)
    return _LOGGER


class News:
    """What is worth a line of what librdkafka says; `clock` is in seconds.

    Settings of the other kind of client are not, nor is what was said a moment ago in the same
    words: without a broker every client says twenty times a second that it is refused.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_at: dict[str, float] = {}

    def is_in(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is news; one client's number and another's are the same words."""
        text = record.getMessage()
        if "CONFWARN" in text:
            return False
        words, now = _DIGITS.sub("", text), self._clock()
        if now - self._said_at.get(words, -_QUIET_S) < _QUIET_S:
            return False
        if len(self._said_at) >= _WORDS_MAX:
            self._said_at.clear()
        self._said_at[words] = now
        return True
