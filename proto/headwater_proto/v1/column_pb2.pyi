from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Column(_message.Message):
    __slots__ = ("name", "dtype", "rows", "validity", "float64", "int64", "uint64", "boolean", "string", "binary", "datetime_us")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    VALIDITY_FIELD_NUMBER: _ClassVar[int]
    FLOAT64_FIELD_NUMBER: _ClassVar[int]
    INT64_FIELD_NUMBER: _ClassVar[int]
    UINT64_FIELD_NUMBER: _ClassVar[int]
    BOOLEAN_FIELD_NUMBER: _ClassVar[int]
    STRING_FIELD_NUMBER: _ClassVar[int]
    BINARY_FIELD_NUMBER: _ClassVar[int]
    DATETIME_US_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    rows: int
    validity: bytes
    float64: bytes
    int64: bytes
    uint64: bytes
    boolean: bytes
    string: VarBytes
    binary: VarBytes
    datetime_us: bytes
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., rows: _Optional[int] = ..., validity: _Optional[bytes] = ..., float64: _Optional[bytes] = ..., int64: _Optional[bytes] = ..., uint64: _Optional[bytes] = ..., boolean: _Optional[bytes] = ..., string: _Optional[_Union[VarBytes, _Mapping]] = ..., binary: _Optional[_Union[VarBytes, _Mapping]] = ..., datetime_us: _Optional[bytes] = ...) -> None: ...

class VarBytes(_message.Message):
    __slots__ = ("offsets", "data")
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offsets: bytes
    data: bytes
    def __init__(self, offsets: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...
