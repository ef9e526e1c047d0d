"""The image, built and started: sealed containers that share a namespace on a real broker."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import time
import urllib.request
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import kafka_broker
import pytest

import headwater as hw
from headwater_connectors.log.kafka import KafkaLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import polars as pl

# Not marked kafka: where there is no engine this is skipped, broker or no broker.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

ROOT = Path(__file__).parents[2]
DEFAULT_BASE = "python:3.12-slim"
PATIENCE_S = 180
SHARDS = 4
USER = 10001


def docker(*arguments: str, check: bool = True) -> str:
    """Run the engine's client; return what it printed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stdout[-2_000:] + done.stderr[-4_000:]
    return done.stdout.strip()


def _works(*arguments: str) -> bool:
    done = subprocess.run(["docker", *arguments], capture_output=True, check=False, timeout=300)
    return done.returncode == 0


@functools.cache
def missing() -> str:
    """Return why nothing can be built here, or nothing."""
    if shutil.which("docker") is None:
        return "no docker on this machine"
    if not _works("version"):
        return "no Docker engine answers; start one, or name it in DOCKER_HOST"
    base = os.environ.get("BASE_IMAGE", DEFAULT_BASE)
    if not _works("image", "inspect", base) and not _works("pull", base):
        return f"no image {base}, and it can't be pulled; name another in BASE_IMAGE"
    return ""


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    if why := missing():
        pytest.skip(why)
    tag = f"headwater-test-{uuid.uuid4().hex[:8]}"
    base = os.environ.get("BASE_IMAGE", DEFAULT_BASE)
    # Without a value an argument comes from the environment, if it is there.
    given = [f"BASE_IMAGE={base}", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"]
    arguments = [word for one in given for word in ("--build-arg", one)]
    where = ["--file", str(ROOT / "docker/Dockerfile"), "--tag", tag, str(ROOT)]
    docker("build", "--network", "host", *arguments, *where)
    yield tag
    docker("image", "rm", "--force", tag)


@pytest.fixture(scope="module")
def bootstrap_servers(image: str) -> Iterator[str]:
    broker = kafka_broker.start()
    with contextlib.closing(KafkaLog(broker.bootstrap_servers)) as log:
        log.create_topic("orders", partitions=2, append_time=False)
    yield broker.bootstrap_servers
    broker.stop()


@dataclass(frozen=True)
class Container:
    name: str
    port: int
    metrics_port: int

    def get(self, path: str) -> tuple[int, str]:
        try:
            url = f"http://127.0.0.1:{self.metrics_port}{path}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except OSError as error:
            return 0, str(error)

    def is_ready(self) -> bool:
        assert self.state("Running") == "true", docker("logs", self.name)
        return self.get("/readyz")[0] == 200

    def is_healthy(self) -> bool:
        return self.state("Health.Status") == '"healthy"'

    def state(self, field: str) -> str:
        return docker("inspect", "--format", f"{{{{json .State.{field}}}}}", self.name)

    def read_until(self, events: int, customers: list[str]) -> pl.DataFrame:
        with hw.connect(f"127.0.0.1:{self.port}") as store:
            wait(lambda: store.online("basket", customer=customers)["n_1h"].sum() == events)
            return store.online("basket", customer=customers)

    def run(self, *command: str, check: bool = True) -> str:
        return docker("exec", self.name, *command, check=check)


def wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def containers(image: str, bootstrap_servers: str) -> Iterator[list[Container]]:
    """Start two workers, as compose.yaml does, in the network of this machine."""
    mark = uuid.uuid4().hex[:8]
    shared = f"headwater-{mark}-shared"
    started = [Container(f"headwater-{mark}-{i}", 16_566 + i, 19_464 + i) for i in range(2)]
    try:
        for one in started:
            settings = {
                "KAFKA__BOOTSTRAP_SERVERS": bootstrap_servers,
                "NAMESPACE": f"docker-{mark}",
                "WORKER__HOST": "127.0.0.1",
                "WORKER__ID": one.name,
                "WORKER__METRICS_PORT": str(one.metrics_port),
                "WORKER__PORT": str(one.port),
                "WORKER__SHARDS": str(SHARDS),
            }
            docker(
                *("run", "--detach", "--name", one.name, "--network", "host"),
                *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
                *("--security-opt", "no-new-privileges", "--health-interval", "2s"),
                *("--volume", f"{one.name}:/var/lib/headwater"),
                *("--volume", f"{shared}:/var/lib/headwater/shared"),
                *("--volume", f"{ROOT / 'docker/features.py'}:/etc/headwater/features.py:ro"),
                *(w for key, value in settings.items() for w in ("-e", f"HEADWATER_{key}={value}")),
                image,
            )
        wait(lambda: all(one.is_ready() for one in started))
        yield started
    finally:
        for one in started:
            docker("rm", "--force", "--volumes", one.name, check=False)
        docker("volume", "rm", "--force", shared, *(one.name for one in started), check=False)


def test_the_image_says_what_it_is(image) -> None:
    (found,) = json.loads(docker("image", "inspect", image))
    assert found["Config"]["Labels"]["org.opencontainers.image.title"] == "Headwater"
    assert "INDEX" not in docker("image", "history", "--no-trunc", image)
    assert docker("run", "--rm", "--read-only", image, "--version") == hw.__version__


def test_workers_are_healthy_sealed_and_nobody_in_particular(containers) -> None:
    for one in containers:
        assert one.get("/healthz")[0] == 200
        assert "headwater_build_info" in one.get("/metrics")[1]
        wait(one.is_healthy)
        assert one.run("id", "-u") == str(USER)
        assert "Read-only" in one.run("sh", "-c", "touch /etc/headwater/x 2>&1", check=False)


def test_events_are_read_from_either_worker_and_no_kernel_was_compiled(
    containers, bootstrap_servers
) -> None:
    now = datetime.now(UTC).isoformat()
    customers = [f"c{i}" for i in range(20)]
    with (
        contextlib.closing(KafkaLog(bootstrap_servers)) as log,
        contextlib.closing(log.producer()) as producer,
    ):
        for total in (1.0, 2.0):
            for i, customer in enumerate(customers):
                event = {"customer": customer, "total": total, "ordered_at": now}
                producer.send("orders", i % 2, json.dumps(event).encode(), key=customer.encode())
        producer.flush()
    for one in containers:
        answer = one.read_until(40, customers)
        assert answer["mean_1h"].to_list() == [1.5] * len(customers)
        held = [line for line in one.get("/metrics")[1].splitlines() if 'kind="shard"' in line]
        assert any(line.startswith("headwater_tasks") for line in held), "it has no shards"
        # Kernels from the image are links; one that was compiled here would be a file.
        found = one.run("sh", "-c", "cd /tmp && ls -l headwater-kernels-*")
        assert " -> /opt/headwater/" in found
        assert not [line for line in found.splitlines() if line.startswith("-")]


def test_a_container_that_is_stopped_hands_over_and_ends_well(containers) -> None:
    for one in containers:
        docker("stop", "--time", "30", one.name)
        assert one.state("ExitCode") == "0"
        assert "event=worker_stopped " in subprocess.run(
            ["docker", "logs", one.name], capture_output=True, text=True, check=True
        ).stderr  # fmt: skip
