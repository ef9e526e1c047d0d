"""What a codec is told besides the schema: the definition's options, and where registries are."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater_connectors.formats.schema_registry import RegistrySettings

__all__ = ["NO_OPTIONS", "CodecOptions"]


@dataclass(frozen=True, slots=True)
class CodecOptions:
    """`format` is plain data from the definition; `registry` is this deployment's.

    Without `registry` a codec that needs one takes it from the environment.
    """

    format: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    registry: RegistrySettings | None = None


NO_OPTIONS: Final = CodecOptions()
