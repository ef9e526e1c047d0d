"""Configuration: flags, `HEADWATER_*` variables, headwater.toml, defaults, in that order."""

from __future__ import annotations

from headwater.config.load import Flags, load_config
from headwater.config.settings import (
    ArchiveConfig,
    AuditConfig,
    ClientConfig,
    Config,
    KafkaConfig,
    RegistryConfig,
    SchemaRegistryConfig,
    WorkerConfig,
)

__all__ = [
    "ArchiveConfig",
    "AuditConfig",
    "ClientConfig",
    "Config",
    "Flags",
    "KafkaConfig",
    "RegistryConfig",
    "SchemaRegistryConfig",
    "WorkerConfig",
    "load_config",
]
