"""Warming up: kernels are compiled, or read from their cache, before an event waits for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headwater.flow.evaluate import Run, evaluate
from headwater.flow.exchange import wires_of
from headwater.flow.metrics import Metrics
from headwater.state.eviction import make_room
from headwater.state.key_index import KeyIndex
from headwater.state.keys import Keys, canonical_keys
from headwater.state.memory import Memory
from headwater.state.shard import Shard
from headwater.state.store import Stores

if TYPE_CHECKING:
    from headwater.plan.plan import Plan

__all__ = ["warm_up"]

_MEMORY_BYTES = 1 << 20
# A part of a key of every width that one is written by: any, 8, 4 and 1 bytes.
_PARTS = {"text": pl.String, "word": pl.Int64, "half": pl.Date, "byte": pl.Boolean}


def warm_up(plan: Plan) -> None:
    """Send next to nothing the way of events: through keys, views, rows, checkpoints and reads.

    Kernels are compiled by the types they are called with, not by what a plan holds.
    """
    _warm_up_keys()
    memory, stores = Memory(_MEMORY_BYTES), Stores(None)
    shard = Shard(
        plan,
        memory,
        namespace="warm-up",
        number=0,
        shards=1,
        exchange_id="",
        read_back_us=0,
        stores=stores,
    )
    try:
        for binding, wire in wires_of(plan).items():
            columns = {"__offset": pl.Int64(), "__ts": pl.Int64(), **wire.stream.schema}
            frame = pl.DataFrame(schema=columns)
            rows = wire.keyed([frame], 1).of_shard(0)
            views = [view for view in plan.views.values() if view.binding.id == binding]
            evaluate(views, [Run(shard, 0, rows)], Metrics())
            for view in views:
                # One event without values, of a key that nothing else can have.
                keys, events = (
                    Keys.from_list([b"\xff"]),
                    np.zeros((1, view.layout.event_words), "u8"),
                )
                shard.groups[view.id].words_wanted(np.full(1, -1, np.int32), ())
                shard.apply(view.id, keys, events, {})
                shard.read(view.id, keys, np.zeros(1, np.int64))
        make_room(memory, [shard])
        for group in shard.groups.values():
            group.free()
    finally:
        shard.close()
        stores.close()
        memory.release()


def _warm_up_keys() -> None:
    """Write keys of every kind, and add more to an index than it has room for."""
    canonical_keys(pl.DataFrame(schema=_PARTS), list(_PARTS))
    index = KeyIndex(1)
    index.find_or_add(Keys.from_list([b"a", b"b", b"c"]))
    index.keep(np.ones(len(index), np.bool_))
