"""`headwater run`: a worker of a namespace, or several under a supervisor, until told to stop."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Protocol

from cyclopts import Parameter

from headwater.cli.place import reached
from headwater.cli.run.flags import RunFlags
from headwater.config import load_config
from headwater.errors import ConfigError, HeadwaterError
from headwater.logs import get_logger

if TYPE_CHECKING:
    from headwater.cli.run.log_lines import LogLines
    from headwater.cli.run.signals import Signals
    from headwater.cli.run.status_line import StatusLine
    from headwater.cli.run.supervisor import Supervisor
    from headwater.cli.run.worker_process import Worker
    from headwater.config import Config
    from headwater.plan.plan import Plan
    from headwater_connectors.log.kafka import KafkaLog

    class MakeWorker(Protocol):
        """Makes a worker; with the plan's number it follows the plans topic."""

        def __call__(
            self, plan: Plan, log: KafkaLog, config: Config, slot: int | None, *, number: int | None
        ) -> Worker: ...


__all__ = ["run", "run_worker"]

_log = get_logger(__name__)

_STEP_S = 0.2
# A loop that stands still is told before the watchdog acts on it.
_STALLED_PART = 3
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - to be asked


def run(
    file: str | None = None,
    /,
    *,
    flags: Annotated[RunFlags | None, Parameter(name="*")] = None,
    slot: Annotated[int | None, Parameter(show=False)] = None,
) -> int:
    """Run a worker: read the streams, keep the features fresh, archive, and answer gRPC.

    Start more of them, here or elsewhere, and they share the work. SIGTERM or Ctrl-C hands it
    over and ends the worker; a second Ctrl-C ends it at once.

    Parameters
    ----------
    file
        A Python file, or a module such as my.features; else what worker.definitions names, else
        what is applied to the namespace.
    """
    flags = flags or RunFlags()
    config = load_config(flags.config, flags=flags.settings())
    target = file or config.worker.definitions
    if slot is None and config.worker.processes > 1:
        return _supervise([*([target] if target else []), *flags.arguments()], config)
    if slot is not None:
        return _run_in_slot(target, config, slot)
    return run_worker(target, config, None)


def _run_in_slot(target: str | None, config: Config, slot: int) -> int:
    from headwater_connectors.log.log import LogUnreachableError

    try:
        return run_worker(target, config, slot)
    except LogUnreachableError as error:
        # Our supervisor has reached the broker: it is gone for now, and the settings are right.
        raise HeadwaterError(str(error)) from error


def run_worker(
    target: str | None, config: Config, slot: int | None, make_worker: MakeWorker | None = None
) -> int:
    """Run one worker in this process until a signal or a failure; return the exit code.

    Without a `target` it runs what is applied to the namespace; NotFoundError if nothing is.
    """
    from headwater.cli.definitions_file import load_definitions
    from headwater.cli.run.signals import Signals
    from headwater.cli.run.worker_process import Lifecycle, Limits, registry_of, work
    from headwater.plan.plan import compile_plan
    from headwater_serving.monitoring import Monitoring

    settings = config.worker
    limits = Limits(stop_s=settings.stop_timeout_s)
    logs, line = _shown(settings.id_of(slot), is_alone=slot is None)
    with Signals() as signals, logs, line:
        if slot is not None:
            _end_with_supervisor(signals)
        given = None if target is None else compile_plan(load_definitions(target))
        with closing(reached(config)) as log:
            number, plan = _chosen(given, log, config.namespace)
            worker = (make_worker or _cluster_worker())(plan, log, config, slot, number=number)
            lifecycle = Lifecycle(worker, limits, clock=time.monotonic)
            monitoring = Monitoring(
                registry_of(worker, lifecycle, max_staleness_s=settings.max_staleness_ms / 1_000),
                lifecycle,
                host=settings.metrics_host,
                port=settings.metrics_port_of(slot),
                stalled_after_s=settings.watchdog_s / _STALLED_PART,
            )
            with monitoring:
                # Closed within the time to stop: a consumer's close has been seen to hang.
                return work(worker, lifecycle, signals, line, limits, release=log.close)


def _chosen(given: Plan | None, log: KafkaLog, namespace: str) -> tuple[int | None, Plan]:
    """Return the plan to run, and its number where it is what is applied; a file's has none."""
    from headwater.cli.applied import applied_plan
    from headwater.flow.plans_topic import PlansTopic

    if given is None:
        return applied_plan(log, namespace)
    if number := PlansTopic(log, namespace).number:
        cure = "start it without a file to follow what is applied"
        _log.warning("applied_plan_not_followed", number=number, cure=cure)
    return None, given


def _cluster_worker() -> MakeWorker:
    from headwater.cluster_worker import ClusterWorker

    return ClusterWorker


def _shown(worker: str, *, is_alone: bool) -> tuple[LogLines, StatusLine]:
    """Return where this process's logs and its status go, both to be entered: to stderr."""
    from rich.console import Console

    from headwater.cli.run.log_lines import LogLines
    from headwater.cli.run.status_line import LiveLine, LoggedLine

    console = Console(stderr=True)
    if not (is_alone and console.is_terminal):
        return LogLines(_write_line, worker), LoggedLine(time.monotonic)

    def above(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    return LogLines(above, worker), LiveLine(console, time.monotonic)


def _write_line(text: str) -> None:
    # One write: lines of several processes don't mix.
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _end_with_supervisor(signals: Signals) -> None:
    """Stop when our supervisor has ended: it holds the other end of our standard input."""

    def wait_for_the_end() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        if not signals.got:
            signals.got.append(signal.SIGTERM)

    threading.Thread(target=wait_for_the_end, name="headwater-orphan", daemon=True).start()


def _supervise(arguments: list[str], config: Config) -> int:
    from headwater.cli.run.child import Probes, start_worker
    from headwater.cli.run.signals import Signals
    from headwater.cli.run.supervisor import Policy, Supervisor

    settings = config.worker
    if settings.metrics_port == 0:
        msg = (
            "worker.metrics_port is 0: the supervisor asks its processes there whether they live;"
            " give a port with --metrics-port"
        )
        raise ConfigError(msg)
    policy = Policy(watchdog_s=settings.watchdog_s, stop_timeout_s=settings.stop_timeout_s)
    ports = [settings.metrics_port_of(slot) for slot in range(settings.processes)]
    host = _ANY_HOST.get(settings.metrics_host, settings.metrics_host)
    logs, _ = _shown(settings.id, is_alone=False)
    with Signals() as signals, logs:
        reached(config).close()
        with Probes(host, ports, clock=time.monotonic) as probes:
            supervisor = Supervisor(
                lambda slot: start_worker(arguments, slot),
                probes.healthy_at,
                settings.processes,
                policy,
                clock=time.monotonic,
                jitter=random.Random().random,  # noqa: S311 - spreads restarts, guards nothing
            )
            return _run_on(supervisor, signals)


def _run_on(supervisor: Supervisor, signals: Signals) -> int:
    """Step until everything has ended."""
    heard = 0
    while (code := supervisor.step()) is None:
        while heard < len(signals.got):
            heard += 1
            supervisor.stop(signals.code)
        time.sleep(_STEP_S)
    return code
