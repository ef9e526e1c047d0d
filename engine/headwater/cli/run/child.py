"""Worker processes of a supervisor: how one is started, and how it is asked whether it lives."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

__all__ = ["Probes", "Process", "start_worker"]

_ASK_EVERY_S = 2.0
_ANSWER_S = 5.0


class Process:
    """A Child: a process in a group of its own, so that a terminal's Ctrl-C reaches us alone.

    Its standard input is a pipe that we hold and never write to: when it ends, so did we.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        self._popen = subprocess.Popen(  # noqa: S603 - our own command
            list(command), stdin=subprocess.PIPE, env=environ, process_group=0
        )
        self.pid = self._popen.pid

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal, None while it runs."""
        code = self._popen.poll()
        if code is not None and self._popen.stdin is not None:
            self._popen.stdin.close()
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._popen.terminate()

    def kill(self) -> None:
        """End it, even if it is stopped."""
        self._popen.kill()


def start_worker(arguments: Sequence[str], slot: int) -> Process:
    """Start `headwater run` with these arguments in one slot."""
    command = [sys.executable, "-m", "headwater", "run", *arguments, "--slot", str(slot)]
    return Process(command)


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int


class Probes:
    """Asks every slot's /healthz again and again, each in a thread of its own."""

    def __init__(
        self,
        host: str,
        ports: Sequence[int],
        *,
        clock: Callable[[], float],
        every_s: float = _ASK_EVERY_S,
    ) -> None:
        self._clock = clock
        self._every_s = every_s
        self._healthy_s: list[float | None] = [None] * len(ports)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._ask_on,
                args=(slot, _Address(host, port)),
                name=f"headwater-probe-{slot}",
                daemon=True,
            )
            for slot, port in enumerate(ports)
        ]

    def healthy_at(self, slot: int) -> float | None:
        """Return when the request was sent that a slot last answered well; None: not yet."""
        return self._healthy_s[slot]

    def __enter__(self) -> Self:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Stop asking; who waits for an answer now is not waited for."""
        self._stopped.set()

    def _ask_on(self, slot: int, address: _Address) -> None:
        while not self._stopped.is_set():
            asked_s = self._clock()
            if _is_healthy(address):
                self._healthy_s[slot] = asked_s
            self._stopped.wait(self._every_s)


def _is_healthy(address: _Address) -> bool:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
