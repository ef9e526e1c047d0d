"""Blocks of words in one fixed arena: a bump pointer and free lists by size class.

`space` is int64[SPACE_WORDS]: [0] next unused word, [1] capacity, [2] words in free blocks, then
the first free block of each class or -1; a free block holds the next one's offset in its first
word. Classes are (4 + i) · 2ᵏ words, so that at most a fifth of a block is unused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headwater.kernels.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SPACE_WORDS", "allocate", "block_words", "release", "reset"]

_CLASSES = 160
_LISTS = 3
SPACE_WORDS = _LISTS + _CLASSES


@kernel
def _class_of(words: int) -> int:
    if words <= 4:
        return 0
    shift = 0
    while (words - 1) >> shift > 7:
        shift += 1
    return shift * 4 + ((words - 1) >> shift) - 3


@kernel
def block_words(words: int) -> int:
    """Return the size of the block that holds `words`."""
    size_class = _class_of(words)
    return (4 + size_class % 4) << (size_class // 4)


@kernel
def reset(space: NDArray[np.int64], capacity: int) -> None:
    """Make the whole arena free."""
    space[:] = -1
    space[0] = 0
    space[1] = capacity
    space[2] = 0


@kernel
def allocate(arena: NDArray[np.uint64], space: NDArray[np.int64], words: int) -> int:
    """Return the offset of a block of `block_words(words)` words, or -1 when there is no room."""
    size_class = _class_of(words)
    size = (4 + size_class % 4) << (size_class // 4)
    head = space[_LISTS + size_class]
    if head >= 0:
        space[_LISTS + size_class] = np.int64(arena[head])
        space[2] -= size
        return head
    offset = space[0]
    if offset + size > space[1]:
        return -1
    space[0] = offset + size
    return offset


@kernel
def release(arena: NDArray[np.uint64], space: NDArray[np.int64], offset: int, words: int) -> None:
    """Give a block back; `words` is what it was allocated for, or its block size."""
    size_class = _class_of(words)
    arena[offset] = np.uint64(space[_LISTS + size_class])
    space[_LISTS + size_class] = offset
    space[2] += (4 + size_class % 4) << (size_class // 4)
