"""The worker's row memory: one arena under a byte budget, and the lock that guards it."""

from __future__ import annotations

import threading

import numpy as np

from headwater.errors import ConfigError
from headwater.kernels.memory import SPACE_WORDS, reset

__all__ = ["Memory"]

_WORD_BYTES = 8
_BUDGET_BYTES_MIN = 1 << 20
_HEADROOM_BYTES_MIN = 32 << 20


class Memory:
    """An arena of words shared by all rows of a worker.

    `budget_bytes` is what rows may use between batches; a batch may go past it by the headroom
    (a quarter, at least 32 MiB) before the worker makes room. The address space is reserved at
    once, the memory is taken as it is used.
    """

    def __init__(self, budget_bytes: int) -> None:
        if budget_bytes < _BUDGET_BYTES_MIN:
            msg = (
                f"memory budget of {budget_bytes} bytes is too small; give at least"
                f" {_BUDGET_BYTES_MIN}"
            )
            raise ConfigError(msg)
        self.budget_bytes = budget_bytes
        capacity = (budget_bytes + max(budget_bytes // 4, _HEADROOM_BYTES_MIN)) // _WORD_BYTES
        self.arena = np.empty(capacity, np.uint64)
        self.space = np.empty(SPACE_WORDS, np.int64)
        # Held while rows change or are read: a read sees every view of a shard at one offset.
        self.lock = threading.RLock()
        self.released = False
        self.clear()

    def clear(self) -> None:
        """Make the whole arena free; rows that pointed into it are void."""
        reset(self.space, len(self.arena))

    def release(self) -> None:
        """Give the arena's memory back to the system; nothing can be read any more."""
        with self.lock:
            self.released = True
            self.arena = np.empty(0, np.uint64)
            self.clear()

    @property
    def used_bytes(self) -> int:
        """Bytes in blocks that rows hold."""
        return int(self.space[0] - self.space[2]) * _WORD_BYTES

    @property
    def reserved_bytes(self) -> int:
        """Bytes up to the highest word ever used since the arena was last cleared."""
        return int(self.space[0]) * _WORD_BYTES

    @property
    def free_words(self) -> int:
        """Words above the highest one used."""
        return len(self.arena) - int(self.space[0])

    @property
    def headroom_bytes(self) -> int:
        """What the arena holds beyond the budget, for the batch that goes past it."""
        return self.arena.nbytes - self.budget_bytes
