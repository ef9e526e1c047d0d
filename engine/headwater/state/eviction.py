"""Eviction: rows leave memory when they are clean, the recently used ones come straight back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    from headwater.state.group import Blobs, Group
    from headwater.state.memory import Memory
    from headwater.state.shard import Shard

__all__ = ["make_room"]


def make_room(memory: Memory, shards: Collection[Shard]) -> int:
    """Checkpoint every shard, then empty the arena and keep what was used last.

    Rows used since the checkpoint before this one stay, if they fill at most half of the budget.
    Returns the bytes written. The caller holds no checkpoint in flight and is between batches.
    """
    written = 0
    recent = {}
    # Only the caller changes rows: readers go on while the checkpoint is written.
    for shard in shards:
        recent[shard.number] = shard.epoch
        with memory.lock:
            checkpoint = shard.begin_checkpoint()
        written += shard.write_checkpoint(checkpoint)
    kept: list[tuple[Group, int, Blobs]] = []
    with memory.lock:
        for shard in shards:
            for group in shard.groups.values():
                used = group.touched() >= recent[shard.number]
                kept.append(
                    (group, recent[shard.number], group.copy(np.flatnonzero(used).astype(np.int32)))
                )
                group.clear()
        memory.clear()
        if sum(blobs.words.nbytes for _, _, blobs in kept) <= memory.budget_bytes // 2:
            for group, epoch, blobs in kept:
                pairs = list(blobs)
                # With the old epoch: what isn't used again until the next time leaves then.
                group.load([key for key, _ in pairs], [blob for _, blob in pairs], epoch)
    return written
