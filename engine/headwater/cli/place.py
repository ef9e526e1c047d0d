"""Where a command acts: a namespace on Kafka, or the folder of an embedded store."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.config import load_config
from headwater.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headwater.config import Config
    from headwater.definitions.stream import Stream
    from headwater.flow.plans_topic import PlansTopic
    from headwater.flow.starts import Start
    from headwater.registry.reach import Reach
    from headwater.registry.registry import Registry
    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.formats.schema_registry import RegistrySettings
    from headwater_connectors.log.kafka import KafkaLog
    from headwater_connectors.log.log import Log

__all__ = ["Place", "PlaceFlags", "clock_us", "reached"]

REGISTRY_FILE = "registry.db"


def clock_us() -> int:
    """Return the time in µs UTC."""
    return time.time_ns() // 1_000


@dataclass(frozen=True)
class PlaceFlags:
    """Where a command acts.

    Parameters
    ----------
    folder
        The folder of an embedded store; without it the namespace is on Kafka.
    config
        A TOML file of settings; headwater.toml is read where it is there.
    namespace
        The prefix of topics and groups.
    bootstrap_servers
        Kafka's address, host:port, several with commas.
    """

    folder: Path | None = None
    config: Path | None = None
    namespace: str | None = None
    bootstrap_servers: str | None = None

    def settings(self) -> Config:
        """Return the settings of flags, variables and the file."""
        flags = {
            "--namespace": ("namespace", self.namespace),
            "--bootstrap-servers": ("kafka.bootstrap_servers", self.bootstrap_servers),
        }
        return load_config(self.config, flags=flags)

    @property
    def has_store(self) -> bool:
        """Whether the folder holds a store."""
        from headwater.flow.local_folder import LocalFolder

        return LocalFolder.shards_of(self.folder) is not None

    def namespace_of(self, config: Config) -> str:
        """Return the namespace; a folder has one of its own."""
        from headwater.flow.local_folder import LOCAL_NAMESPACE

        return config.namespace if self.folder is None else LOCAL_NAMESPACE

    def registry(self, config: Config) -> Registry:
        """Return the registry; a folder has one of its own, unless another is configured."""
        from headwater.registry.registry import Registry

        if self.folder is None or config.registry.model_fields_set:
            return Registry(config.registry.url)
        return Registry(f"sqlite:///{self.folder.absolute() / REGISTRY_FILE}")

    @contextmanager
    def opened(self) -> Iterator[Place]:
        """Open the log; a folder is made if it isn't there.

        Raises LogUnreachableError, ConfigError or StateError if it can't be.
        """
        config = self.settings()
        registry, namespace = self.registry(config), self.namespace_of(config)
        if self.folder is None:
            log, starts, archive = _on_kafka(config)
        else:
            log, starts, archive = _in_folder(self.folder)
        try:
            yield _place(namespace, registry, log, starts, archive, config)
        finally:
            log.close()


def reached(config: Config) -> KafkaLog:
    """Return the log; an address or credentials that are wrong are told now, in one line."""
    from headwater_connectors.log.kafka import KafkaLog

    log = KafkaLog(config.kafka.bootstrap_servers, config=config.kafka.config)
    try:
        log.cluster.brokers()
    except BaseException:
        log.close()
        raise
    return log


def _on_kafka(config: Config) -> tuple[Log, Mapping[str, Start], Archive | None]:
    log = reached(config)
    location = config.worker.archive
    if location is None or (isinstance(location, Path) and not location.is_dir()):
        return log, {}, None
    return log, {}, _archive(location, config.object_store)


def _in_folder(path: Path) -> tuple[Log, Mapping[str, Start], Archive | None]:
    from headwater.flow.local_folder import LocalFolder, local_settings
    from headwater_connectors.log.embedded import EmbeddedLog

    folder = LocalFolder(path, local_settings(path))
    archive = _archive(folder.archive, {}) if folder.archive.is_dir() else None
    return EmbeddedLog(folder.log, clock=clock_us), folder.starts(), archive


def _archive(location: Path | str, options: Mapping[str, str]) -> Archive:
    from headwater.plan.stamp import engine_stamp
    from headwater_connectors.archive.archive import Archive
    from headwater_connectors.archive.location import blobs_of

    return Archive(blobs_of(location, options), stamp=str(engine_stamp()))


def _place(
    namespace: str,
    registry: Registry,
    log: Log,
    starts: Mapping[str, Start],
    archive: Archive | None,
    config: Config,
) -> Place:
    from headwater.flow.plans_topic import PlansTopic
    from headwater_connectors.formats.schema_registry import RegistrySettings

    topic = PlansTopic(log, namespace)
    known = {name: one.start for name, one in topic.starts.items()}
    schemas = RegistrySettings.of(config.schema_registry.url, config.schema_registry.basic_auth)
    return Place(registry, topic, log, {**known, **starts}, archive, schemas)


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace: its registry, its plans topic, its streams and their history."""

    registry: Registry
    topic: PlansTopic
    log: Log
    starts: Mapping[str, Start]
    archive: Archive | None
    schemas: RegistrySettings | None  # where writers' schemas are

    def reach(self, stream: Stream) -> Reach | None:
        """Return how far a stream's history reaches, None where it has no topic yet."""
        from headwater.flow.starts import resolve_start
        from headwater.registry.reach import reach_of

        try:
            start = self.starts.get(stream.topic)
            if start is None:
                start = resolve_start(self.log, stream, clock_us)
            return reach_of(self.log, self.archive, stream.topic, start, now_us=clock_us())
        except NotFoundError:
            return None
