"""The owner table: which worker has which shard, looked up in the background and on demand."""

from __future__ import annotations

import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING

from headwater.errors import HeadwaterError
from headwater.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["OwnerTable"]

_log = get_logger(__name__)


class OwnerTable:
    """Shard → worker, as last seen; a look-up never makes anyone wait longer than asked.

    `look` asks whoever knows; it returns None while nobody can say, and may raise HeadwaterError:
    either leaves the table as it is. One thread looks every `every_s` seconds, and sooner when
    asked, but not within `pause_s` of its last look; it starts when the table is first used.
    """

    def __init__(
        self,
        look: Callable[[], Mapping[int, str] | None],
        *,
        every_s: float = 2.0,
        pause_s: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._every_s = every_s
        self._pause_s = pause_s
        self._clock = clock
        self._known: Mapping[int, str] = MappingProxyType({})
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._wanted = True
        self._started = 0
        self._finished = 0
        self._looked_at = float("-inf")
        self._failing = False

    def known(self) -> Mapping[int, str]:
        """Return what was last seen, at once; nothing before the first look has come back."""
        with self._changed:
            self._ensure_thread()
            return self._known

    def refresh(self, timeout_s: float, *, is_wrong: bool = False) -> Mapping[int, str]:
        """Wait for a look, at most so long; return what is known then.

        Many callers share one. It may have been made a moment ago, or be under way, unless the
        table `is_wrong`: then it begins from now on.
        """
        with self._changed:
            self._ensure_thread()
            looks = self._started > self._finished
            if not (is_wrong or looks) and self._clock() - self._looked_at < self._pause_s:
                return self._known
            wanted = self._started
            if is_wrong or not looks:
                wanted += 1
                self._wanted = True
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._finished >= wanted or self._closed, timeout_s)
            return self._known

    def close(self) -> None:
        """Stop looking."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            # A look that hangs is left to its own time limit.
            self._thread.join(timeout=self._every_s)

    def _ensure_thread(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="headwater-owners", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closed, self._every_s)
                pause_s = self._looked_at + self._pause_s - self._clock()
                self._changed.wait_for(lambda: self._closed, max(0.0, pause_s))
                if self._closed:
                    return
                self._wanted = False
                self._started += 1
                self._looked_at = self._clock()
            found = self._found()
            with self._changed:
                if found is not None:
                    self._known = MappingProxyType(dict(found))
                self._finished += 1
                self._changed.notify_all()

    def _found(self) -> Mapping[int, str] | None:
        try:
            found = self._look()
        except HeadwaterError as error:
            self._failed(str(error))
            return None
        except Exception as error:  # noqa: BLE001 - the edge of a thread: a table that stays old
            self._failed(f"{type(error).__name__}: {error}")
            return None
        self._failing = False
        return found

    def _failed(self, reason: str) -> None:
        if not self._failing:
            _log.warning("owners_not_found", reason=reason)
        self._failing = True
