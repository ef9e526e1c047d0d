"""Fixtures of the fault tests: one broker for a file, one namespace for a test."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import kafka_broker
import pytest
from cluster_harness import cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cluster_harness import Cluster
    from kafka_broker import Broker


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    broker = kafka_broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def namespace(broker: Broker, tmp_path: Path) -> Callable[..., AbstractContextManager[Cluster]]:
    """How to make the namespace of a test; it ends with its `with`, and its workers too."""
    return partial(cluster, broker, tmp_path)
