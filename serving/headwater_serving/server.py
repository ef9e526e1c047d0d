"""The gRPC server: ports, threads, limits, health, and a graceful end."""

from __future__ import annotations

import errno
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from headwater.errors import ConfigError
from headwater.logs import get_logger
from headwater_proto.v1 import peer_pb2_grpc, serving_pb2, serving_pb2_grpc
from headwater_serving.call_metrics import CallMetrics
from headwater_serving.options import ServerOptions
from headwater_serving.peer_servicer import PeerServicer
from headwater_serving.servicer import FeatureServicer

if TYPE_CHECKING:
    from types import TracebackType

    from headwater_serving.peer_servicer import Peer
    from headwater_serving.reader import Reader

__all__ = ["SERVICE_NAME", "Server"]

SERVICE_NAME: str = serving_pb2.DESCRIPTOR.services_by_name["FeatureService"].full_name

_log = get_logger(__name__)
_DRAIN_S = 5.0
_PORT_MAX = 65_535


class Server:
    """Serves a reader over gRPC from `start` to `stop`, or as a context manager.

    Port 0 takes any free one; `port` and `target` hold the real one after `start`. With `peer` it
    answers other workers, too.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        options: ServerOptions | None = None,
        peer: Peer | None = None,
        metrics: CallMetrics | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._reader = reader
        self._peer = peer
        self._metrics = metrics or CallMetrics()
        self._options = options or ServerOptions()
        self._health: health.HealthServicer | None = None
        self._grpc: grpc.Server | None = None

    @property
    def target(self) -> str:
        """What a client connects to, `host:port`."""
        return _address(self.host, self.port)

    def start(self) -> int:
        """Bind, answer calls from now on, and return the port.

        Raises ConfigError when the port is in use or the host can't be bound.
        """
        if self._grpc is not None:
            raise ConfigError(f"the server on {self.target} runs already; stop it first")
        _check_free(self.host, self.port)
        options = self._options
        server = grpc.server(
            ThreadPoolExecutor(options.workers, thread_name_prefix="headwater-grpc"),
            options=options.channel_arguments(),
            maximum_concurrent_rpcs=options.concurrent_rpcs_max,
        )
        servicer = FeatureServicer(self._reader, options, self._metrics)
        serving_pb2_grpc.add_FeatureServiceServicer_to_server(servicer, server)
        if self._peer is not None:
            threads = ThreadPoolExecutor(options.peer_workers, thread_name_prefix="headwater-peer")
            peers = PeerServicer(self._peer, options, threads, self._metrics)
            peer_pb2_grpc.add_PeerServiceServicer_to_server(peers, server)
        # Watchers of health must not hold the threads that answer calls.
        self._health = health.HealthServicer(experimental_non_blocking=True)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if options.reflection:
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        try:
            self.port = server.add_insecure_port(self.target)
        except RuntimeError as error:
            # Taken by another process since the check.
            raise _in_use(self.host, self.port) from error
        server.start()
        self._grpc = server
        self.set_serving(serving=True)
        _log.info("server_started", target=self.target, workers=options.workers)
        return self.port

    def set_serving(self, *, serving: bool) -> None:
        """Say to health checks whether to send calls here, e.g. not while replaying."""
        if self._health is None:
            return
        kind = health_pb2.HealthCheckResponse
        status = kind.SERVING if serving else kind.NOT_SERVING
        for name in ("", SERVICE_NAME):
            self._health.set(name, status)

    def stop(self, grace_s: float = _DRAIN_S) -> None:
        """Turn health to NOT_SERVING, refuse new calls, and end when the running ones have.

        Calls that still run after `grace_s` seconds are cut off. Stopping twice does nothing.
        """
        if self._grpc is None or self._health is None:
            return
        self._health.enter_graceful_shutdown()
        self._grpc.stop(grace_s).wait()
        self._grpc = None
        _log.info("server_stopped", target=self.target)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the server has stopped, at most `timeout_s`; return whether it has."""
        if self._grpc is None:
            return True
        # gRPC returns whether the time ran out.
        return not self._grpc.wait_for_termination(timeout_s)

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


def _check_free(host: str, port: int) -> None:
    """Bind once ourselves: gRPC says that binding failed, but not why."""
    if not 0 <= port <= _PORT_MAX:
        raise ConfigError(f"port {port} is not between 0 and {_PORT_MAX}; choose another")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigError(f'host "{host}" can\'t be resolved; choose another with host=') from error
    with socket.socket(family, kind, protocol) as probe:
        # As gRPC binds: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _in_use(host, port) from error
            reason = os.strerror(error.errno or 0)
            raise ConfigError(
                f"port {port} on {host} can't be bound ({reason}); choose another host= or port="
            ) from error


def _in_use(host: str, port: int) -> ConfigError:
    return ConfigError(f"port {port} on {host} is in use; choose another with port= or --port")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
