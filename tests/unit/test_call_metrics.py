"""Calls are counted by how they ended, values by their status."""

from __future__ import annotations

import polars as pl
import pytest
from prometheus_client import CollectorRegistry

import headwater as hw
from headwater.errors import NotFoundError
from headwater_serving.call_metrics import CallMetrics
from headwater_serving.client import connect
from headwater_serving.server import Server

STREAM = hw.stream(
    "clicks", schema={"user": pl.String, "ts": pl.Int64}, event_time=hw.epoch("ts", "ms")
)
COUNTS = hw.view(
    "counts",
    features=STREAM.group_by(hw.entity("user", key="user")).window("1h").agg(n=hw.count()),
)


def test_calls_and_values_are_counted() -> None:
    registry = CollectorRegistry()

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(name, labels) or 0.0

    with (
        hw.local([hw.service("clicks", [COUNTS])]) as store,
        Server(store.worker.reader, metrics=CallMetrics(registry)) as server,
        connect(server.target) as client,
    ):
        client.online("clicks", user=["a", "b", "c"])
        with pytest.raises(NotFoundError):
            client.online("clocks", user=["a"])
    assert value("headwater_requests_total", call="GetOnlineFeatures", code="OK") == 1
    assert value("headwater_requests_total", call="DescribeService", code="OK") == 1
    assert value("headwater_requests_total", call="DescribeService", code="NOT_FOUND") == 1
    assert value("headwater_request_duration_seconds_count", call="GetOnlineFeatures") == 1
    assert value("headwater_served_values_total", status="NOT_FOUND") == 3
    assert value("headwater_served_values_total", status="PRESENT") == 0
