"""Fixtures of the fault tests: one namespace for a test, on the broker of its file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from cluster_harness import cluster

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cluster_harness import Cluster
    from kafka_broker import Broker


@pytest.fixture
def namespace(broker: Broker, tmp_path: Path) -> Callable[..., AbstractContextManager[Cluster]]:
    """How to make the namespace of a test; it ends with its `with`, and its workers too."""
    return partial(cluster, broker, tmp_path)
