from __future__ import annotations

import functools
import json
import logging
import os
import signal
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from fake_worker import PATIENCE_S, FakeWorker

from headwater.cli import app, main
from headwater.cli.definitions_file import load_definitions
from headwater.cli.run import command
from headwater.cli.run.command import run_worker
from headwater.cli.run.flags import RunFlags
from headwater.cli.run.signals import Signals
from headwater.config import Config, load_config
from headwater.flow.plans_topic import PlansTopic
from headwater.plan.document import write_document
from headwater.plan.plan import compile_plan
from headwater_connectors.log.memory import MemoryLog
from headwater_serving.monitoring import Monitoring

FEATURES = """
import polars as pl
import headwater as hw

orders = hw.stream(
    "orders", schema={"shop": pl.String, "ts": pl.Int64}, event_time=hw.epoch("ts", "ms")
)
sales = hw.view(
    "sales",
    version=1,
    features=orders.group_by(hw.entity("shop", key="shop")).window("1h").agg(n=hw.count()),
)
"""


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("features.py").write_text(FEATURES, encoding="utf-8")
    return "features.py"


def test_flags_become_settings_and_go_on_to_the_processes() -> None:
    arguments = ["run", "f.py", "--namespace", "n", "--bootstrap-servers=k:1", "--worker-id", "w"]
    arguments += ["--state", "s", "--archive", "", "--checkpoints", "c", "--host", "0.0.0.0"]
    arguments += ["--port", "0", "--advertise", "h:1", "--metrics-port", "1", "--processes", "3"]
    called, bound, _ = app.parse_args([*arguments, "--shards", "8"], exit_on_error=False)
    assert called is command.run
    flags = bound.arguments["flags"]
    config = load_config(flags=flags.settings(), environ={})
    assert (config.namespace, config.kafka.bootstrap_servers) == ("n", "k:1")
    worker = config.worker
    assert (worker.id, worker.state, worker.archive) == ("w", Path("s"), None)
    assert (worker.checkpoints, worker.host, worker.port) == (Path("c"), "0.0.0.0", 0)
    assert (worker.advertise, worker.metrics_port) == ("h:1", 1)
    assert (worker.processes, worker.shards) == (3, 8)
    again, bound, _ = app.parse_args(
        ["run", "f.py", *flags.arguments(), "--slot", "2"], exit_on_error=False
    )
    assert bound.arguments["flags"] == flags
    assert bound.arguments["slot"] == 2
    assert again is command.run


def test_help_shows_every_flag_but_the_one_for_ourselves(capsys) -> None:
    assert main(["run", "--help"]) == 0
    said = capsys.readouterr().out
    for name in RunFlags.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in said
    assert "--slot" not in said
    assert "Kafka's address" in said


class FakeLog(MemoryLog):
    """A log that is there, and tells whether it was closed."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


def _get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("is_applied", [False, True])
def test_a_worker_runs_with_its_plan_and_answers_for_its_health(
    features, monkeypatch, capsys, is_applied: bool
) -> None:
    log = FakeLog()
    if is_applied:
        applied = write_document(compile_plan(load_definitions(features)), "default")
        assert PlansTopic(log, "default").apply(applied, after=0)
    monkeypatch.setattr(command, "reached", lambda _: log)
    monkeypatch.setattr(command, "_end_with_supervisor", lambda _: None)
    ports: list[int] = []
    start = Monitoring.start
    monkeypatch.setattr(Monitoring, "start", lambda self: ports.append(start(self)))
    found: dict[str, object] = {}
    made: list[FakeWorker] = []

    def make(*arguments: object, number: int | None) -> FakeWorker:
        assert number is None  # the plan comes from a file
        worker = FakeWorker(*arguments)
        worker.on_check = functools.partial(ask_all, worker)
        made.append(worker)
        return worker

    def ask_all(worker: FakeWorker) -> None:
        if found:
            return
        worker.on_check = lambda: None
        found.update({path: _get(ports[0], path) for path in ("/healthz", "/readyz", "/metrics")})
        os.kill(os.getpid(), signal.SIGTERM)

    config = Config.model_validate({"worker": {"metrics_port": 0, "id": "w"}})
    assert run_worker(features, config, 3, make) == 0
    (worker,) = made
    plan, its_log, its_config, slot = worker.arguments
    assert (set(plan.streams), its_log, its_config, slot) == ({"orders"}, log, config, 3)
    assert log.is_closed
    assert worker.calls == ["start", "started", "stop", "stopped"]
    status, body = found["/healthz"]
    assert (status, json.loads(body)["status"]) == (200, "ok")
    assert found["/readyz"][0] == 200
    assert b"headwater_build_info" in found["/metrics"][1]
    # One that runs a file follows nothing, and says so where there is something to follow.
    assert ("applied_plan_not_followed" in capsys.readouterr().err) == is_applied


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--port", "x"], 2, "--port"),
        (["--port", "70000"], 78, "--port: worker.port is 70000, must be at most 65535"),
        (["--config", "no.toml"], 78, "no file no.toml, which --config names"),
        (["--namespace", "a b"], 78, '--namespace: namespace is "a b", must begin with'),
        (["none.py"], 2, "no file none.py"),
        (["--processes", "2", "--metrics-port", "0"], 78, "worker.metrics_port is 0"),
    ],
)
def test_a_wrong_start_is_one_line_and_its_exit_code(
    features, capsys, arguments, code, said
) -> None:
    assert main(["run", *arguments]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("headwater: error: ")
    assert said in line


@pytest.mark.parametrize("more", [[], ["--processes", "2"]])
def test_an_unreachable_broker_is_one_line_and_78(features, capsys, monkeypatch, more) -> None:
    from headwater_connectors.log import kafka

    quick = functools.partial(kafka.KafkaLog, timeout_s=0.3)
    monkeypatch.setattr(kafka, "KafkaLog", quick)
    assert main(["run", "--bootstrap-servers", "127.0.0.1:1", *more]) == 78
    lines = [one for one in capsys.readouterr().err.splitlines() if "error: " in one]
    (line,) = lines
    assert "no answer from Kafka at 127.0.0.1:1" in line
    assert "check the address" in line


def test_a_process_of_a_supervisor_is_worth_starting_again_when_the_broker_is_gone(
    features, capsys, monkeypatch
) -> None:
    from headwater_connectors.log import kafka

    monkeypatch.setattr(kafka, "KafkaLog", functools.partial(kafka.KafkaLog, timeout_s=0.3))
    monkeypatch.setattr(command, "_end_with_supervisor", lambda _: None)
    assert main(["run", "--bootstrap-servers", "127.0.0.1:1", "--slot", "0"]) == 1
    assert "no answer from Kafka" in capsys.readouterr().err


def test_a_process_ends_when_its_supervisor_has(monkeypatch) -> None:
    ours, theirs = os.pipe()
    with os.fdopen(ours) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        signals = Signals()
        command._end_with_supervisor(signals)
        (watcher,) = [one for one in threading.enumerate() if one.name == "headwater-orphan"]
        os.write(theirs, b"x")
        assert signals.got == []
        os.close(theirs)
        watcher.join(PATIENCE_S)
        assert signals.got == [signal.SIGTERM]


class FakeSupervisor:
    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self.stops: list[int] = []
        self.steps = 0

    def stop(self, code: int) -> None:
        self.stops.append(code)

    def step(self) -> int | None:
        self.steps += 1
        if self.steps in {2, 4}:
            self.signals.got.append(signal.SIGINT)
        return 130 if self.steps == 6 else None


def test_every_signal_reaches_the_supervisor(monkeypatch) -> None:
    monkeypatch.setattr(command, "_STEP_S", 0)
    signals = Signals()
    supervisor = FakeSupervisor(signals)
    assert command._run_on(supervisor, signals) == 130
    assert supervisor.stops == [130, 130]


@pytest.fixture(autouse=True)
def _logs_stay_as_they_are():
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    yield
    assert (list(root.handlers), root.level) == before
