from headwater_proto.v1 import column_pb2 as _column_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TimeSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIME_SOURCE_UNSPECIFIED: _ClassVar[TimeSource]
    TIME_SOURCE_REQUEST: _ClassVar[TimeSource]
    TIME_SOURCE_WORKER_CLOCK: _ClassVar[TimeSource]

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    STATUS_PRESENT: _ClassVar[Status]
    STATUS_NULL: _ClassVar[Status]
    STATUS_NOT_FOUND: _ClassVar[Status]
    STATUS_WARMING: _ClassVar[Status]
    STATUS_STALE: _ClassVar[Status]
    STATUS_OUT_OF_RANGE: _ClassVar[Status]
TIME_SOURCE_UNSPECIFIED: TimeSource
TIME_SOURCE_REQUEST: TimeSource
TIME_SOURCE_WORKER_CLOCK: TimeSource
STATUS_UNSPECIFIED: Status
STATUS_PRESENT: Status
STATUS_NULL: Status
STATUS_NOT_FOUND: Status
STATUS_WARMING: Status
STATUS_STALE: Status
STATUS_OUT_OF_RANGE: Status

class FeatureList(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class GetOnlineFeaturesRequest(_message.Message):
    __slots__ = ("service", "features", "revision", "inputs", "at_us")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    AT_US_FIELD_NUMBER: _ClassVar[int]
    service: str
    features: FeatureList
    revision: str
    inputs: _containers.RepeatedCompositeFieldContainer[_column_pb2.Column]
    at_us: int
    def __init__(self, service: _Optional[str] = ..., features: _Optional[_Union[FeatureList, _Mapping]] = ..., revision: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_column_pb2.Column, _Mapping]]] = ..., at_us: _Optional[int] = ...) -> None: ...

class ShardOffset(_message.Message):
    __slots__ = ("shard", "exchange_offset")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    shard: int
    exchange_offset: int
    def __init__(self, shard: _Optional[int] = ..., exchange_offset: _Optional[int] = ...) -> None: ...

class GetOnlineFeaturesResponse(_message.Message):
    __slots__ = ("values", "statuses", "t_us", "t_source", "shard_offsets", "revision")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    T_US_FIELD_NUMBER: _ClassVar[int]
    T_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SHARD_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[_column_pb2.Column]
    statuses: _containers.RepeatedScalarFieldContainer[bytes]
    t_us: int
    t_source: TimeSource
    shard_offsets: _containers.RepeatedCompositeFieldContainer[ShardOffset]
    revision: str
    def __init__(self, values: _Optional[_Iterable[_Union[_column_pb2.Column, _Mapping]]] = ..., statuses: _Optional[_Iterable[bytes]] = ..., t_us: _Optional[int] = ..., t_source: _Optional[_Union[TimeSource, str]] = ..., shard_offsets: _Optional[_Iterable[_Union[ShardOffset, _Mapping]]] = ..., revision: _Optional[str] = ...) -> None: ...

class DescribeServiceRequest(_message.Message):
    __slots__ = ("service", "features")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    service: str
    features: FeatureList
    def __init__(self, service: _Optional[str] = ..., features: _Optional[_Union[FeatureList, _Mapping]] = ...) -> None: ...

class Field(_message.Message):
    __slots__ = ("name", "dtype")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ...) -> None: ...

class EntityKeys(_message.Message):
    __slots__ = ("entity", "join_keys")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    JOIN_KEYS_FIELD_NUMBER: _ClassVar[int]
    entity: str
    join_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entity: _Optional[str] = ..., join_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class DescribeServiceResponse(_message.Message):
    __slots__ = ("service", "revision", "join_keys", "request_inputs", "entities", "features")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    JOIN_KEYS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_INPUTS_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    service: str
    revision: str
    join_keys: _containers.RepeatedCompositeFieldContainer[Field]
    request_inputs: _containers.RepeatedCompositeFieldContainer[Field]
    entities: _containers.RepeatedCompositeFieldContainer[EntityKeys]
    features: _containers.RepeatedCompositeFieldContainer[Field]
    def __init__(self, service: _Optional[str] = ..., revision: _Optional[str] = ..., join_keys: _Optional[_Iterable[_Union[Field, _Mapping]]] = ..., request_inputs: _Optional[_Iterable[_Union[Field, _Mapping]]] = ..., entities: _Optional[_Iterable[_Union[EntityKeys, _Mapping]]] = ..., features: _Optional[_Iterable[_Union[Field, _Mapping]]] = ...) -> None: ...

class ListServicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListServicesResponse(_message.Message):
    __slots__ = ("services",)
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    services: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, services: _Optional[_Iterable[str]] = ...) -> None: ...
