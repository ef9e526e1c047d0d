"""Our side of the ingest benchmark: a worker in a process of its own, told what to do on its way.

It writes one JSON object a line and is asked for more through standard input.
"""

from __future__ import annotations

import time

_BEGAN = time.monotonic()

import argparse  # noqa: E402 - how long imports take is part of what is measured
import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any, Self  # noqa: E402

import polars as pl  # noqa: E402

from bench.ingest_memory import read_totals  # noqa: E402
from bench.ingest_stages import StageClock  # noqa: E402
from bench.ingest_workload import SERVICE, service  # noqa: E402
from headwater.cluster_worker import ClusterWorker  # noqa: E402
from headwater.config import Config, KafkaConfig, WorkerConfig  # noqa: E402
from headwater.flow import running  # noqa: E402
from headwater.flow.answer import Status  # noqa: E402
from headwater.plan.plan import compile_plan  # noqa: E402
from headwater_connectors.log.kafka import KafkaLog  # noqa: E402

_IMPORTED = time.monotonic()

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

_POLL_S = 0.01
_LIMIT_S = 180.0


class Running:
    """A worker of a cluster of one, as `headwater run` has it, with archive and checkpoints."""

    def __init__(self, given: argparse.Namespace) -> None:
        servers, topic, folder = given.servers, given.topic, given.folder
        self.topic = topic
        self.log = KafkaLog(servers)
        config = Config(
            namespace=given.namespace,
            kafka=KafkaConfig(bootstrap_servers=servers),
            worker=WorkerConfig(
                id="bench", port=given.port, state=folder / "state", archive=folder / "archive"
            ),
        )
        self.cluster_worker = ClusterWorker(compile_plan([service(topic)]), self.log, config)

    def __enter__(self) -> Self:
        """Start; tasks come a little later, when Kafka hands them out."""
        self.cluster_worker.start()
        # What is timed here is inside; nobody else has any business there.
        self.worker = self.cluster_worker._worker  # noqa: SLF001
        return self

    def __exit__(self, *_: object) -> None:
        """Stop in order, as a worker does that is told to."""
        self.cluster_worker.stop()
        self.log.close()

    def wait(self, is_done: Callable[[], bool]) -> None:
        """Return when it is done; raise what stopped the worker, or TimeoutError."""
        deadline = time.monotonic() + _LIMIT_S
        while not is_done():
            self.cluster_worker.check()
            if time.monotonic() > deadline:
                msg = f"the worker was not done after {_LIMIT_S:g} s"
                raise TimeoutError(msg)
            time.sleep(_POLL_S)

    def wait_for_tasks(self) -> None:
        """Return when every shard is here and open."""
        self.wait(lambda: len(self.worker.shards) == self.worker.settings.shards)

    def wait_until_applied(self) -> None:
        """Return when everything that was in the topic at the call can be read."""
        ends = {self.topic: self.log.end_offsets(self.topic)}
        self.wait_for_tasks()
        self.wait(lambda: self.worker.is_applied(ends))

    def wait_until_archived(self) -> None:
        """Return when everything that was in the topic at the call is durable in the archive."""
        ends = self.log.end_offsets(self.topic)
        task = self.worker.archive_tasks[self.topic]
        self.wait(lambda: all(task.positions.get(p, 0) >= end for p, end in enumerate(ends)))

    def wait_until_fresh(self, user: str, t_us: int) -> pl.DataFrame:
        """Return the first answer for a user that isn't stale."""
        reader = self.worker.reader
        info, users = reader.describe(SERVICE), pl.DataFrame({"user": [user]})
        found: list[pl.DataFrame] = []

        def is_fresh() -> bool:
            answer = reader.read(info, users, t_us)
            found[:] = [answer.values]
            return not (answer.statuses == Status.STALE).any()

        self.wait(is_fresh)
        return found[0]


def _write(**found: object) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _asked() -> dict[str, Any]:
    """Return what the other side asks next; nothing once it is gone."""
    line = sys.stdin.readline()
    asked: dict[str, Any] = json.loads(line) if line else {}
    return asked


def catch_up(given: argparse.Namespace) -> None:
    """Read the topic from its start to its end; then wait for the archive or read, as asked.

    The clock starts with the first event that comes to be decoded, as it does for every peer.
    """
    stages = StageClock(begins_with="ingest.decode")
    with stages.wrapped(), Running(given) as up:
        up.wait(lambda: stages.has_begun)
        _write(begun=True)
        up.wait_until_applied()
        stages.stop()
        _write(
            seconds=stages.wall_seconds,
            cpu_seconds=stages.cpu_seconds,
            stages=stages.seconds(),
        )
        while not (asked := _asked()).get("stop", not asked):
            if "users" in asked:
                _write(totals=read_totals(up.worker.reader, asked["users"], asked["end_ms"]))
            else:
                up.wait_until_archived()
                _write(archived_s=time.perf_counter() - stages.began_at)


def serve(given: argparse.Namespace) -> None:
    """Answer reads while events come, until told to stop."""
    stages = StageClock()
    with stages.wrapped(), Running(given) as up:
        up.wait_until_applied()
        _write(target=up.cluster_worker.target)
        _asked()
        stages.start()
        _write(started=True)
        _asked()
        stages.stop()
        _write(
            seconds=stages.wall_seconds,
            cpu_seconds=stages.cpu_seconds,
            stages=stages.seconds(),
        )


def grow(given: argparse.Namespace) -> None:
    """Answer reads while events come; when told to, begin with a second version of the view."""
    with Running(given) as up:
        up.wait_until_applied()
        up.wait_until_archived()
        _write(target=up.cluster_worker.target)
        began = 0.0
        while asked := _asked():
            backfill = up.worker.backfill
            if "adopt" in asked:
                second = service(given.topic, version=2)
                (view,) = second.parts
                plan = compile_plan([service(given.topic), view])
                began = time.monotonic()
                up.worker.adoption.offer(running.Running.of(plan, 1))
                up.wait(lambda: up.worker.current.now.number == 1)
                _write(past=backfill.left)
            else:
                left = backfill.left
                _write(left=left)
                if not left:
                    _write(seconds=time.monotonic() - began)


def crash(given: argparse.Namespace) -> None:
    """Apply what there is and end at once, as by a power switch."""
    with Running(given) as up:
        up.wait_for_tasks()
        _write(ready=True)
        _asked()
        up.wait_until_applied()
        os.kill(os.getpid(), signal.SIGKILL)


def restart(given: argparse.Namespace) -> None:
    """Start over the state that is there, and answer for one user once everything is applied."""
    with Running(given) as up:
        started = time.monotonic()
        up.wait_for_tasks()
        opened = time.monotonic()
        up.wait_until_applied()
        replayed = time.monotonic()
        answer = up.wait_until_fresh(given.user, given.at_ms * 1_000)
        answered = time.monotonic()
        _write(
            total=answered - given.spawned,
            interpreter=_BEGAN - given.spawned,
            imports=_IMPORTED - _BEGAN,
            start=started - _IMPORTED,
            open=opened - started,
            replay=replayed - opened,
            fresh=answered - replayed,
            count_7d=answer["count_7d"][0],
        )
        _asked()


_STEPS = {"catch-up": catch_up, "serve": serve, "grow": grow, "crash": crash, "restart": restart}


def main() -> None:
    """Do one step of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.ingest_worker", description=__doc__)
    parser.add_argument("step", choices=_STEPS)
    parser.add_argument("--servers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0, help="of the worker; 0: any that is free")
    parser.add_argument("--spawned", type=float, default=_BEGAN, help="by the monotonic clock")
    parser.add_argument("--user", default="", help="whom to read after a restart")
    parser.add_argument("--at-ms", type=int, default=0, help="the time of that read")
    given = parser.parse_args()
    _STEPS[given.step](given)


if __name__ == "__main__":
    main()
