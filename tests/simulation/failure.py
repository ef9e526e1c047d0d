"""A failure: a seed under which something that must hold did not."""

from __future__ import annotations

__all__ = ["SimulationError"]

_STEPS = 25


class SimulationError(AssertionError):
    """What did not hold under a seed, after which steps, and how to see it again."""

    def __init__(self, seed: int, trace: list[str], cause: BaseException) -> None:
        super().__init__(seed, trace, cause)
        self.seed, self.trace, self.cause = seed, trace, cause

    def __str__(self) -> str:
        what = str(self.cause) or repr(self.cause)
        return (
            f"seed {self.seed}: {type(self.cause).__name__}: {what}\n"
            f"  last steps: {', '.join(self.trace[-_STEPS:])}\n"
            f"  replay: make simulate FIRST={self.seed} SEEDS=1"
        )
