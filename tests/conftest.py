"""Fixtures of every test that needs a real broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kafka_broker
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kafka_broker import Broker


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """One broker for a file."""
    broker = kafka_broker.start()
    yield broker
    broker.stop()
