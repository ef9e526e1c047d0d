"""The flags of `headwater run`, and the settings that they are for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path  # noqa: TC003 - the command line reads the annotations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwater.config import Flags

__all__ = ["RunFlags"]

_SETTINGS = {
    "namespace": "namespace",
    "bootstrap_servers": "kafka.bootstrap_servers",
    "worker_id": "worker.id",
    "state": "worker.state",
    "archive": "worker.archive",
    "checkpoints": "worker.checkpoints",
    "host": "worker.host",
    "port": "worker.port",
    "advertise": "worker.advertise",
    "metrics_port": "worker.metrics_port",
    "processes": "worker.processes",
    "shards": "worker.shards",
}


@dataclass(frozen=True)
class RunFlags:
    """Settings on the command line; each wins over its variable and over the file.

    Parameters
    ----------
    config
        A TOML file of settings; headwater.toml is read where it is there.
    namespace
        The prefix of topics and groups: workers of one namespace share its work.
    bootstrap_servers
        Kafka's address, host:port, several with commas.
    worker_id
        What this worker is called; the host's name where nothing is given.
    state
        The folder of this host's state.
    archive
        The folder or URL of the archive; "" keeps none.
    checkpoints
        The folder or URL of the checkpoints that workers share.
    host
        The address to listen on.
    port
        The port to listen on; 0 takes a free one.
    advertise
        Where other workers reach this one, host:port.
    metrics_port
        The port of /metrics, /healthz and /readyz.
    processes
        How many worker processes to keep running here.
    shards
        How many shards a new namespace gets.
    """

    config: Path | None = None
    namespace: str | None = None
    bootstrap_servers: str | None = None
    worker_id: str | None = None
    state: str | None = None
    archive: str | None = None
    checkpoints: str | None = None
    host: str | None = None
    port: int | None = None
    advertise: str | None = None
    metrics_port: int | None = None
    processes: int | None = None
    shards: int | None = None

    def settings(self) -> Flags:
        """Return what was given, by flag."""
        return {_flag(name): (key, getattr(self, name)) for name, key in _SETTINGS.items()}

    def arguments(self) -> list[str]:
        """Return what was given, as a process of ours takes it."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        # In one piece: a value may begin with a dash.
        return [f"{_flag(name)}={value}" for name, value in given.items() if value is not None]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
