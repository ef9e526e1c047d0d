"""The two calls of the peer service: rows of this worker's own shards, and its status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater_proto.v1 import peer_pb2, peer_pb2_grpc
from headwater_serving.answering import answering
from headwater_serving.codes import OverloadError
from headwater_serving.peer_wire import rows_request, rows_response, status_message

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    from headwater.flow.peers import RowsAnswer, RowsRequest
    from headwater.flow.status import WorkerStatus
    from headwater_serving.call_metrics import CallMetrics
    from headwater_serving.options import ServerOptions

__all__ = ["Peer", "PeerServicer"]


@dataclass(frozen=True, slots=True)
class Peer:
    """What a worker answers others: `read_rows` of its reader, and its status."""

    read_rows: Callable[[RowsRequest], RowsAnswer]
    status: Callable[[], WorkerStatus]


class PeerServicer(peer_pb2_grpc.PeerServiceServicer):
    """Answers other workers, on threads that no other call may hold.

    Two workers whose threads all wait for one another would else wait for ever. What is read is
    this worker's own: a request is never passed on.
    """

    def __init__(
        self, peer: Peer, options: ServerOptions, threads: ThreadPoolExecutor, metrics: CallMetrics
    ) -> None:
        self._peer = peer
        self._options = options

        # Functions, because gRPC looks for the threads on what it calls, and a method takes no
        # attributes.
        def read_rows(
            request: peer_pb2.ReadRowsRequest, context: grpc.ServicerContext
        ) -> peer_pb2.ReadRowsResponse:
            with answering(context, "ReadRows", metrics):
                return self._read_rows(request)

        def get_status(
            request: peer_pb2.GetStatusRequest,  # noqa: ARG001 - the shape of every call
            context: grpc.ServicerContext,
        ) -> peer_pb2.GetStatusResponse:
            with answering(context, "GetStatus", metrics):
                return status_message(self._peer.status())

        for name, call in {"ReadRows": read_rows, "GetStatus": get_status}.items():
            call.experimental_thread_pool = threads  # type: ignore[attr-defined]
            setattr(self, name, call)

    def _read_rows(self, message: peer_pb2.ReadRowsRequest) -> peer_pb2.ReadRowsResponse:
        request = rows_request(message, self._options.rows_max)
        response = rows_response(request, self._peer.read_rows(request))
        size, limit = response.ByteSize(), self._options.response_bytes_max
        if size > limit:
            raise OverloadError(
                f"the rows come to {size} bytes; the limit is {limit}, so ask for fewer at once"
            )
        return response
