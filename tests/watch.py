"""Reads of a worker all the while, held to what the guard of reads promises."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from cluster_features import LAST_US, LIFETIME_COUNT, USERS, moment
from cluster_harness import MAX_STALENESS_S, PASSING, READ_TIMEOUT_S
from cluster_process import PATIENCE_S, wait_until

import headwater as hw

if TYPE_CHECKING:
    from cluster_harness import Cluster

__all__ = ["Watch"]


class Watch:
    """Reads of one worker all the while: none is ever wrong, and none is old without saying so.

    Every answer is held to what had been acknowledged `max_staleness` before it was asked for, and
    to what had been sent when it came.
    """

    def __init__(
        self, cluster: Cluster, target: str, *, threads: int = 1, timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self._cluster = cluster
        self._target = target
        self._timeout_s = timeout_s
        self._done = threading.Event()
        self._lock = threading.Lock()
        self.answers: Counter[str] = Counter()  # by kind: fresh, STALE, or an error's name
        self.fresh_at = 0.0  # when the last fresh answer had been asked for
        self._wrong: list[str] = []
        self._threads = [
            threading.Thread(target=self._read_on, name="watch", daemon=True)
            for _ in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert not self._wrong, (self._target, self._wrong[:5], self.answers)

    def wait_for(self, kind: str, more: int = 1) -> None:
        """Return when there are more answers of a kind than now."""
        wanted = self.answers[kind] + more
        wait_until(lambda: self.answers[kind] >= wanted, lambda: f"{kind} among {self.answers}")

    def _read_on(self) -> None:
        with hw.connect(self._target, timeout_s=self._timeout_s) as store:
            while not self._done.is_set() and not self._wrong:
                try:
                    self._read(store)
                except Exception as error:  # noqa: BLE001 - raised at the end, by the test
                    with self._lock:
                        self._wrong.append(f"{type(error).__name__}: {error}")
                self._done.wait(0.1)

    def _read(self, store: Any) -> None:
        asked_at = time.monotonic()
        try:
            answer = store.answer([LIFETIME_COUNT], user=USERS, at=moment(LAST_US))
        except PASSING as error:
            self._note(type(error).__name__)
            return
        came_at = time.monotonic()
        (statuses,) = answer.statuses.values()
        counts = answer.to_polars().to_series().to_list()
        account = self._cluster.account
        least, most = account.least(asked_at - MAX_STALENESS_S), account.most(came_at)
        for user, count, status in zip(USERS, counts, statuses, strict=True):
            is_right = least[user] <= (count or 0) <= most[user]
            if status == "STALE":
                # Old, or nobody could be asked; but never more than there is.
                is_right = (count or 0) <= most[user]
            if not is_right or status not in {"PRESENT", "NOT_FOUND", "STALE"}:
                self._wrong.append(
                    f"{user}: {count} {status}, not {least[user]} to {most[user]}; asked at"
                    f" {asked_at:.1f}, answered at {came_at:.1f}"
                )
        if "STALE" in statuses:
            self._note("STALE")
        else:
            with self._lock:
                self.fresh_at = max(self.fresh_at, asked_at)
            self._note("fresh")

    def _note(self, kind: str) -> None:
        with self._lock:
            self.answers[kind] += 1
