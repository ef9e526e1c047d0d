from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import kafka_broker
import pytest

from headwater.cli import main
from headwater_connectors.log.kafka import KafkaLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kafka_broker import Broker

pytestmark = pytest.mark.kafka

PATIENCE_S = 120
FEATURES = """
import polars as pl
import headwater as hw

orders = hw.stream(
    "run.orders", schema={"shop": pl.String, "ts": pl.Int64}, event_time=hw.epoch("ts", "ms")
)
sales = hw.view(
    "sales",
    version=1,
    features=orders.group_by(hw.entity("shop", key="shop")).window("1h").agg(n=hw.count()),
)
"""


@pytest.fixture
def log(broker: Broker) -> Iterator[KafkaLog]:
    with contextlib.closing(KafkaLog(broker.bootstrap_servers)) as log:
        yield log
        for topic in log.topics():
            if topic.name.startswith("run."):
                log.delete_topic(topic.name)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: Broker) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWATER_KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap_servers)
    monkeypatch.setenv("HEADWATER_NAMESPACE", "run.test")
    Path("features.py").write_text(FEATURES, encoding="utf-8")
    return tmp_path


def _failed(capsys, *arguments: str) -> tuple[int, str]:
    """Run the command here; return its exit code and its one line of failure."""
    code = main(["run", "features.py", "--port", "0", "--metrics-port", "0", *arguments])
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if line.startswith("headwater: error: ")]
    # The failure is the last thing that is said, after log lines, and it is said once.
    assert said[-1] == line
    return code, line


def test_an_unknown_topic_is_one_line_and_1(log, capsys) -> None:
    log.create_topic("run.order", partitions=1, append_time=False)
    code, line = _failed(capsys)
    assert code == 1
    assert 'no topic "run.orders"' in line
    assert 'Did you mean "run.order"?' in line


def _use_secured(broker: Broker, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    if broker.secured_servers is None:
        pytest.skip("this broker has no listener with credentials")
    monkeypatch.setenv("HEADWATER_KAFKA__BOOTSTRAP_SERVERS", broker.secured_servers)
    config = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": kafka_broker.BROKER_USER[0],
    }
    monkeypatch.setenv("HEADWATER_KAFKA__CONFIG", json.dumps(config))
    monkeypatch.setenv("HEADWATER_KAFKA__CONFIG__SASL_PASSWORD", password)


def test_wrong_credentials_are_one_line_and_78(broker, monkeypatch, capsys) -> None:
    _use_secured(broker, monkeypatch, "wr0ng-password")
    code, line = _failed(capsys)
    assert code == 78
    assert "refused the connection" in line
    assert "wr0ng-password" not in line


def test_missing_rights_are_one_line_and_78(broker, log, monkeypatch, capsys) -> None:
    log.create_topic("run.orders", partitions=1, append_time=False)
    _use_secured(broker, monkeypatch, kafka_broker.BROKER_USER[1])
    code, line = _failed(capsys)
    assert code == 78
    assert "grant this user the right on the" in line


def test_a_setting_that_librdkafka_refuses_is_one_line_and_78(monkeypatch, capsys) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA__CONFIG", '{"security.protocol": "ROT13"}')
    code, line = _failed(capsys)
    assert code == 78
    assert "security.protocol" in line


def _two_free_ports() -> int:
    """Return a port that is free together with the next one."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + 1))
                return port


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _wait(is_so) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


def _status() -> dict:
    command = [sys.executable, "-m", "headwater", "status", "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_processes_share_the_work_survive_a_kill_and_end_together(log, folder) -> None:
    log.create_topic("run.orders", partitions=2, append_time=False)
    ports = [first := _two_free_ports(), first + 1]
    command = [sys.executable, "-m", "headwater", "run", "features.py", "--processes", "2"]
    command += ["--port", "0", "--metrics-port", str(first), "--shards", "4", "--worker-id", "w"]
    with (folder / "said").open("w") as said, subprocess.Popen(command, stderr=said) as running:
        try:
            _wait(lambda: all(map(_is_ready, ports)))
            found = _status()
            assert [worker["worker"] for worker in found["workers"]] == ["w-0", "w-1"]
            assert len([task for task in found["tasks"] if task["kind"] == "shard"]) == 4
            children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            assert len(children) == 2
            os.kill(int(children[0]), signal.SIGKILL)
            _wait(lambda: "code=-9" in (folder / "said").read_text())
            _wait(lambda: all(map(_is_ready, ports)))
            running.send_signal(signal.SIGTERM)
            assert running.wait(PATIENCE_S) == 0
        finally:
            running.kill()
    text = (folder / "said").read_text()
    assert text.count("event=worker_stopped ") == 2
    assert "error: " not in text
