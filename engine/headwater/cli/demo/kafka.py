"""The demo on Apache Kafka: a real broker, and two workers, one of which is killed."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING

from headwater.cli.apply import registered_at
from headwater.cli.demo import broker
from headwater.cli.demo.features import delay_model
from headwater.cli.demo.place import SAMPLES_PER_S, Outage
from headwater.cli.demo.processes import start_tied
from headwater.cli.demo.steps import step
from headwater.cli.overview import overview_of
from headwater.cli.place import Place as CommandPlace
from headwater.cli.place import clock_us
from headwater.cli.status import ask_worker
from headwater.config import load_config
from headwater.errors import ConfigError, HeadwaterError, NotFoundError
from headwater.flow.plans_topic import PlansTopic
from headwater.flow.sample_files import SampleFiles
from headwater.plan.plan import compile_plan
from headwater.registry.application import apply
from headwater.registry.proposal import propose
from headwater.registry.registry import Registry
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.dead_letters import dead_letter_topic
from headwater_connectors.log.kafka import KafkaLog
from headwater_connectors.log.kafka_groups import committed
from headwater_serving.client import connect

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.progress import Progress

    from headwater.cli.demo.place import Place
    from headwater.cli.overview import Overview
    from headwater.config import Config
    from headwater.definitions.service import Service
    from headwater.definitions.view import View
    from headwater.flow.starts import Start
    from headwater.plan.plan import Plan
    from headwater_connectors.log.log import Log
    from headwater_serving.client import Client

__all__ = ["kafka"]

_WORKERS = ("worker-1", "worker-2")
_VICTIM, _SURVIVOR = _WORKERS
_PARTITIONS = 4
_SHARDS = 4
# The least that a broker takes: so long it waits for a worker that says nothing.
_SESSION_TIMEOUT_MS = 6_000
_TIMEOUT_S = 120.0
_PATIENCE_S = 180.0
_LOOK_S = 0.2
_KILL_LOOK_S = 0.02
_KAFKA_PREFIX = "HEADWATER_KAFKA__"


@contextmanager
def kafka(folder: Path, port: int, progress: Progress) -> Iterator[Place]:
    """Start a broker, by the first way that works, and two workers with their files in `folder`.

    They serve on `port` and the next one, or on free ones where it is 0. In the end none of them
    is left. Raises NoBrokerError where no way works.
    """
    with ExitStack() as stack:
        # Clients say what they try again; what they give up on is raised.
        talk = logging.FileHandler(folder / "clients.log", encoding="utf-8")
        stack.callback(talk.close)
        clients = logging.getLogger("headwater.kafka")
        clients.addHandler(talk)
        stack.callback(clients.removeHandler, talk)
        # So that all is undone then, as after Ctrl-C.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGTERM, before)
        with step(progress, "starting Apache Kafka (fetched once a machine)"):
            running = broker.start()
            stack.callback(running.stop)
        # A cluster of somebody else's may need more settings than its address.
        environ = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_KAFKA_PREFIX) or not name.startswith("HEADWATER_")
        }
        config = _configure(folder, running.bootstrap_servers, environ)
        log = KafkaLog(config.kafka.bootstrap_servers, config=config.kafka.config)
        stack.callback(log.close)
        place = _Kafka(log, config, folder, port, environ, progress)
        place.create_topics()
        if not running.disposable:
            stack.callback(place.delete_topics)
        stack.callback(place.close)
        with step(progress, "starting two workers"):
            place.start_workers()
        yield place


def _configure(folder: Path, bootstrap_servers: str, environ: Mapping[str, str]) -> Config:
    """Write the workers' headwater.toml, and read it as they do."""
    # Text in quotes is the same in JSON and TOML.
    settings = f"""
namespace = "headwater-demo-{uuid.uuid4().hex[:8]}"

[kafka]
bootstrap_servers = {json.dumps(bootstrap_servers)}

[worker]
state = {json.dumps(str(folder / "state"))}
archive = {json.dumps(str(folder / "archive"))}
shards = {_SHARDS}
metrics_port = 0
read_back_s = inf
keep_exchange = true
session_timeout_ms = {_SESSION_TIMEOUT_MS}

[registry]
url = {json.dumps(f"sqlite:///{folder / 'registry.db'}")}

[audit]
samples_per_s = {SAMPLES_PER_S}
samples = {json.dumps(str(folder / "samples"))}
"""
    path = folder / "headwater.toml"
    path.write_text(settings, encoding="utf-8")
    return load_config(path, environ=environ)


class _Worker:
    """A child process with `headwater run`."""

    def __init__(self, name: str, folder: Path, port: int, environ: Mapping[str, str]) -> None:
        self._name = name
        self._output = folder / f"{name}.log"
        given = ["--config=headwater.toml", f"--worker-id={name}", f"--port={port}"]
        self._process: subprocess.Popen[bytes] = start_tied(
            [sys.executable, "-m", "headwater", "run", *given],
            self._output,
            folder=folder,
            environ=environ,
        )

    def check(self) -> None:
        """Raise HeadwaterError if it has ended."""
        code = self._process.poll()
        if code is not None:
            said = self._output.read_text(encoding="utf-8", errors="replace").splitlines()
            last = said[-1] if said else "it said nothing"
            raise HeadwaterError(f"{self._name} has ended with {code}: {last}")

    def terminate(self) -> None:
        """Tell it to hand its work over and end."""
        self._process.terminate()

    def wait(self) -> None:
        """Return when it has ended; raise HeadwaterError if that was not in order, or not soon."""
        try:
            code = self._process.wait(_PATIENCE_S)
        except TimeoutExpired:
            code = None
        if code != 0:
            raise HeadwaterError(f"{self._name} was told to stop, and has ended with {code}")

    def kill(self) -> None:
        """Kill it where it stands."""
        self._process.kill()
        self._process.wait()


class _Kafka:
    """A Place in which a worker is killed with half of the events on their way."""

    def __init__(
        self,
        log: KafkaLog,
        config: Config,
        folder: Path,
        port: int,
        environ: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self.plans: list[Plan] = [compile_plan([delay_model])]
        self.log: Log = log
        self.exchange = ""
        self.starts: Mapping[str, Start] = {}
        self.clients: Sequence[Client] = ()
        self.namespace = config.namespace
        self.archive = Archive(FolderBlobs(folder / "archive"), stamp=str(self.plans[0].stamp))
        self._config = config
        self._folder = folder
        self._port = port
        self._environ = environ
        self._progress = progress
        self._kafka = log
        self._producer = log.producer()
        self._workers: dict[str, _Worker] = {}
        self._opened = ExitStack()
        self._pushed_at = 0.0
        self._killed_at = 0.0
        self._killed_after = 0

    def create_topics(self) -> None:
        """Create the topics of the streams; raise ConfigError where there are such already."""
        there = {topic.name for topic in self.log.topics()} & set(self.plans[0].streams)
        if there:
            raise ConfigError(
                f"the demo makes topics of its own, and {self._kafka.cluster.servers} has"
                f" {' and '.join(sorted(there))}; name another cluster in"
                f" {broker.BOOTSTRAP_VARIABLE}, or none"
            )
        for name in self.plans[0].streams:
            self.log.create_topic(name, partitions=_PARTITIONS, append_time=False)

    def delete_topics(self) -> None:
        """Delete every topic that the demo has made."""
        ours = {*self.plans[0].streams, *map(dead_letter_topic, self.plans[0].streams)}
        for topic in self.log.topics():
            if topic.name in ours or topic.name.startswith(f"{self.namespace}."):
                self.log.delete_topic(topic.name)

    def start_workers(self) -> None:
        """Apply the definitions, and return when both workers have their share of the tasks."""
        self._apply(self.plans.pop())
        for name in _WORKERS:
            self._start(name)
        found = self._wait_running(_WORKERS)
        self._connect(found)
        self.exchange = next(task.topic for task in found.tasks if task.kind == "shard")
        agreed = PlansTopic(self.log, self.namespace).starts
        self.starts = {name: agreed[name].start for name in self.plans[0].streams}

    def push(self, topic: str, values: Sequence[bytes]) -> None:
        run = -(-len(values) // _PARTITIONS)
        for partition in range(_PARTITIONS):
            self._producer.send_many(topic, partition, values[partition * run :][:run])
        self._producer.flush()
        self._pushed_at = time.monotonic()

    def taken_in(self) -> int:
        group = f"{self.namespace}.ingest"
        return sum(
            sum(committed(self._kafka, group, name).values()) for name in self.plans[0].streams
        )

    def interrupt(self, pushed: int) -> None:
        with step(self._progress, "killing a worker in the middle (kill -9)"):
            # In the middle of its work, too.
            deadline = time.monotonic() + _PATIENCE_S
            while (taken_in := self.taken_in()) * 2 < pushed:
                self._rest("half of what is pushed is read", deadline, _KILL_LOOK_S)
            self._killed_after = taken_in
            self._killed_at = time.monotonic()
            self._workers.pop(_VICTIM).kill()

    def restore(self) -> Outage:
        with step(self._progress, "its tasks are taken over"):
            self._wait_running([_SURVIVOR])
            taken_over_s = time.monotonic() - self._killed_at
        with step(self._progress, "starting it again"):
            began = time.monotonic()
            self._start(_VICTIM)
            self._connect(self._wait_running(_WORKERS))
            back_s = time.monotonic() - began
        return Outage(_VICTIM, self._killed_after, taken_over_s, back_s)

    def settle(self) -> None:
        """Return when every shard is fresher than the last event is old: it has them all."""

        def is_fresh(found: Overview, asked_at: float) -> bool:
            silent_ms = int((asked_at - self._pushed_at) * 1_000)
            ages_ms = [task.freshness_ms for task in found.tasks if task.kind == "shard"]
            fresh = [age for age in ages_ms if age is not None and age < silent_ms]
            return len(fresh) == len(ages_ms) == _SHARDS

        self._wait_overview("every event is applied", is_fresh)

    def apply(self, parts: Sequence[Service | View]) -> None:
        number = self._apply(compile_plan(parts))
        self._wait_overview(
            f"every worker runs plan {number}",
            lambda found, _: all(worker.plan == number for worker in found.workers),
        )

    def _apply(self, wanted: Plan) -> int:
        """Do what `headwater apply` does, and return the plan's number."""
        place = CommandPlace(
            Registry(self._config.registry.url),
            PlansTopic(self.log, self.namespace),
            self.log,
            self.starts,
            self.archive,
            schemas=None,
        )
        proposal = propose(registered_at(place), wanted)
        number = apply(place.registry, place.topic, proposal, author="demo", at_us=clock_us())
        self.plans.append(proposal.plan)
        return number

    def samples(self) -> SampleFiles:
        # Each writes its last file before it ends.
        for worker in self._workers.values():
            worker.terminate()
        for worker in self._workers.values():
            worker.wait()
        self._workers.clear()
        return SampleFiles(FolderBlobs(self._folder / "samples"), self.namespace)

    def close(self) -> None:
        """End the workers, and let go of what reads and writes."""
        for worker in self._workers.values():
            worker.kill()
        self._opened.close()
        with suppress(HeadwaterError):
            # What is not acknowledged now nobody waits for any more.
            self._producer.close()

    def _start(self, name: str) -> None:
        port = self._port and self._port + _WORKERS.index(name)
        self._workers[name] = _Worker(name, self._folder, port, self._environ)

    def _connect(self, found: Overview) -> None:
        """Have a client for every worker, where it is now; the one that was killed comes first."""
        targets = {worker.worker: worker.target for worker in found.workers}
        # Those before stay open to the end: somebody may be asking with them.
        self.clients = [self._open(targets[name]) for name in _WORKERS]

    def _open(self, target: str) -> Client:
        return self._opened.enter_context(connect(target, timeout_s=_TIMEOUT_S))

    def _wait_running(self, names: Sequence[str]) -> Overview:
        """Return when these workers, and no others, have every task and have caught up with it."""
        return self._wait_overview(
            f"{' and '.join(names)} have every task",
            lambda found, _: (
                {task.worker for task in found.tasks} == set(names)
                and all(task.state == "running" for task in found.tasks)
            ),
        )

    def _wait_overview(self, what: str, holds: Callable[[Overview, float], bool]) -> Overview:
        """Return what `headwater status` says as soon as it holds, with the time of asking."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            asked_at = time.monotonic()
            # There is no such namespace before its first worker is up.
            with suppress(NotFoundError):
                found = overview_of(self._kafka, self.namespace, ask_worker)
                if holds(found, asked_at):
                    return found
            self._rest(what, deadline, _LOOK_S)

    def _rest(self, what: str, deadline: float, pause_s: float) -> None:
        """Pause before the next look; raise HeadwaterError if a worker has ended, or it's late."""
        for worker in self._workers.values():
            worker.check()
        if time.monotonic() > deadline:
            raise HeadwaterError(f"not within {_PATIENCE_S:g} s: {what}")
        time.sleep(pause_s)
