"""The world's time: what really passes, and what clocks on walls say."""

from __future__ import annotations

__all__ = ["WorldClock"]


class WorldClock:
    """`elapsed_us` only grows; `now_us` is the brokers' wall clock, which may jump."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us
        self.elapsed_us = 0

    def advance(self, us: int) -> None:
        """Let time pass, everywhere."""
        self.now_us += us
        self.elapsed_us += us

    def jump(self, us: int) -> None:
        """Set the brokers' clock forward or back."""
        self.now_us += us
