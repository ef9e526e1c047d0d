"""The engine stamp: what parity to the last bit is promised for."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version

__all__ = ["STATE_FORMAT", "Stamp", "engine_stamp"]

STATE_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Stamp:
    """State format, Polars version and CPU architecture: equal stamps give equal bits."""

    state_format: int
    polars: str
    machine: str

    def __str__(self) -> str:
        """Spell the stamp as it is stored."""
        return f"format={self.state_format} polars={self.polars} machine={self.machine}"


def engine_stamp() -> Stamp:
    """Return the stamp of this installation."""
    return Stamp(STATE_FORMAT, version("polars"), platform.machine())
