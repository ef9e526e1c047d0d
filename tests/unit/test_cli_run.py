from __future__ import annotations

import functools
import json
import logging
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from contextlib import nullcontext
from pathlib import Path

import pytest
from prometheus_client import Counter

from headwater.cli import app, main
from headwater.cli.definitions_file import load_definitions
from headwater.cli.run import command
from headwater.cli.run.command import run_worker
from headwater.cli.run.flags import RunFlags
from headwater.cli.run.signals import Signals
from headwater.cli.run.worker_process import Lifecycle, Limits, Timing, registry_of, work
from headwater.config import Config, load_config
from headwater.errors import HeadwaterError, StateError
from headwater.flow.metrics import Metrics
from headwater.flow.plans_topic import PlansTopic
from headwater.flow.status import WorkerStatus
from headwater.plan.document import write_document
from headwater.plan.plan import compile_plan
from headwater_connectors.log.memory import MemoryLog
from headwater_serving.monitoring import Monitoring

PATIENCE_S = 60
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


class FakeWorker:
    """A worker that notes what is asked of it, and does what a test says."""

    target = "127.0.0.1:6566"

    def __init__(self, *_arguments: object) -> None:
        self.arguments = _arguments
        self.calls: list[str] = []
        self.error: Exception | None = None
        self.start_error: Exception | None = None
        self.stop_error: Exception | None = None
        self.may_start = threading.Event()
        self.may_start.set()
        self.may_stop = threading.Event()
        self.may_stop.set()
        self.on_check = lambda: None

    def start(self) -> None:
        self.calls.append("start")
        assert self.may_start.wait(PATIENCE_S)
        if self.start_error is not None:
            raise self.start_error
        self.metrics = Metrics()
        self.calls.append("started")

    def check(self) -> None:
        self.on_check()
        if self.error is not None:
            raise self.error

    def heartbeat_age_s(self) -> float:
        return 1.5

    def is_ready(self) -> bool:
        return True

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            worker="w",
            target=self.target,
            namespace="n",
            started_us=0,
            tasks=(),
            state_bytes=0,
            backlog_rows=0,
            dead_letters=0,
        )

    def stop(self) -> None:
        self.calls.append("stop")
        assert self.may_stop.wait(PATIENCE_S)
        if self.stop_error is not None:
            raise self.stop_error
        self.calls.append("stopped")


class Line:
    """A status line that counts."""

    shown = 0

    def show(self, status) -> None:
        assert status().worker == "w"
        self.shown += 1


class Killed(BaseException):
    """What the end of the process is in a test."""


class Run:
    """`work` with a fake worker, a clock that moves as it waits, and no real end."""

    def __init__(self) -> None:
        self.worker = FakeWorker()
        self.signals = Signals()
        self.line = Line()
        self.now_s = 0.0
        self.limits = Limits(stop_s=20, start_s=300)
        self.lifecycle = Lifecycle(self.worker, self.limits, clock=lambda: self.now_s)
        self.on_wait = lambda: None
        self.may_release = threading.Event()
        self.may_release.set()
        self.released_after: list[str] | None = None

    def _release(self) -> None:
        assert self.may_release.wait(PATIENCE_S)
        self.released_after = list(self.worker.calls)

    def _wait(self, seconds: float) -> None:
        self.now_s += seconds
        time.sleep(0.001)  # other threads need to get somewhere
        self.on_wait()

    def _kill(self, code: int) -> None:
        raise Killed(code)

    def __call__(self) -> int:
        timing = Timing(
            lambda: self.now_s, self._wait, self._kill, last_resort=lambda _limit_s: nullcontext()
        )
        return work(
            self.worker,
            self.lifecycle,
            self.signals,
            self.line,
            self.limits,
            release=self._release,
            timing=timing,
        )

    def signal_once_running(self, number: int = signal.SIGTERM) -> None:
        self.worker.on_check = lambda: self.line.shown > 3 and self.signals.got.append(number)


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_worker_in_order(run, number, code) -> None:
    run.signal_once_running(number)
    assert run() == code
    assert run.worker.calls == ["start", "started", "stop", "stopped"]
    assert run.line.shown > 3
    assert run.lifecycle.is_stopping


def test_a_task_that_failed_ends_the_worker_with_its_error(run) -> None:
    run.worker.error = StateError("topic orders was made again; run headwater stream reset")
    with pytest.raises(StateError, match="made again"):
        run()
    assert run.worker.calls == ["start", "started", "stop", "stopped"]


def test_a_start_that_failed_has_nothing_to_stop(run) -> None:
    run.worker.start_error = StateError("another number of shards")
    with pytest.raises(StateError, match="another number"):
        run()
    assert run.worker.calls == ["start"]


def test_a_failure_to_stop_is_an_error_too(run) -> None:
    run.signal_once_running()
    run.worker.stop_error = HeadwaterError("the last checkpoint could not be written")
    with pytest.raises(HeadwaterError, match="last checkpoint"):
        run()


def test_the_first_failure_is_the_one_that_is_told(run, caplog) -> None:
    run.worker.error = StateError("the cause")
    run.worker.stop_error = HeadwaterError("what came of it")
    with pytest.raises(StateError, match="the cause"):
        run()
    assert "what came of it" in caplog.text


def test_who_has_not_stopped_in_time_is_killed_with_a_line_that_says_so(run, capsys) -> None:
    run.signal_once_running()
    run.worker.may_stop.clear()
    with pytest.raises(Killed, match="1"):
        run()
    assert run.now_s == pytest.approx(20, abs=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("headwater: error: the worker has not stopped within 20 s; it is killed")
    run.worker.may_stop.set()


@pytest.mark.parametrize("fails", ["nothing", "start", "stop"])
def test_what_it_was_made_with_is_released_when_it_has_stopped(run, fails) -> None:
    run.signal_once_running()
    if fails != "nothing":
        setattr(run.worker, f"{fails}_error", StateError("it can't"))
    with nullcontext() if fails == "nothing" else pytest.raises(StateError):
        run()
    calls = ["start", "started", "stop", "stopped"]
    assert run.released_after == {"nothing": calls, "start": calls[:1], "stop": calls[:3]}[fails]


def test_a_release_that_hangs_is_killed_and_what_made_it_end_was_said(run, capsys, caplog) -> None:
    run.worker.error = StateError("records are lost")
    run.may_release.clear()
    with caplog.at_level(logging.INFO), pytest.raises(Killed, match="1"):
        run()
    run.may_release.set()
    assert "has not stopped within 20 s" in capsys.readouterr().err
    assert "records are lost" in caplog.text


def test_a_second_ctrl_c_kills_at_once(run) -> None:
    run.signal_once_running(signal.SIGINT)
    run.worker.may_stop.clear()
    run.on_wait = lambda: "stop" in run.worker.calls and run.signals.got.append(signal.SIGINT)
    with pytest.raises(Killed, match="130"):
        run()
    assert run.now_s < 5
    run.worker.may_stop.set()


def test_a_signal_during_the_start_waits_for_it_and_stops(run) -> None:
    run.worker.may_start.clear()

    def on_wait() -> None:
        if not run.signals.got:
            run.signals.got.append(signal.SIGTERM)
        elif run.now_s > 5:
            run.worker.may_start.set()

    run.on_wait = on_wait
    assert run() == 0
    assert run.worker.calls == ["start", "started", "stop", "stopped"]
    assert run.line.shown == 0


def test_a_start_that_hangs_does_not_hold_up_the_end(run) -> None:
    run.worker.may_start.clear()
    run.signals.got.append(signal.SIGTERM)
    with pytest.raises(Killed, match="1"):
        run()
    run.worker.may_start.set()


# Health


def test_a_worker_is_healthy_and_not_ready_while_it_starts(run) -> None:
    lifecycle = run.lifecycle
    run.worker.error = StateError("not asked yet")
    lifecycle.check()
    assert not lifecycle.is_ready()
    run.now_s = 300.0
    assert lifecycle.heartbeat_age_s() == 0.0
    run.now_s = 320.0
    assert lifecycle.heartbeat_age_s() == 20.0


def test_a_worker_that_runs_speaks_for_itself_until_it_stops(run) -> None:
    lifecycle = run.lifecycle
    lifecycle.has_started = True
    assert (lifecycle.heartbeat_age_s(), lifecycle.is_ready()) == (1.5, True)
    run.worker.error = StateError("gone")
    with pytest.raises(StateError):
        lifecycle.check()
    lifecycle.is_stopping = True
    lifecycle.check()
    assert (lifecycle.heartbeat_age_s(), lifecycle.is_ready()) == (0.0, False)


def test_metrics_are_there_before_and_after_the_worker_has_some(run) -> None:
    import headwater

    worker, lifecycle = run.worker, run.lifecycle
    registry = registry_of(worker, lifecycle, max_staleness_s=2.5)
    assert (
        registry.get_sample_value("headwater_build_info", {"version": headwater.__version__}) == 1
    )
    assert registry.get_sample_value("process_start_time_seconds") is not None
    worker.metrics = Metrics()
    Counter("made_later", "Made later", registry=worker.metrics.registry).inc(2)
    assert registry.get_sample_value("made_later_total") == 2


def test_health_is_a_metric_too_and_what_is_stale_stands_beside_it(run) -> None:
    registry = registry_of(run.worker, run.lifecycle, max_staleness_s=2.5)
    assert registry.get_sample_value("headwater_max_staleness_seconds") == 2.5
    run.now_s = 320.0
    assert registry.get_sample_value("headwater_heartbeat_age_seconds") == 20.0
    assert registry.get_sample_value("headwater_ready") == 0
    run.lifecycle.has_started = True
    assert registry.get_sample_value("headwater_heartbeat_age_seconds") == 1.5
    assert registry.get_sample_value("headwater_ready") == 1


# Signals


def test_signals_are_kept_and_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.got == [signal.SIGTERM]
        assert signals.code == 0
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.code == 130
    assert signal.getsignal(signal.SIGTERM) is before


# The command


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
