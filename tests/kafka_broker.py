"""A real Apache Kafka broker for tests: the same ladder of ways that the demo has."""

from __future__ import annotations

from headwater.cli.demo.broker import (
    BOOTSTRAP_VARIABLE,
    BROKER_USER,
    Broker,
    NoBrokerError,
    start,
)

__all__ = ["BOOTSTRAP_VARIABLE", "BROKER_USER", "Broker", "NoBrokerError", "start"]
