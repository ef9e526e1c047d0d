"""The log: partitioned topics of records, in memory or embedded, under one contract."""

from __future__ import annotations

from headwater_connectors.log.embedded import EmbeddedLog
from headwater_connectors.log.local import Limits
from headwater_connectors.log.log import (
    Consumer,
    DeliveryError,
    DeliveryFailure,
    Headers,
    Log,
    OffsetLostError,
    Producer,
    Records,
    Topic,
    TopicGoneError,
)
from headwater_connectors.log.memory import MemoryLog

__all__ = [
    "Consumer",
    "DeliveryError",
    "DeliveryFailure",
    "EmbeddedLog",
    "Headers",
    "Limits",
    "Log",
    "MemoryLog",
    "OffsetLostError",
    "Producer",
    "Records",
    "Topic",
    "TopicGoneError",
]
