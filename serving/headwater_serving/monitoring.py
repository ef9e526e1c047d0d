"""The monitoring endpoint over HTTP: /metrics, /healthz and /readyz, with bounds on everything."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import socketserver
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, Self, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from headwater.errors import ConfigError, HeadwaterError
from headwater.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

__all__ = ["Health", "Monitoring"]

_log = get_logger(__name__)
_PORT_MAX = 65_535
_CONNECTIONS_MAX = 8  # a scraper, two probes, a few people
_SILENCE_MAX_S = 5.0  # between two reads or writes
_REQUEST_MAX_S = 15.0  # in all: a slow one must not hold a thread that a probe needs
_POLL_S = 0.25


class Health(Protocol):
    """What the endpoint asks of a worker; every answer is immediate."""

    def check(self) -> None:
        """Raise the HeadwaterError that stopped a task, if one did."""

    def heartbeat_age_s(self) -> float:
        """Return how long ago the slowest of its loops last went round, seconds."""
        ...

    def is_ready(self) -> bool:
        """Tell whether it has its tasks and answers fresh."""
        ...


class Monitoring:
    """Serves a worker's metrics and health from `start` to `stop`, or as a context manager.

    /healthz answers 503 when a loop stands still for `stalled_after_s` or a task has stopped.
    Port 0 takes any free one; `port` holds the real one after `start`.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Health,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        stalled_after_s: float = 10.0,
    ) -> None:
        self.host = host
        self.port = port
        self._app = _application(registry, health, stalled_after_s)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address to scrape, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> int:
        """Bind, answer from now on, and return the port; ConfigError if it can't be bound."""
        if self._server is not None:
            raise ConfigError(f"the monitoring endpoint on {self.url} runs already; stop it first")
        self._server = server = _bound(self.host, self.port)
        server.set_app(self._app)
        self.port = int(server.server_port)
        self._thread = threading.Thread(
            target=server.serve_forever,
            kwargs={"poll_interval": _POLL_S},
            name="headwater-monitoring",
            daemon=True,
        )
        self._thread.start()
        _log.info("monitoring_started", url=self.url)
        return self.port

    def stop(self) -> None:
        """Close the port and every connection; stopping twice does nothing."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _application(
    registry: CollectorRegistry, health: Health, stalled_after_s: float
) -> WSGIApplication:
    """Return the application: three paths, and 404 for everything else."""
    metrics = cast("WSGIApplication", make_wsgi_app(registry))

    def healthy() -> tuple[bool, dict[str, object]]:
        age_s = round(health.heartbeat_age_s(), 3)
        if age_s >= stalled_after_s:
            why = f"a loop last went round {age_s} s ago, the limit is {stalled_after_s} s"
            return False, {"status": "stalled", "why": why, "heartbeat_age_s": age_s}
        try:
            health.check()
        except HeadwaterError as error:
            why = " ".join(str(error).split())
            return False, {"status": "failed", "why": why, "heartbeat_age_s": age_s}
        return True, {"status": "ok", "heartbeat_age_s": age_s}

    def ready() -> tuple[bool, dict[str, object]]:
        if health.is_ready():
            return True, {"status": "ready"}
        return False, {"status": "not ready", "why": "it is starting, catching up or stopping"}

    checks: dict[str, Callable[[], tuple[bool, dict[str, object]]]] = {
        "/healthz": healthy,
        "/readyz": ready,
    }

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", ""), environ.get("REQUEST_METHOD", "")
        if path == "/metrics":
            return metrics(environ, start_response)
        check = checks.get(path)
        if check is None:
            status, said = HTTPStatus.NOT_FOUND, _error("ask for /metrics, /healthz or /readyz")
        elif method not in {"GET", "HEAD"}:
            status, said = HTTPStatus.METHOD_NOT_ALLOWED, _error("use GET")
        else:
            passed, said = check()
            status = HTTPStatus.OK if passed else HTTPStatus.SERVICE_UNAVAILABLE
        body = json.dumps(said).encode() + b"\n"
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response(f"{status.value} {status.phrase}", headers)
        return [b"" if method == "HEAD" else body]

    return application


def _error(text: str) -> dict[str, object]:
    return {"status": "error", "why": text}


class _Handler(WSGIRequestHandler):
    timeout = _SILENCE_MAX_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base's
        """Say nothing of single requests: there is one every few seconds, for ever."""


class _Server(WSGIServer):
    """A few threads, each with one connection for a bounded time; one more is turned away."""

    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, family: socket.AddressFamily, address: tuple[Any, ...]) -> None:
        self.address_family = family
        self._pool = ThreadPoolExecutor(_CONNECTIONS_MAX, thread_name_prefix="headwater-monitoring")
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}
        try:
            super().__init__(cast("tuple[str, int]", address), _Handler)
        except BaseException:
            self._pool.shutdown()
            raise

    def server_bind(self) -> None:
        # The base asks DNS for the host's name, which may take seconds and which nobody needs.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = cast("tuple[str, int]", self.server_address[:2])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        with self._lock:
            is_full = len(self._deadlines) >= _CONNECTIONS_MAX
            if not is_full:
                self._deadlines[request] = time.monotonic() + _REQUEST_MAX_S
        if is_full:
            self.shutdown_request(request)
        else:
            self._pool.submit(self._answer, request, client_address)

    def _answer(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            # It left, or was too slow.
            _log.debug("monitoring_request_broken", reason=str(error))
        finally:
            with self._lock:
                self._deadlines.pop(request, None)
            self.shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off connections that are past their time; called between requests."""
        self._cut_off(time.monotonic())

    def server_close(self) -> None:
        super().server_close()
        self._cut_off(float("inf"))
        self._pool.shutdown()

    def _cut_off(self, now: float) -> None:
        with self._lock:
            overdue = [request for request, until in self._deadlines.items() if until <= now]
            for request in overdue:
                # Its thread wakes up and closes it.
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)


def _bound(host: str, port: int) -> _Server:
    if not 0 <= port <= _PORT_MAX:
        raise ConfigError(f"metrics port {port} is not between 0 and {_PORT_MAX}; choose another")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigError(
            f'metrics host "{host}" can\'t be resolved; choose another with worker.metrics_host'
        ) from error
    try:
        return _Server(family, address)
    except OSError as error:
        reason = (
            "is in use"
            if error.errno == errno.EADDRINUSE
            else f"can't be bound ({os.strerror(error.errno or 0)})"
        )
        raise ConfigError(
            f"metrics port {port} on {host} {reason}; choose another with --metrics-port"
        ) from error
