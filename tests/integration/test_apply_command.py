"""plan and apply on a real broker, and a worker that runs what is applied, without a file."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster_process import wait_until

import headwater as hw
from headwater.cli import main
from headwater.cli.demo.broker import free_ports
from headwater_connectors.log.kafka import KafkaLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kafka_broker import Broker

pytestmark = pytest.mark.kafka

PATIENCE_S = 120
TOPIC = "apply.orders"
FEATURES = """
import polars as pl
import headwater as hw

orders = hw.stream(
    "apply.orders",
    schema={"shop": pl.String, "amount": pl.Float64, "ts": pl.Int64},
    event_time=hw.epoch("ts", "ms"),
)
sales = hw.view(
    "sales",
    version=1,
    features=orders.filter(pl.col("amount") > 0)
    .group_by(hw.entity("shop", key="shop"))
    .window("1h", "lifetime")
    .agg(n=hw.count(), total=hw.sum("amount")),
)


@hw.on_demand(inputs=[sales, hw.request("basket", pl.Float64)])
def usual(row):
    return row.with_columns(share=pl.col("basket") / pl.col("total_lifetime"))


shops = hw.service("shops", [sales, usual])
"""
VERSION_2 = FEATURES.replace("version=1", "version=2").replace("> 0", "> 1")


@pytest.fixture
def log(broker: Broker) -> Iterator[KafkaLog]:
    with contextlib.closing(KafkaLog(broker.bootstrap_servers)) as log:
        yield log
        for topic in log.topics():
            if topic.name.startswith("apply."):
                log.delete_topic(topic.name)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: Broker) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWATER_KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap_servers)
    monkeypatch.setenv("HEADWATER_NAMESPACE", "apply.test")
    (tmp_path / "mine.py").write_text(FEATURES, encoding="utf-8")
    return tmp_path


def headwater(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def push(log: KafkaLog, *amounts: float) -> None:
    log.create_topic(TOPIC, partitions=2, append_time=False)
    with contextlib.closing(log.producer()) as producer:
        for n, amount in enumerate(amounts):
            event = {"shop": "a", "amount": amount, "ts": time.time_ns() // 1_000_000}
            producer.send(TOPIC, n % 2, json.dumps(event).encode())


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextlib.contextmanager
def running_worker(folder: Path) -> Iterator[str]:
    """A worker of what is applied: no file is given."""
    port, metrics_port = free_ports(2)
    command = [sys.executable, "-m", "headwater", "run", "--port", str(port)]
    command += ["--metrics-port", str(metrics_port), "--shards", "2", "--worker-id", "w"]
    with (folder / "said").open("w") as said, subprocess.Popen(command, stderr=said) as running:
        try:
            wait_until(
                lambda: running.poll() is not None or is_ready(metrics_port),
                "the worker is ready",
                PATIENCE_S,
            )
            assert running.poll() is None, (folder / "said").read_text()
            yield f"127.0.0.1:{port}"
            running.send_signal(signal.SIGTERM)
            assert running.wait(PATIENCE_S) == 0
        finally:
            running.kill()


def compared(capsys, *arguments: str) -> tuple[int, dict[str, int]]:
    """Compare the two versions; return the rows compared and how many differ of two features."""
    code, out, err = headwater(
        capsys, "view", "compare", "sales@1", "sales@2", *arguments, "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    differing = {one["name"]: one["differing"] for one in found["features"]}
    return found["rows"], {name: differing[name] for name in ("n_lifetime", "total_lifetime")}


def test_what_is_applied_is_run_and_served_without_a_file(log, folder, capsys, monkeypatch) -> None:
    push(log, 0.5, 5.0, 7.0)
    code, _, err = headwater(capsys, "run", "--port", "0", "--metrics-port", "0")
    assert code == 1
    assert 'nothing is applied to namespace "apply.test"' in err
    assert "headwater apply features.py" in err
    code, out, err = headwater(capsys, "apply", "mine.py", "--yes", "--author", "ann")
    assert code == 0, err
    assert "reads 3 events of apply.orders, about " in out
    with running_worker(folder) as target, hw.connect(target) as store:

        def total() -> float | None:
            return store.online("shops", shop=["a"], basket=[25.0])["total_lifetime"][0]

        wait_until(lambda: total() == 12.5, total, PATIENCE_S)
        assert store.online("shops", shop=["a"], basket=[25.0])["share"][0] == 2.0
        # Kafka tells the history of a stream that has begun, and of a version beside another.
        (folder / "mine.py").write_text(VERSION_2, encoding="utf-8")
        code, out, _ = headwater(capsys, "plan", "mine.py", "--json")
        found = json.loads(out)["applying"]
        assert code == 0
        assert found["history"][TOPIC]["events"] == 3
        assert [(one["name"], one["action"]) for one in found["changes"]][2:] == [
            ("sales@2", "new"), ("shops", "changed"), ("sales@1", "kept"),
        ]  # fmt: skip
        # Before it is applied, from the topic alone.
        assert compared(capsys, "--file", "mine.py") == (3, {"n_lifetime": 3, "total_lifetime": 3})
    assert headwater(capsys, "apply", "mine.py", "--yes")[0] == 0
    monkeypatch.setenv("HEADWATER_WORKER__ARCHIVE", str(folder / "archive"))
    with running_worker(folder) as target, hw.connect(target) as store:

        def share() -> float | None:
            return store.online("shops", shop=["a"], basket=[24.0])["share"][0]

        wait_until(lambda: share() == 2.0, share, PATIENCE_S)
    # The worker has archived it all when it ended; what comes now is in the topic alone.
    push(log, 0.75)
    assert compared(capsys) == (4, {"n_lifetime": 4, "total_lifetime": 4})
    code, out, _ = headwater(capsys, "view", "remove", "sales", "1", "--yes")
    assert (code, out.splitlines()[-1]) == (
        0, 'applied: plan number 3 of namespace "apply.test"',
    )  # fmt: skip


def test_two_people_with_registries_of_their_own_see_the_same(log, monkeypatch, capsys) -> None:
    push(log, 1.0)
    assert headwater(capsys, "apply", "mine.py", "--yes", "--author", "ann")[0] == 0
    monkeypatch.setenv("HEADWATER_REGISTRY__URL", "sqlite:///bob.db")
    code, out, _ = headwater(capsys, "view", "list", "--json")
    assert [one["view"] for one in json.loads(out)] == ["sales"]
    code, out, _ = headwater(capsys, "apply", "mine.py", "--yes", "--author", "bob")
    assert code == 0
    assert "nothing to do" in out
    Path("mine.py").write_text(FEATURES.replace("> 0", "> 3"), encoding="utf-8")
    code, _, err = headwater(capsys, "apply", "mine.py", "--yes", "--author", "bob")
    assert code == 2
    assert "version 1 has other logic; give the new logic version=2" in err
    Path("mine.py").write_text(VERSION_2, encoding="utf-8")
    assert headwater(capsys, "apply", "mine.py", "--yes", "--author", "bob")[0] == 0
    monkeypatch.delenv("HEADWATER_REGISTRY__URL")
    code, out, _ = headwater(capsys, "plan", "mine.py", "--json")
    found = json.loads(out)["applying"]
    assert (found["number"], found["needed"]) == (2, False)


def test_plan_goes_on_without_a_broker(monkeypatch, log, capsys) -> None:
    push(log, 1.0)
    assert headwater(capsys, "apply", "mine.py", "--yes")[0] == 0
    monkeypatch.setenv("HEADWATER_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:9")
    Path("mine.py").write_text(VERSION_2, encoding="utf-8")
    code, out, _ = headwater(capsys, "plan", "mine.py")
    assert code == 0
    assert "view sales@2: new, beside sales@1" in out
    assert "the log can't be asked what new views are built from: " in out
    code, _, err = headwater(capsys, "apply", "mine.py", "--yes")
    assert code == 78
    assert "check the address" in err
