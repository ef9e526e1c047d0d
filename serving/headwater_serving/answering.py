"""Answering a call: every failure leaves as a code, one line of text and the name of its class."""

from __future__ import annotations

import time
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from headwater.errors import HeadwaterError
from headwater.logs import get_logger
from headwater_serving.codes import ERROR_METADATA_KEY, class_name_of, code_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwater_serving.call_metrics import CallMetrics

__all__ = ["answering"]

_log = get_logger(__name__)
_REASON_CHARS_MAX = 500


@contextmanager
def answering(context: grpc.ServicerContext, call: str, metrics: CallMetrics) -> Iterator[None]:
    """Turn an error into the end of the call: a code, one line, and the name of its class."""
    code, began = grpc.StatusCode.OK, time.perf_counter()
    if not context.is_active():
        metrics.requests.labels(call, grpc.StatusCode.CANCELLED.name).inc()
        # Its deadline passed while it waited for a thread: nobody would read the answer.
        context.abort(grpc.StatusCode.CANCELLED, "the caller has gone")
    try:
        yield
    except HeadwaterError as error:
        code = code_of(error)
        context.set_trailing_metadata(((ERROR_METADATA_KEY, class_name_of(error)),))
        context.abort(code, " ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 - the edge of the process: logged here, told no one
        code = grpc.StatusCode.INTERNAL
        # The stack without local variables: those hold what callers sent.
        stack = "".join(traceback.format_tb(error.__traceback__))
        reason = f"{type(error).__name__}: {error}"[:_REASON_CHARS_MAX]
        _log.error("call_failed", call=call, reason=reason, stack=stack)
        context.abort(code, "the server failed on this call; its log says where")
    finally:
        metrics.seconds.labels(call).observe(time.perf_counter() - began)
        metrics.requests.labels(call, code.name).inc()
