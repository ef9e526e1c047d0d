"""Patience: calls that wait for a log that can't be reached, because nothing else can be done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from headwater.logs import get_logger
from headwater_connectors.log.log import LogUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["patiently"]

_log = get_logger(__name__)
_AGAIN_S = 0.5

_T = TypeVar("_T")


def patiently(call: Callable[[], _T], *, sleep: Callable[[float], None] = time.sleep) -> _T:
    """Return what a call returns, once the log can be reached; closing the log ends the wait."""
    while True:
        try:
            return call()
        except LogUnreachableError as error:
            _log.warning("waiting_for_the_log", reason=str(error))
            sleep(_AGAIN_S)
