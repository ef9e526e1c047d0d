"""What a benchmark ran on: enough to judge its figures by, and nothing that names the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

__all__ = ["machine"]

_PACKAGES = ("headwater", "duckdb", "llvmlite", "numba", "numpy", "polars")


def machine() -> dict[str, object]:
    """Return cores, architecture, versions, and how busy the machine was when this was asked."""
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        # Above the number of cores others compete: read CPU times and ratios, not seconds.
        "load_1m": round(os.getloadavg()[0], 2),
    }
