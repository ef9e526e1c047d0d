"""Errors across the wire: the gRPC code of each, and the way back to the same class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from headwater.errors import ConfigError, DefinitionError, HeadwaterError, NotFoundError, StateError
from headwater.flow.answer import RequestError, UnavailableError
from headwater.flow.shard_reads import NotOwnerError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ERROR_METADATA_KEY",
    "DeadlineError",
    "OverloadError",
    "RevisionError",
    "UnreachableError",
    "class_name_of",
    "code_of",
    "error_from",
]

ERROR_METADATA_KEY = "headwater-error"
"""Trailing metadata that names the class, where one code stands for several."""


class RevisionError(HeadwaterError):
    """The service has another revision than the one asked for."""


class UnreachableError(HeadwaterError, ConnectionError):
    """No server answers at the target."""


class DeadlineError(HeadwaterError, TimeoutError):
    """No answer came in the time allowed."""


class OverloadError(HeadwaterError):
    """The server refuses work: too many calls at once, or a message above its limit."""


_CODES: Mapping[type[HeadwaterError], grpc.StatusCode] = {
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    RequestError: grpc.StatusCode.INVALID_ARGUMENT,
    DefinitionError: grpc.StatusCode.INVALID_ARGUMENT,
    RevisionError: grpc.StatusCode.FAILED_PRECONDITION,
    StateError: grpc.StatusCode.FAILED_PRECONDITION,
    OverloadError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    # Client libraries that try again do so on this code.
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    NotOwnerError: grpc.StatusCode.FAILED_PRECONDITION,
}
_BY_NAME = {one.__name__: one for one in (*_CODES, ConfigError, HeadwaterError, UnreachableError)}
_BY_CODE: Mapping[grpc.StatusCode, type[HeadwaterError]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.INVALID_ARGUMENT: RequestError,
    grpc.StatusCode.FAILED_PRECONDITION: RevisionError,
}


# Failures that the transport reports, in its words; these are ours.
_OWN_WORDS: Mapping[grpc.StatusCode, tuple[type[HeadwaterError], str]] = {
    grpc.StatusCode.UNAVAILABLE: (
        UnreachableError,
        (
            'no Headwater server answers at {target} ({reason}); start one with "headwater run"'
            " or store.serve(port), or connect to another target"
        ),
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        DeadlineError,
        "{target} did not answer within {timeout_s} s; raise timeout_s= or ask for fewer rows",
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        OverloadError,
        "{target} refused the call ({reason}); send fewer or smaller requests at once",
    ),
    grpc.StatusCode.UNIMPLEMENTED: (
        HeadwaterError,
        "the server at {target} does not speak headwater.v1; connect to a Headwater worker",
    ),
}


def code_of(error: HeadwaterError) -> grpc.StatusCode:
    """Return the gRPC code of an error; FAILED_PRECONDITION where there is no closer one."""
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.FAILED_PRECONDITION


def class_name_of(error: HeadwaterError) -> str:
    """Return the name of the closest class that a client knows."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _BY_NAME)


def error_from(error: grpc.RpcError, target: str, timeout_s: float | None) -> HeadwaterError:
    """Return the error a failed call stands for, in one line with the target and the cure."""
    assert isinstance(error, grpc.Call)
    code, details = error.code(), " ".join((error.details() or "no details").split())
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA_KEY and value in _BY_NAME:
            return _BY_NAME[str(value)](details)
    if code in _BY_CODE:
        return _BY_CODE[code](details)
    if code not in _OWN_WORDS:
        return HeadwaterError(f"the call to {target} failed with {code.name}: {details}")
    kind, text = _OWN_WORDS[code]
    reason = _reason(details)
    return kind(text.format(target=target, timeout_s=timeout_s, reason=reason))


def _reason(details: str) -> str:
    for known in ("Connection refused", "DNS resolution failed", "Socket closed", "GOAWAY"):
        if known.lower() in details.lower():
            return known.lower() if known != "GOAWAY" else "it is shutting down"
    return details[:200]
