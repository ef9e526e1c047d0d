"""Messages of the service: descriptions and requests to and from their plain form."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from headwater.flow.answer import RequestError, ServiceInfo
from headwater_proto.v1 import serving_pb2
from headwater_serving.columns import encode_column, encode_frame
from headwater_serving.dtypes import dtype_from_name, dtype_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import polars as pl

    from headwater.flow.answer import Answer

__all__ = [
    "Source",
    "describe_request",
    "description",
    "info_from",
    "online_request",
    "online_response",
    "source_of",
]

Source = str | tuple[str, ...]
"""What to read: the name of a service, or the names of features."""


def source_of(
    request: serving_pb2.GetOnlineFeaturesRequest | serving_pb2.DescribeServiceRequest,
) -> Source:
    """Return what a request asks for; raises RequestError when it names nothing."""
    if request.WhichOneof("source") == "features" and request.features.names:
        return tuple(request.features.names)
    if request.WhichOneof("source") == "service" and request.service:
        return request.service
    raise RequestError("the request names neither a service nor features; set one of them")


def describe_request(source: Source) -> serving_pb2.DescribeServiceRequest:
    """Return the message that asks for a description."""
    if isinstance(source, str):
        return serving_pb2.DescribeServiceRequest(service=source)
    return serving_pb2.DescribeServiceRequest(features=serving_pb2.FeatureList(names=source))


def online_request(
    source: Source, revision: str, inputs: Sequence[pl.Series], at_us: int | None
) -> serving_pb2.GetOnlineFeaturesRequest:
    """Return the message that asks for values; `at_us` is µs since 1970-01-01 UTC."""
    message = serving_pb2.GetOnlineFeaturesRequest(
        revision=revision, inputs=[encode_column(one) for one in inputs], at_us=at_us
    )
    if isinstance(source, str):
        message.service = source
    else:
        message.features.names.extend(source)
    return message


def online_response(answer: Answer, *, named: bool) -> serving_pb2.GetOnlineFeaturesResponse:
    """Return the message of an answer; without `named`, columns go without names and types."""
    return serving_pb2.GetOnlineFeaturesResponse(
        values=encode_frame(answer.values, named=named),
        statuses=[row.tobytes() for row in answer.statuses],
        t_us=answer.t_us,
        t_source=(
            serving_pb2.TIME_SOURCE_REQUEST
            if answer.t_from_request
            else serving_pb2.TIME_SOURCE_WORKER_CLOCK
        ),
        shard_offsets=[
            serving_pb2.ShardOffset(shard=shard, exchange_offset=offset)
            for shard, offset in sorted(answer.exchange_offsets.items())
        ],
        revision=answer.revision,
    )


def description(info: ServiceInfo) -> serving_pb2.DescribeServiceResponse:
    """Return the message that describes a service."""
    return serving_pb2.DescribeServiceResponse(
        service=info.name,
        revision=info.revision,
        join_keys=_fields(info.join_keys),
        request_inputs=_fields(info.request_inputs),
        entities=[
            serving_pb2.EntityKeys(entity=name, join_keys=keys)
            for name, keys in info.entities.items()
        ],
        features=_fields(info.features),
    )


def info_from(message: serving_pb2.DescribeServiceResponse) -> ServiceInfo:
    """Return the plain form of a description."""
    return ServiceInfo(
        name=message.service,
        revision=message.revision,
        join_keys=_schema(message.join_keys),
        request_inputs=_schema(message.request_inputs),
        entities=MappingProxyType({one.entity: tuple(one.join_keys) for one in message.entities}),
        features=_schema(message.features),
    )


def _fields(schema: Mapping[str, pl.DataType]) -> Sequence[serving_pb2.Field]:
    return [serving_pb2.Field(name=name, dtype=dtype_name(dtype)) for name, dtype in schema.items()]


def _schema(fields: Iterable[serving_pb2.Field]) -> Mapping[str, pl.DataType]:
    return MappingProxyType({field.name: dtype_from_name(field.dtype) for field in fields})
