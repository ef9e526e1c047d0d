"""The peer client: one worker asks another for rows of its shards, or for its status."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc

from headwater_proto.v1 import peer_pb2, peer_pb2_grpc
from headwater_serving.codes import UnreachableError, error_from
from headwater_serving.options import ServerOptions
from headwater_serving.peer_wire import rows_answer, rows_request_message, status_from

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater.flow.peers import RowsAnswer, RowsRequest
    from headwater.flow.status import WorkerStatus

__all__ = ["PeerClient"]

_TIMEOUT_S = 5.0
_LIMITS = ServerOptions()
_CHANNEL_OPTIONS: Mapping[str, int] = {
    "grpc.max_receive_message_length": _LIMITS.response_bytes_max,
    "grpc.max_send_message_length": _LIMITS.request_bytes_max,
    # As often as a server allows: a connection to a machine that is gone shouldn't look alive.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 3_000,
    "grpc.keepalive_permit_without_calls": 1,
    # A worker that comes back is back at once, not in the two minutes that gRPC may wait.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 1_000,
    "grpc.max_reconnect_backoff_ms": 1_000,
    # Closing a client closes its connection, whoever else is connected there.
    "grpc.use_local_subchannel_pool": 1,
    # A proxy named in the environment is for the web, not for workers nearby.
    "grpc.enable_http_proxy": 0,
}


class PeerClient:
    """A connection to the worker at `host:port`, opened by the first call; shared by threads."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._channel = grpc.insecure_channel(target, options=list(_CHANNEL_OPTIONS.items()))
        self._stub = peer_pb2_grpc.PeerServiceStub(self._channel)
        self._lock = threading.Lock()
        self._closed = False

    def read(self, request: RowsRequest, timeout_s: float) -> RowsAnswer:
        """Return rows of the worker's own shards.

        Raises NotOwnerError, UnavailableError, UnreachableError, DeadlineError, OverloadError, or
        another HeadwaterError for an answer that can't be read.
        """
        response = self._call(self._stub.ReadRows, rows_request_message(request), timeout_s)
        assert isinstance(response, peer_pb2.ReadRowsResponse)
        return rows_answer(request, response)

    def status(self, timeout_s: float = _TIMEOUT_S) -> WorkerStatus:
        """Return what the worker says of itself; raises UnreachableError, DeadlineError."""
        response = self._call(self._stub.GetStatus, peer_pb2.GetStatusRequest(), timeout_s)
        assert isinstance(response, peer_pb2.GetStatusResponse)
        return status_from(response)

    def close(self) -> None:
        """Close the connection; calls that are under way fail."""
        with self._lock:
            self._closed = True
        self._channel.close()

    def __repr__(self) -> str:
        return f"PeerClient({self.target!r})"

    def _call(
        self, method: grpc.UnaryUnaryMultiCallable[Any, Any], request: object, timeout_s: float
    ) -> object:
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_from(error, self.target, timeout_s) from error
        except ValueError as error:
            # What gRPC raises on a channel that another thread has closed.
            with self._lock:
                if not self._closed:
                    raise
            raise UnreachableError(f"the connection to {self.target} was closed") from error
