"""The four calls of the feature service, over a reader."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import polars as pl

from headwater.flow.answer import PlanChangedError, RequestError
from headwater.flow.inputs import input_columns
from headwater_proto.v1 import serving_pb2, serving_pb2_grpc
from headwater_serving.answering import answering
from headwater_serving.codes import OverloadError, RevisionError
from headwater_serving.columns import decode_column
from headwater_serving.wire import description, online_response, source_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from headwater.flow.answer import Answer, ServiceInfo
    from headwater_serving.call_metrics import CallMetrics
    from headwater_serving.options import ServerOptions
    from headwater_serving.reader import Reader
    from headwater_serving.wire import Source

__all__ = ["FeatureServicer"]


class FeatureServicer(serving_pb2_grpc.FeatureServiceServicer):
    """Answers calls from a reader; every failure leaves as a code and one line of text."""

    def __init__(self, reader: Reader, options: ServerOptions, metrics: CallMetrics) -> None:
        self._reader = reader
        self._options = options
        self._metrics = metrics
        self._streams = threading.BoundedSemaphore(options.streams_max)

    def GetOnlineFeatures(  # noqa: N802 - the name in the contract
        self, request: serving_pb2.GetOnlineFeaturesRequest, context: grpc.ServicerContext
    ) -> serving_pb2.GetOnlineFeaturesResponse:
        """Answer one request."""
        with answering(context, "GetOnlineFeatures", self._metrics):
            return self._online(request)

    def StreamOnlineFeatures(  # noqa: N802 - the name in the contract
        self,
        request_iterator: Iterator[serving_pb2.GetOnlineFeaturesRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[serving_pb2.GetOnlineFeaturesResponse]:
        """Answer requests in their order, one at a time; the first failure ends the stream."""
        if not self._streams.acquire(blocking=False):
            with answering(context, "StreamOnlineFeatures", self._metrics):
                raise OverloadError(
                    f"{self._options.streams_max} streams are open, which is the limit;"
                    " close one, or raise the server option streams_max"
                )
        try:
            for request in request_iterator:
                with answering(context, "StreamOnlineFeatures", self._metrics):
                    response = self._online(request)
                yield response
        finally:
            self._streams.release()

    def DescribeService(  # noqa: N802 - the name in the contract
        self, request: serving_pb2.DescribeServiceRequest, context: grpc.ServicerContext
    ) -> serving_pb2.DescribeServiceResponse:
        """Describe a service or a list of features."""
        with answering(context, "DescribeService", self._metrics):
            return description(self._info(source_of(request)))

    def ListServices(  # noqa: N802 - the name in the contract
        self,
        request: serving_pb2.ListServicesRequest,  # noqa: ARG002 - the shape of every call
        context: grpc.ServicerContext,
    ) -> serving_pb2.ListServicesResponse:
        """List the services that can be read."""
        with answering(context, "ListServices", self._metrics):
            return serving_pb2.ListServicesResponse(services=self._reader.services())

    def _online(
        self, request: serving_pb2.GetOnlineFeaturesRequest
    ) -> serving_pb2.GetOnlineFeaturesResponse:
        try:
            return self._answered(request)
        except PlanChangedError:
            # Another plan came in the middle: once more, all of it by that one.
            return self._answered(request)

    def _answered(
        self, request: serving_pb2.GetOnlineFeaturesRequest
    ) -> serving_pb2.GetOnlineFeaturesResponse:
        info = self._info(source_of(request))
        _check_revision(request.revision, info.revision)
        inputs = self._inputs(info, request)
        at_us = request.at_us if request.HasField("at_us") else None
        answer = self._reader.read(info, inputs, at_us)
        _check_answer(answer, info, inputs)
        self._metrics.answered(answer)
        return online_response(answer, named=not request.revision)

    def _info(self, source: Source) -> ServiceInfo:
        if isinstance(source, str):
            return self._reader.describe(source)
        if len(source) > self._options.features_max:
            raise RequestError(
                f"{len(source)} features were asked for; the limit is {self._options.features_max}"
            )
        return self._reader.describe_features(source)

    def _inputs(
        self, info: ServiceInfo, request: serving_pb2.GetOnlineFeaturesRequest
    ) -> pl.DataFrame:
        columns: dict[str, pl.Series] = {}
        for column in request.inputs:
            # First of all: a column of nulls has a length and no bytes behind it.
            if column.rows > self._options.rows_max:
                raise RequestError(
                    f"the request has {column.rows} rows; the limit is {self._options.rows_max},"
                    " so split it"
                )
            if column.name in columns:
                raise RequestError(f'input "{column.name}" was sent twice; leave one out')
            columns[column.name] = decode_column(column)
        return pl.DataFrame(input_columns(info, columns))


def _check_revision(asked: str, served: str) -> None:
    if asked and asked != served:
        raise RevisionError(
            f"the service is at revision {served}, the request was made for {asked};"
            " re-resolve it with DescribeService"
        )


def _check_answer(answer: Answer, info: ServiceInfo, inputs: pl.DataFrame) -> None:
    """Assert the reader's side of the contract; a client decodes by the description alone."""
    assert answer.revision == info.revision, "what was described was read"
    assert answer.values.columns == list(info.features), "columns as described"
    assert answer.values.dtypes == list(info.features.values()), "types as described"
    assert answer.values.height == inputs.height, "one row for each of the request"
    assert answer.statuses.shape == (answer.values.width, inputs.height), "one status for each"
    assert answer.statuses.dtype.itemsize == 1, "statuses are bytes"
