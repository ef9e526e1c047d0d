"""The settings, with their defaults and bounds; what they mean is in docs/running.md."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_settings import PydanticBaseSettingsSource

__all__ = [
    "ArchiveConfig",
    "AuditConfig",
    "ClientConfig",
    "Config",
    "KafkaConfig",
    "RegistryConfig",
    "SchemaRegistryConfig",
    "WorkerConfig",
    "is_secret",
]

_PORT_MAX = 65_535
_ANY_HOST = frozenset(("", "0.0.0.0", "::"))  # noqa: S104 - compared with, not bound to
_SECRET = re.compile(
    r"^registry|password|secret|token|jaas|passphrase|basic[._]auth|oauthbearer\.config|\.pem$"
    r"|\.key$|_key$|_key_base64$|proxy_url"
)


def is_secret(key: str) -> bool:
    """Tell whether the value of a setting, or of a library's key, must not be shown."""
    return _SECRET.search(key) is not None


def _not_bool(value: object) -> object:
    # To pydantic `true` is the number 1.
    if isinstance(value, bool):
        msg = "must be a number"
        raise ValueError(msg)  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def _location(value: object) -> object:
    """Make a text a folder, unless it is the URL of an object store."""
    if not isinstance(value, str):
        return value
    if "://" not in value:
        return Path(value)
    if not value.startswith(_SCHEMES):
        msg = f"must be a folder, or a URL that begins with {', '.join(_SCHEMES)}"
        raise ValueError(msg)
    return value


_SCHEMES = ("s3://", "gs://", "az://")
_Location = Annotated[Path | str, BeforeValidator(_location)]
_Int = Annotated[int, BeforeValidator(_not_bool)]
_Seconds = Annotated[float, BeforeValidator(_not_bool), Field(gt=0, le=86_400, allow_inf_nan=False)]
_Port = Annotated[_Int, Field(ge=0, le=_PORT_MAX)]
# It is a folder, a part of Kafka's names and of metrics.
_Name = Annotated[
    str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaConfig(_Section):
    """Where Kafka is, and librdkafka's own dotted keys, passed through to every client."""

    bootstrap_servers: Annotated[str, Field(min_length=1)] = "127.0.0.1:9092"
    config: Mapping[str, str] = Field(default_factory=dict)

    @field_validator("config", mode="before")
    @classmethod
    def _as_text(cls, given: object) -> object:
        return _texts(given)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Hide secrets wherever this is shown."""
        return [("bootstrap_servers", self.bootstrap_servers), ("config", _shown(self.config))]


class WorkerConfig(_Section):
    """A worker: its folders, its addresses, its limits.

    With `processes` above 1 each of them has a slot, 0 and up: its ports are that much higher,
    and its id ends with the slot.
    """

    id: _Name = Field(default_factory=socket.gethostname)
    definitions: str | None = None
    state: Path = Path("headwater-state")
    archive: _Location | None = Path("headwater-archive")
    checkpoints: _Location = Path("headwater-state/checkpoints")
    host: str = "127.0.0.1"
    port: _Port = 6566
    advertise: str = ""
    metrics_host: str = "127.0.0.1"
    metrics_port: _Port = 9464
    processes: Annotated[_Int, Field(ge=1, le=256)] = 1
    shards: Annotated[_Int, Field(ge=1, le=4_096)] = 16
    memory_budget_bytes: Annotated[_Int, Field(ge=1 << 20)] = 512 << 20
    # How far before the newest event a read may ask; single events are kept for that long, with
    # inf for ever.
    read_back_s: Annotated[float, BeforeValidator(_not_bool), Field(gt=0)] = 60
    # Keep what is below the checkpoints in the exchange, to compute again what was served.
    keep_exchange: bool = False
    session_timeout_ms: Annotated[_Int, Field(ge=1_000, le=3_600_000)] = 15_000
    max_staleness_ms: Annotated[_Int, Field(ge=1, le=86_400_000)] = 5_000
    on_stale: Literal["mark", "refuse"] = "mark"
    stop_timeout_s: _Seconds = 20
    watchdog_s: _Seconds = 30

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: object) -> object:
        """Replace what is empty by what it stands for."""
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        if filled.get("id") == "":
            del filled["id"]
        if filled.get("archive") == "":
            filled["archive"] = None
        state = filled.get("state", "headwater-state")
        if filled.get("checkpoints", "") == "" and isinstance(state, str | Path):
            filled["checkpoints"] = Path(state) / "checkpoints"
        return filled

    @field_validator("advertise")
    @classmethod
    def _has_port(cls, given: str) -> str:
        host, _, port = given.rpartition(":")
        if given and not (host and port.isdecimal() and 0 < int(port) <= _PORT_MAX):
            msg = 'must be host:port, such as "worker-1.example.com:6566"'
            raise ValueError(msg)
        return given

    @model_validator(mode="after")
    def _ports_fit(self) -> WorkerConfig:
        for name, port in (("port", self.port), ("metrics_port", self.metrics_port)):
            if port + self.processes - 1 > _PORT_MAX:
                msg = f"{self.processes} processes from {name} {port} go beyond {_PORT_MAX}"
                raise ValueError(msg)
        apart = abs(self.port - self.metrics_port)
        if 0 not in {self.port, self.metrics_port} and apart < self.processes:
            msg = (
                f"port {self.port} and metrics_port {self.metrics_port} are too close together"
                f" for {self.processes} processes"
            )
            raise ValueError(msg)
        return self

    def id_of(self, slot: int | None) -> str:
        """Return the id of a process; without a slot it is the worker's."""
        return self.id if slot is None else f"{self.id}-{slot}"

    def port_of(self, slot: int | None) -> int:
        """Return the gRPC port of a process; 0 stays 0, any free one."""
        return self.port and self.port + (slot or 0)

    def metrics_port_of(self, slot: int | None) -> int:
        """Return the monitoring port of a process; 0 stays 0, any free one."""
        return self.metrics_port and self.metrics_port + (slot or 0)

    def address_of(self, slot: int | None, port: int | None = None) -> str:
        """Return the `host:port` that others reach a process by.

        `port` is the one it listens on, where any free one was asked for.
        """
        if self.advertise:
            host, _, base = self.advertise.rpartition(":")
            return f"{host}:{int(base) + (slot or 0)}"
        # Who listens everywhere is found by the host's name.
        host = socket.gethostname() if self.host in _ANY_HOST else self.host
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"{host}:{self.port_of(slot) if port is None else port}"


class ArchiveConfig(_Section):
    """How the archive is kept: the size of its files, and for how long; 0 days is for ever."""

    file_bytes: Annotated[_Int, Field(ge=1 << 20, le=1 << 30)] = 128 << 20
    file_rows: Annotated[_Int, Field(ge=1_000, le=1 << 28)] = 4_000_000
    keep_days: Annotated[_Int, Field(ge=0, le=36_500)] = 0
    grace_hours: Annotated[_Int, Field(ge=1, le=8_760)] = 24


class AuditConfig(_Section):
    """Which served vectors are kept to be audited: how many requests a second, where, how long.

    They hold keys and request inputs, as sent; so none are kept unless that is asked for.
    """

    samples_per_s: Annotated[float, BeforeValidator(_not_bool), Field(ge=0, le=100)] = 0
    samples: _Location = Path("headwater-samples")
    keep_days: Annotated[_Int, Field(ge=1, le=36_500)] = 7


class ClientConfig(_Section):
    """Which worker `hw.connect()` talks to: "" is the worker configured here."""

    target: str = ""


class SchemaRegistryConfig(_Section):
    """Where writers' schemas are; the credentials, "user:password", go to that URL alone."""

    url: str = ""
    basic_auth: str = Field(default="", repr=False)


class RegistryConfig(_Section):
    """Where the registry is: a file of SQLite, or a PostgreSQL server with user and password."""

    url: Annotated[str, Field(min_length=1, repr=False)] = "sqlite:///headwater-registry.db"


class Config(BaseSettings):
    """All settings. Built by hand it has defaults; `load_config` reads the sources."""

    model_config = SettingsConfigDict(
        env_prefix="HEADWATER_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    namespace: _Name = "default"
    kafka: KafkaConfig = Field(default_factory=KafkaConfig)
    worker: WorkerConfig = Field(default_factory=WorkerConfig)
    archive: ArchiveConfig = Field(default_factory=ArchiveConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)
    client: ClientConfig = Field(default_factory=ClientConfig)
    schema_registry: SchemaRegistryConfig = Field(default_factory=SchemaRegistryConfig)
    registry: RegistryConfig = Field(default_factory=RegistryConfig)
    object_store: Mapping[str, str] = Field(default_factory=dict)

    @field_validator("object_store", mode="before")
    @classmethod
    def _as_text(cls, given: object) -> object:
        return _texts(given)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Hide secrets wherever this is shown."""
        for name, value in super().__repr_args__():
            yield name, _shown(self.object_store) if name == "object_store" else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is passed alone: `load_config` reads the rest, and knows where it stood."""
        return (init_settings,)

    @property
    def target(self) -> str:
        """The worker that a client here talks to, `host:port`."""
        return self.client.target or self.worker.address_of(None)


def _shown(options: Mapping[str, str]) -> dict[str, str]:
    return {key: "***" if is_secret(key) else value for key, value in options.items()}


def _texts(given: object) -> object:
    """Write numbers and switches as libraries want them."""
    if not isinstance(given, dict):
        return given
    return {key: _text(key, value) for key, value in given.items()}


def _text(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    msg = f'"{key}" must be a text, a number or a switch'
    raise ValueError(msg)
