"""Fixtures of the serving tests."""

from __future__ import annotations

import pytest
from serving_harness import FakeReader

from headwater_serving.client import connect
from headwater_serving.server import Server


@pytest.fixture
def reader():
    return FakeReader()


@pytest.fixture
def server(reader):
    with Server(reader) as running:
        yield running


@pytest.fixture
def client(server):
    with connect(server.target, timeout_s=20) as connected:
        yield connected
