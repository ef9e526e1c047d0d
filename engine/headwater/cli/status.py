"""`headwater status`: who owns which task of a namespace, how far it is and how fresh."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path  # noqa: TC003 - the command line reads the annotations
from typing import TYPE_CHECKING

from headwater.cli.output import table_console, write_json
from headwater.config import load_config

if TYPE_CHECKING:
    from rich.console import Console

    from headwater.cli.overview import Overview, TaskRow, WorkerRow
    from headwater.flow.status import WorkerStatus

__all__ = ["ask_worker", "show", "status"]


def status(
    *,
    config: Path | None = None,
    namespace: str | None = None,
    bootstrap_servers: str | None = None,
    json: bool = False,
) -> int:
    """Show a namespace's workers and tasks: who has what, how far behind, how fresh.

    Parameters
    ----------
    config
        A TOML file of settings; headwater.toml is read where it is there.
    namespace
        The prefix of topics and groups.
    bootstrap_servers
        Kafka's address, host:port, several with commas.
    json
        Print one JSON document instead of tables.
    """
    flags = {
        "--namespace": ("namespace", namespace),
        "--bootstrap-servers": ("kafka.bootstrap_servers", bootstrap_servers),
    }
    settings = load_config(config, flags=flags)

    import msgspec

    from headwater.cli.overview import overview_of
    from headwater_connectors.log.kafka import KafkaLog

    with closing(KafkaLog(settings.kafka.bootstrap_servers, config=settings.kafka.config)) as log:
        found = overview_of(log, settings.namespace, ask_worker)
    if json:
        write_json(msgspec.to_builtins(found))
        return 0
    show(found, table_console())
    return 0


def ask_worker(target: str) -> WorkerStatus:
    """Return what the worker at `host:port` says of itself."""
    from headwater_serving.peer_client import PeerClient

    with closing(PeerClient(target)) as peer:
        return peer.status()


def show(found: Overview, console: Console) -> None:
    """Write the tables, and under them what needs somebody's attention."""
    from rich.table import Table

    workers = Table("worker", "address", "plan", "tasks", "state", "dead letters", title="Workers")
    for worker in found.workers:
        workers.add_row(*_worker_cells(worker))
    tasks = Table("task", "worker", "state", title="Tasks")
    for title in ("lag", "freshness"):
        tasks.add_column(title, justify="right")
    for task in found.tasks:
        tasks.add_row(*_task_cells(task))
    console.print(f'Namespace "{found.namespace}" of {found.bootstrap_servers}', highlight=False)
    console.print(workers)
    console.print(tasks)
    for line in _troubles(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _worker_cells(worker: WorkerRow) -> list[str]:
    from headwater.flow.size_text import size_text

    tasks = " ".join(f"{count} {kind}" for kind, count in worker.tasks.items()) or "none"
    state = "does not answer" if worker.error is not None else size_text(worker.state_bytes or 0)
    dead = "–" if worker.dead_letters is None else f"{worker.dead_letters:,}"
    plan = {None: "–", 0: "file"}.get(worker.plan, str(worker.plan))
    return [worker.worker, worker.target, plan, tasks, state, dead]


def _task_cells(task: TaskRow) -> list[str]:
    from headwater.cli.run.status_line import duration_text

    lag = "–" if task.lag is None else f"{task.lag:,}"
    freshness = duration_text(task.freshness_ms) if task.kind == "shard" else ""
    # The brackets are markup to rich otherwise.
    name = f"{task.kind} {task.topic}\\[{task.partition}]"
    return [name, task.worker or "nobody", task.state, lag, freshness]


def _troubles(found: Overview) -> list[str]:
    lines = [
        f"{worker.worker} does not answer: {worker.error}"
        for worker in found.workers
        if worker.error is not None
    ]
    unowned = sum(task.state == "unowned" for task in found.tasks)
    if unowned:
        lines.append(f"tasks without a worker: {unowned}; start one with headwater run")
    lines += [
        f"{worker.worker} loads the past of new views: {worker.history_left:,} records to go, they"
        " are WARMING until then"
        for worker in found.workers
        if worker.history_left
    ]
    lines += [
        f"{worker.worker} runs plan {worker.plan} and can't run a newer one: {worker.plan_refused}"
        for worker in found.workers
        if worker.plan_refused is not None
    ]
    lines += [
        f"group {name} is rebalancing: owners are as the workers say"
        for name, state in found.groups.items()
        if state == "rebalancing"
    ]
    return lines
