"""`headwater run` as a child process that is killed, stopped and asked from outside."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["PATIENCE_S", "WorkerProcess", "free_ports", "run_headwater", "wait_until"]

# Long enough for any machine: what takes this long has failed.
PATIENCE_S = 100.0
# Ends with the test's process, however that one ends; survives the exec of the worker.
_TIED = (
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'headwater', *sys.argv[1:]])\n"
)
_TESTS = Path(__file__).parent


def wait_until(
    holds: Callable[[], object], what: Callable[[], object] | str, patience_s: float = PATIENCE_S
) -> None:
    """Return when something holds; fail with `what` if it never does."""
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in time: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)


def free_ports(count: int) -> int:
    """Return the first of so many ports that are free, where no system takes one by itself."""
    while True:
        first = random.SystemRandom().randrange(20_000, 32_000)
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: at for name, at in os.environ.items() if not name.startswith("HEADWATER_")}
    paths = [str(_TESTS), kept.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **extra}


def run_headwater(
    arguments: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a `headwater` command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-c", _TIED, *arguments],
        cwd=folder,
        env=_environment(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


class WorkerProcess:
    """One `headwater run`, in `folder` with its headwater.toml; started again with the same id.

    Without `definitions` it runs what is applied.
    """

    def __init__(
        self,
        worker_id: str,
        folder: Path,
        *,
        processes: int = 1,
        definitions: str | None = "definitions.py",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._definitions = [] if definitions is None else [definitions]
        self.id = worker_id
        self.folder = folder
        self.processes = processes
        self._environment = dict(environment or {})
        self._port = free_ports(2 * processes)
        self._log = folder / f"{worker_id}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def targets(self) -> list[str]:
        """Where each of its processes answers."""
        return [f"127.0.0.1:{self._port + slot}" for slot in range(self.processes)]

    @property
    def target(self) -> str:
        """Where its first process answers."""
        return self.targets[0]

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process, the supervisor where there are several."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; it comes up by and by."""
        assert not self.is_running
        command = [
            *("run", *self._definitions, "--config", "headwater.toml", "--worker-id", self.id),
            *("--port", str(self._port), "--metrics-port", str(self._port + self.processes)),
            *("--processes", str(self.processes)),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _TIED, *command],
                cwd=self.folder,
                env=_environment(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def move(self) -> None:
        """Let it answer elsewhere from its next start on."""
        assert not self.is_running
        self._port = free_ports(2 * self.processes)

    def said(self) -> str:
        """Return what it has written, of all its lives."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def check(self) -> None:
        """Fail if it has ended."""
        if not self.is_running:
            code = None if self._process is None else self._process.returncode
            raise AssertionError(f"{self.id} has ended with {code}:\n{self.said()[-3000:]}")

    def is_ready(self) -> bool:
        """Whether all its processes are; fails if it has ended."""
        self.check()
        return all(self._get("/readyz", slot) is not None for slot in range(self.processes))

    def wait_ready(self) -> None:
        """Return when it is ready."""
        wait_until(self.is_ready, lambda: f"{self.id} is ready:\n{self.said()[-3000:]}")

    def counted(self, name: str, **labels: str) -> float:
        """Return a metric's sum over its processes and all labels but those given."""
        found = 0.0
        for slot in range(self.processes):
            text = self._get("/metrics", slot)
            assert text is not None, f"{self.id} tells no metrics"
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name == name and labels.items() <= sample.labels.items():
                        found += sample.value
        return found

    def _get(self, path: str, slot: int) -> str | None:
        """Return what a page says, None unless it is there and well."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port + self.processes + slot, timeout=5
        )
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return text if answer.status == http.HTTPStatus.OK else None

    def kill(self) -> None:
        """Kill it where it stands, with all its processes."""
        if self._process is None:
            return
        # Those of a supervisor have groups of their own, and a stopped one hears of no end.
        for pid in [*self.children(), self._process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE_S)

    def children(self) -> list[int]:
        """Return the processes that it has started."""
        return _children(self.pid)

    def kill_child(self, pid: int) -> None:
        """Kill a process that it has started."""
        assert pid in self.children()
        os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it as a machine that is suspended does."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self, within_s: float = 25.0) -> int:
        """Ask it to end, and return its exit code; fails if it takes longer than it may."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait(within_s)

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """Return its exit code when it has ended."""
        assert self._process is not None
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{self.id} runs on:\n{self.said()[-3000:]}") from error


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text(encoding="ascii").split()):
                found += [*_children(child), child]
    return found
