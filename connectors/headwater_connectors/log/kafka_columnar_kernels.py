"""Kernels that walk librdkafka's messages: take events, read their fields, copy their bytes.

Everything goes by address, in int64. Functions of librdkafka are called through theirs, which are
arguments, so that the compiled kernels can be cached; which function is where in `functions` say
the constants below. No call here can lead back into Python: see ColumnarFetch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "FUNCTIONS",
    "HEADER_BYTES",
    "KEY",
    "KEY_LENGTH",
    "OFFSET",
    "PARTITION",
    "TIMESTAMP_MS",
    "TOPIC",
    "VALUE",
    "VALUE_LENGTH",
    "copy_payloads",
    "pack_headers",
    "read_fields",
    "receive",
    "release",
]

FUNCTIONS: Final = (
    "rd_kafka_queue_poll",
    "rd_kafka_event_type",
    "rd_kafka_event_message_next",
    "rd_kafka_event_destroy",
    "rd_kafka_message_timestamp",
    "rd_kafka_message_headers",
    "rd_kafka_header_get_all",
)
_POLL, _TYPE, _MESSAGE, _DESTROY, _TIMESTAMP, _HEADERS, _HEADER = range(len(FUNCTIONS))

_FETCH_EVENT = 2  # RD_KAFKA_EVENT_FETCH

# The rows that `read_fields` fills, a column per message.
TOPIC, PARTITION, OFFSET, TIMESTAMP_MS, VALUE_LENGTH, KEY_LENGTH, HEADER_BYTES = range(7)

# Where the fields of rd_kafka_message_t lie on a 64-bit machine: pointers, and lengths behind them.
_RKT, _PARTITION, VALUE, KEY, _OFFSET = 8, 16, 24, 40, 56
_LENGTH = 8

_ADDRESS = ir.IntType(8).as_pointer()
_INT, _LONG = ir.IntType(32), ir.IntType(64)


def _loading(width: ir.IntType) -> Any:  # noqa: ANN401 - Numba's intrinsics are untyped
    def typed(_typing: Any, address: Any) -> Any:  # noqa: ANN401
        def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
            word = builder.load(builder.inttoptr(arguments[0], width.as_pointer()))
            return word if width is _LONG else builder.sext(word, _LONG)

        return (types.int64(types.int64), emit) if isinstance(address, types.Integer) else None

    return intrinsic(typed)


def _calling(result: ir.Type, *parameters: ir.Type) -> Any:  # noqa: ANN401
    """Return an intrinsic that calls the C function at an address with a tuple of int64."""

    def typed(_typing: Any, _function: Any, _arguments: Any) -> Any:  # noqa: ANN401
        def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
            address, packed = arguments
            passed = []
            for at, parameter in enumerate(parameters):
                word = builder.extract_value(packed, at)
                if parameter is _ADDRESS:
                    word = builder.inttoptr(word, _ADDRESS)
                passed.append(builder.trunc(word, _INT) if parameter is _INT else word)
            kind = ir.FunctionType(result, parameters)
            answer = builder.call(builder.inttoptr(address, kind.as_pointer()), passed)
            if result is _ADDRESS:
                return builder.ptrtoint(answer, _LONG)
            if result is _INT:
                return builder.sext(answer, _LONG)
            return answer if result is _LONG else ir.Constant(_LONG, 0)

        pack = cast("Any", types.UniTuple)(types.int64, len(parameters))
        return types.int64(types.int64, pack), emit

    return intrinsic(typed)


def _typed_copy(_typing: Any, _target: Any, _source: Any, _count: Any) -> Any:  # noqa: ANN401
    def emit(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        target, source = (builder.inttoptr(each, _ADDRESS) for each in arguments[:2])
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


_long_at: Callable[[np.int64], np.int64] = _loading(_LONG)
_int_at: Callable[[np.int64], np.int64] = _loading(_INT)
_byte_at: Callable[[np.int64], np.int64] = _loading(ir.IntType(8))
_copy: Callable[[np.int64, np.int64, np.int64], None] = cast("Any", intrinsic(_typed_copy))

_poll = _calling(_ADDRESS, _ADDRESS, _INT)
_type_of = _calling(_INT, _ADDRESS)
_message_of = _calling(_ADDRESS, _ADDRESS)
_destroy = _calling(ir.VoidType(), _ADDRESS)
_timestamp_of = _calling(_LONG, _ADDRESS, _ADDRESS)
_headers_of = _calling(_INT, _ADDRESS, _ADDRESS)
_header_of = _calling(_INT, _ADDRESS, _LONG, _ADDRESS, _ADDRESS, _ADDRESS)


def _kernel(function: Any) -> Any:  # noqa: ANN401
    return njit(cache=True, nogil=True, error_model="numpy")(function)


@_kernel
def receive(
    functions: NDArray[np.int64],
    queue: int,
    timeout_ms: int,
    events: NDArray[np.int64],
    messages: NDArray[np.int64],
    count: NDArray[np.int64],
) -> None:
    """Take the events that wait in a queue; wait for the first one only.

    `count[0]` tells how many, at every moment: an exception in Python can't lose one. A message
    is 0 where the event is none.
    """
    wait = np.int64(timeout_ms)
    while count[0] < events.size:
        at = count[0]
        event = _poll(functions[_POLL], (np.int64(queue), np.int64(0) if at else wait))
        if event == 0:
            break
        events[at] = event
        messages[at] = 0
        count[0] = at + 1
        if _type_of(functions[_TYPE], (event,)) == _FETCH_EVENT:
            messages[at] = _message_of(functions[_MESSAGE], (event,))


@_kernel
def release(
    functions: NDArray[np.int64], events: NDArray[np.int64], count: NDArray[np.int64]
) -> None:
    """Give the events, and the messages in them, back to librdkafka."""
    while count[0] > 0:
        count[0] -= 1
        _destroy(functions[_DESTROY], (events[count[0]],))


@_kernel
def _text_length(address: np.int64) -> np.int64:
    length = np.int64(0)
    while _byte_at(address + length) != 0:
        length += 1
    return length


@_kernel
def read_fields(
    functions: NDArray[np.int64],
    messages: NDArray[np.int64],
    fields: NDArray[np.int64],
    scratch: NDArray[np.int64],
) -> None:
    """Read what has a fixed width into `fields`, shape (7, messages); lengths of null are -1.

    `scratch` is four words for what librdkafka returns through pointers.
    """
    out = np.int64(scratch.ctypes.data)
    for i in range(messages.size):
        message = messages[i]
        fields[TOPIC, i] = _long_at(message + _RKT)
        fields[PARTITION, i] = _int_at(message + _PARTITION)
        fields[OFFSET, i] = _long_at(message + _OFFSET)
        fields[TIMESTAMP_MS, i] = _timestamp_of(functions[_TIMESTAMP], (message, out))
        for row, field in ((VALUE_LENGTH, VALUE), (KEY_LENGTH, KEY)):
            there = _long_at(message + field) != 0
            fields[row, i] = _long_at(message + field + _LENGTH) if there else -1
        size = np.int64(-1)
        if _headers_of(functions[_HEADERS], (message, out)) == 0:
            headers, size, at = scratch[0], np.int64(0), np.int64(0)
            while _header_of(functions[_HEADER], (headers, at, out + 8, out + 16, out + 24)) == 0:
                value_length = scratch[3] if scratch[2] != 0 else np.int64(0)
                size += 8 + _text_length(scratch[1]) + value_length
                at += 1
        fields[HEADER_BYTES, i] = size


@_kernel
def copy_payloads(
    messages: NDArray[np.int64],
    field: int,
    bounds: NDArray[np.int64],
    buffer: NDArray[np.uint8],
) -> None:
    """Copy the values or the keys to their bounds in the buffer, a newline before each."""
    base = np.int64(buffer.ctypes.data)
    for i in range(messages.size):
        buffer[bounds[i]] = 10
        source = _long_at(messages[i] + field)
        if source != 0:
            _copy(base + bounds[i] + 1, source, bounds[i + 1] - bounds[i] - 1)


@_kernel
def pack_headers(
    functions: NDArray[np.int64],
    messages: NDArray[np.int64],
    bounds: NDArray[np.int64],
    buffer: NDArray[np.uint8],
    scratch: NDArray[np.int64],
) -> None:
    """Copy the headers to their bounds: the lengths of name and value, int32 each, and both."""
    base, out = np.int64(buffer.ctypes.data), np.int64(scratch.ctypes.data)
    lengths = np.empty(2, np.int32)
    for i in range(messages.size):
        buffer[bounds[i]] = 10
        to = base + bounds[i] + 1
        if bounds[i + 1] - bounds[i] == 1:
            continue
        _headers_of(functions[_HEADERS], (messages[i], out))
        headers, at = scratch[0], np.int64(0)
        while _header_of(functions[_HEADER], (headers, at, out + 8, out + 16, out + 24)) == 0:
            lengths[0] = _text_length(scratch[1])
            lengths[1] = scratch[3] if scratch[2] != 0 else 0
            _copy(to, np.int64(lengths.ctypes.data), np.int64(8))
            _copy(to + 8, scratch[1], np.int64(lengths[0]))
            if lengths[1] > 0:
                _copy(to + 8 + lengths[0], scratch[2], np.int64(lengths[1]))
            to += 8 + np.int64(lengths[0]) + np.int64(lengths[1])
            at += 1
