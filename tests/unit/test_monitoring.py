from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter

from headwater.errors import ConfigError, StateError
from headwater_serving import monitoring
from headwater_serving.monitoring import Monitoring

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 30


class Worker:
    """A worker as the endpoint sees it, in whatever condition a test puts it."""

    def __init__(self) -> None:
        self.age_s = 0.5
        self.ready = True
        self.error: Exception | None = None

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def heartbeat_age_s(self) -> float:
        return self.age_s

    def is_ready(self) -> bool:
        return self.ready


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("headwater_rows", "Rows", ["topic"], registry=registry).labels("flights").inc(7)
    return registry


@pytest.fixture
def endpoint(registry, worker) -> Iterator[Monitoring]:
    with Monitoring(registry, worker, stalled_after_s=10) as running:
        yield running


def ask(endpoint: Monitoring, path: str, method: str = "GET", **headers: str):
    """Return status, content type and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=PATIENCE_S)
    try:
        connection.request(
            method, path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def test_metrics_come_as_text_and_as_openmetrics_for_who_asks(endpoint) -> None:
    status, kind, body = ask(endpoint, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert b'headwater_rows_total{topic="flights"} 7.0' in body
    _, kind, body = ask(endpoint, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_health_is_ok_while_the_loops_go_round(endpoint, worker) -> None:
    worker.age_s = 9.9
    status, kind, body = ask(endpoint, "/healthz")
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {"status": "ok", "heartbeat_age_s": 9.9}


def test_a_loop_that_stands_still_is_told_in_one_line(endpoint, worker) -> None:
    worker.age_s = 10.0
    status, _, body = ask(endpoint, "/healthz")
    assert status == 503
    assert body.count(b"\n") == 1
    found = json.loads(body)
    assert found["status"] == "stalled"
    assert found["why"] == "a loop last went round 10.0 s ago, the limit is 10 s"


def test_a_task_that_stopped_is_told_with_its_error(endpoint, worker) -> None:
    worker.error = StateError("topic flights was\nmade again; run headwater stream reset")
    status, _, body = ask(endpoint, "/healthz")
    assert status == 503
    assert json.loads(body)["why"] == "topic flights was made again; run headwater stream reset"


def test_ready_is_apart_from_healthy(endpoint, worker) -> None:
    assert ask(endpoint, "/readyz")[0] == 200
    worker.ready = False
    assert ask(endpoint, "/readyz")[0] == 503
    assert ask(endpoint, "/healthz")[0] == 200


@pytest.mark.parametrize("path", ["/", "/metric", "/healthz/", "/metrics/x"])
def test_anything_else_is_not_found(endpoint, path) -> None:
    status, _, body = ask(endpoint, path)
    assert status == 404
    assert b"/readyz" in body


def test_only_reading_is_allowed(endpoint) -> None:
    assert ask(endpoint, "/healthz", "POST")[0] == 405
    assert ask(endpoint, "/metrics", "POST")[0] == 405
    assert ask(endpoint, "/healthz", "HEAD")[::2] == (200, b"")


def test_a_port_in_use_says_so(endpoint, registry, worker) -> None:
    second = Monitoring(registry, worker, port=endpoint.port)
    with pytest.raises(ConfigError, match=f"metrics port {endpoint.port} on 127.0.0.1 is in use"):
        second.start()
    with pytest.raises(ConfigError, match="runs already"):
        endpoint.start()


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("127.0.0.1", 70_000, "not between 0 and 65535"),
        ("no host", 0, "can't be resolved"),
        ("203.0.113.9", 0, "can't be bound"),
    ],
)
def test_an_address_that_cannot_be_used_says_why(registry, worker, host, port, said) -> None:
    with pytest.raises(ConfigError, match=said):
        Monitoring(registry, worker, host=host, port=port).start()


def test_the_port_is_free_again_after_the_end(registry, worker) -> None:
    with Monitoring(registry, worker) as first:
        port = first.port
    first.stop()
    with Monitoring(registry, worker, port=port) as second:
        assert ask(second, "/healthz")[0] == 200


def _is_closed(connection: socket.socket, drip: bytes = b"") -> bool:
    """Wait until the other side has closed; send a byte now and then meanwhile."""
    connection.settimeout(0.05 if drip else PATIENCE_S)
    for _ in range(int(PATIENCE_S / 0.05)):
        try:
            if drip:
                connection.sendall(drip)
            if not connection.recv(1_000):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_who_says_nothing_is_cut_off(registry, worker, monkeypatch) -> None:
    monkeypatch.setattr(monitoring._Handler, "timeout", 0.1)
    with (
        Monitoring(registry, worker) as endpoint,
        socket.create_connection(("127.0.0.1", endpoint.port)) as silent,
    ):
        assert _is_closed(silent)


def test_who_drips_is_cut_off_too(registry, worker, monkeypatch) -> None:
    monkeypatch.setattr(monitoring, "_REQUEST_MAX_S", 0.2)
    with (
        Monitoring(registry, worker) as endpoint,
        socket.create_connection(("127.0.0.1", endpoint.port)) as slow,
    ):
        assert _is_closed(slow, drip=b"G")


def test_one_more_than_the_limit_is_turned_away_and_threads_stay_few(registry, worker) -> None:
    with Monitoring(registry, worker) as endpoint:
        address = ("127.0.0.1", endpoint.port)
        holders = [socket.create_connection(address) for _ in range(monitoring._CONNECTIONS_MAX)]
        try:
            with socket.create_connection(address) as extra:
                assert _is_closed(extra)
            named = [one for one in threading.enumerate() if "monitoring" in one.name]
            assert len(named) <= monitoring._CONNECTIONS_MAX + 1
        finally:
            for holder in holders:
                holder.close()
