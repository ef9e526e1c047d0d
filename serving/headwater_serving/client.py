"""The client: online values over gRPC, as frames, dictionaries or matrices."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

import grpc

from headwater.errors import ConfigError, HeadwaterError
from headwater.flow.answer import RequestError
from headwater_proto.v1 import serving_pb2, serving_pb2_grpc
from headwater_serving.codes import RevisionError, error_from
from headwater_serving.feed import Feed
from headwater_serving.request import (
    Request,
    at_us_of,
    columns_of,
    named_columns,
    rows_of,
    source_named,
)
from headwater_serving.vectors import Decoded, Vectors
from headwater_serving.wire import describe_request, info_from, online_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    import polars as pl

    from headwater.flow.answer import ServiceInfo
    from headwater_serving.wire import Source

__all__ = ["Client", "Request", "connect"]

_INFOS_MAX = 1024
_CHANNEL_OPTIONS: Mapping[str, int] = {
    "grpc.max_receive_message_length": 64 << 20,
    "grpc.max_send_message_length": 16 << 20,
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    # A proxy named in the environment is for the web, not for workers nearby.
    "grpc.enable_http_proxy": 0,
}


def connect(
    target: str = "127.0.0.1:6566",
    *,
    timeout_s: float = 5.0,
    channel_options: Mapping[str, int | str] | None = None,
) -> Client:
    """Return a client of the server at `host:port`; the first call opens the connection.

    `timeout_s` bounds every single call; `channel_options` are gRPC channel arguments.
    """
    if not target or "://" in target:
        raise ConfigError(f'target "{target}" can\'t be used; write host:port')
    if timeout_s <= 0:
        raise ConfigError(f"timeout_s is {timeout_s}; it must be more than 0")
    options = {**_CHANNEL_OPTIONS, **(channel_options or {})}
    channel = grpc.insecure_channel(target, options=list(options.items()))
    return Client(channel, target, timeout_s)


class Client:
    """A connection to a server; may be shared by threads.

    What a service takes and gives is asked once and kept until the server refuses its revision.
    """

    def __init__(self, channel: grpc.Channel, target: str, timeout_s: float) -> None:
        self.target = target
        self.timeout_s = timeout_s
        self._channel = channel
        self._stub = serving_pb2_grpc.FeatureServiceStub(channel)
        self._infos: dict[Source, ServiceInfo] = {}
        self._lock = threading.Lock()
        self._closed = False

    def services(self) -> list[str]:
        """Return the names of the services that can be read."""
        request = serving_pb2.ListServicesRequest()
        response = self._call(self._stub.ListServices, request)
        assert isinstance(response, serving_pb2.ListServicesResponse)
        return list(response.services)

    def describe(self, service: str | Sequence[str]) -> ServiceInfo:
        """Return what a service, or a list of features, takes and gives, as of now."""
        source = source_named(service)
        response = self._call(self._stub.DescribeService, describe_request(source))
        assert isinstance(response, serving_pb2.DescribeServiceResponse)
        info = info_from(response)
        with self._lock:
            if len(self._infos) >= _INFOS_MAX and source not in self._infos:
                self._infos.clear()
            self._infos[source] = info
        return info

    def online(
        self,
        service: str | Sequence[str],
        inputs: Mapping[str, object] | pl.DataFrame | None = None,
        /,
        *,
        at: datetime | None = None,
        **columns: object,
    ) -> Vectors:
        """Return the values of a service, or of listed features, for every row of the inputs.

        Inputs are join keys (or the names of their entities) and request inputs, each a list, an
        array, a series or one value: `online("delay_model", plane=["N14228"], dep_delay=[42.0])`.
        `at` is the read time; without it the worker's clock decides.
        Raises NotFoundError, RequestError, UnreachableError, DeadlineError, OverloadError.
        """
        source = source_named(service)
        request = Request(named_columns(inputs, columns), at)
        try:
            return self._online(source, self._info(source), request)
        except RevisionError:
            # Applied anew since it was resolved: once more, with what it takes and gives now.
            return self._online(source, self.describe(service), request)

    def online_many(
        self,
        service: str | Sequence[str],
        requests: Iterable[Request | Mapping[str, object] | pl.DataFrame],
        *,
        batch_rows: int = 1,
        timeout_s: float | None = None,
    ) -> Iterator[Vectors]:
        """Yield the answers to many requests over one call, in their order, as they come.

        Requests are read ahead of the answers, so latency overlaps. With `batch_rows`, up to so
        many rows of consecutive requests with the same `at` travel, and are read, together: many
        times the requests per second, but a request waits until its batch is full, and a batch
        without `at` has one read time. `timeout_s` bounds the whole stream (default: no bound).
        The first failure ends it; what came before stands.
        """
        if batch_rows < 1:
            raise RequestError(f"batch_rows is {batch_rows}; it must be 1 or more")
        self._check_open()
        source = source_named(service)
        feed = Feed(source, self._info(source), requests, batch_rows)
        call = self._stub.StreamOnlineFeatures(iter(feed), timeout=timeout_s)
        try:
            for response in call:
                yield from feed.answered(response)
        except grpc.RpcError as error:
            failure = error_from(error, self.target, timeout_s)
            if isinstance(failure, RevisionError):
                # What was answered can't be taken back, so the caller decides; the next call
                # resolves the service anew.
                self._forget(source)
            raise failure from error
        finally:
            feed.close()
            call.cancel()
        if feed.failure is not None:
            raise feed.failure

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.target!r})"

    def _info(self, source: Source) -> ServiceInfo:
        with self._lock:
            known = self._infos.get(source)
        return known or self.describe(source)

    def _forget(self, source: Source) -> None:
        with self._lock:
            self._infos.pop(source, None)

    def _online(self, source: Source, info: ServiceInfo, request: Request) -> Vectors:
        columns, at_us = columns_of(info, request), at_us_of(request.at)
        message = online_request(source, info.revision, columns, at_us)
        response = self._call(self._stub.GetOnlineFeatures, message)
        assert isinstance(response, serving_pb2.GetOnlineFeaturesResponse)
        rows = rows_of(columns)
        return Vectors(Decoded(info, response, rows), 0, rows)

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Any, Any], request: object) -> object:
        self._check_open()
        try:
            return method(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            raise error_from(error, self.target, self.timeout_s) from error

    def _check_open(self) -> None:
        if self._closed:
            raise HeadwaterError(f"this client of {self.target} is closed; connect again")
