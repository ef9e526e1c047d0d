from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReadRowsRequest(_message.Message):
    __slots__ = ("entities", "t_us", "stamp", "shard_count", "with_provenance")
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    T_US_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    WITH_PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    entities: _containers.RepeatedCompositeFieldContainer[EntityRows]
    t_us: int
    stamp: str
    shard_count: int
    with_provenance: bool
    def __init__(self, entities: _Optional[_Iterable[_Union[EntityRows, _Mapping]]] = ..., t_us: _Optional[int] = ..., stamp: _Optional[str] = ..., shard_count: _Optional[int] = ..., with_provenance: bool = ...) -> None: ...

class EntityRows(_message.Message):
    __slots__ = ("keys", "lengths", "views")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    keys: bytes
    lengths: bytes
    views: _containers.RepeatedCompositeFieldContainer[ViewRef]
    def __init__(self, keys: _Optional[bytes] = ..., lengths: _Optional[bytes] = ..., views: _Optional[_Iterable[_Union[ViewRef, _Mapping]]] = ...) -> None: ...

class ViewRef(_message.Message):
    __slots__ = ("id", "fingerprint")
    ID_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    id: str
    fingerprint: str
    def __init__(self, id: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class ReadRowsResponse(_message.Message):
    __slots__ = ("views", "shards", "exchange_offsets", "provenance")
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    views: _containers.RepeatedCompositeFieldContainer[ViewRows]
    shards: _containers.RepeatedScalarFieldContainer[int]
    exchange_offsets: _containers.RepeatedScalarFieldContainer[int]
    provenance: _containers.RepeatedCompositeFieldContainer[ShardProvenance]
    def __init__(self, views: _Optional[_Iterable[_Union[ViewRows, _Mapping]]] = ..., shards: _Optional[_Iterable[int]] = ..., exchange_offsets: _Optional[_Iterable[int]] = ..., provenance: _Optional[_Iterable[_Union[ShardProvenance, _Mapping]]] = ...) -> None: ...

class ShardProvenance(_message.Message):
    __slots__ = ("shard", "applied", "loading")
    class AppliedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SHARD_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    LOADING_FIELD_NUMBER: _ClassVar[int]
    shard: int
    applied: _containers.ScalarMap[str, int]
    loading: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, shard: _Optional[int] = ..., applied: _Optional[_Mapping[str, int]] = ..., loading: _Optional[_Iterable[str]] = ...) -> None: ...

class ViewRows(_message.Message):
    __slots__ = ("rows", "features", "bits", "valid", "found", "flags")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    VALID_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    features: int
    bits: bytes
    valid: bytes
    found: bytes
    flags: bytes
    def __init__(self, rows: _Optional[int] = ..., features: _Optional[int] = ..., bits: _Optional[bytes] = ..., valid: _Optional[bytes] = ..., found: _Optional[bytes] = ..., flags: _Optional[bytes] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("worker", "target", "namespace", "started_us", "tasks", "state_bytes", "backlog_rows", "dead_letters", "history_left", "plan", "plan_refused")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_ROWS_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_LEFT_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PLAN_REFUSED_FIELD_NUMBER: _ClassVar[int]
    worker: str
    target: str
    namespace: str
    started_us: int
    tasks: _containers.RepeatedCompositeFieldContainer[TaskStatus]
    state_bytes: int
    backlog_rows: int
    dead_letters: int
    history_left: int
    plan: int
    plan_refused: str
    def __init__(self, worker: _Optional[str] = ..., target: _Optional[str] = ..., namespace: _Optional[str] = ..., started_us: _Optional[int] = ..., tasks: _Optional[_Iterable[_Union[TaskStatus, _Mapping]]] = ..., state_bytes: _Optional[int] = ..., backlog_rows: _Optional[int] = ..., dead_letters: _Optional[int] = ..., history_left: _Optional[int] = ..., plan: _Optional[int] = ..., plan_refused: _Optional[str] = ...) -> None: ...

class TaskStatus(_message.Message):
    __slots__ = ("kind", "topic", "partition", "state", "next_offset", "end_offset", "freshness_ms")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    END_OFFSET_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_MS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    topic: str
    partition: int
    state: str
    next_offset: int
    end_offset: int
    freshness_ms: int
    def __init__(self, kind: _Optional[str] = ..., topic: _Optional[str] = ..., partition: _Optional[int] = ..., state: _Optional[str] = ..., next_offset: _Optional[int] = ..., end_offset: _Optional[int] = ..., freshness_ms: _Optional[int] = ...) -> None: ...
