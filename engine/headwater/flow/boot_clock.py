"""The boot clock: it runs on while a process is stopped, so that nobody takes old for fresh."""

from __future__ import annotations

import time

__all__ = ["boot_clock_us"]

# macOS's monotonic clock is one of this kind already.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_clock_us() -> int:
    """Return µs since the machine was started, the time that it slept included."""
    return time.clock_gettime_ns(_CLOCK) // 1_000
