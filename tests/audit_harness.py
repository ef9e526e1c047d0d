"""Samples taken in memory, and what an audit finds in them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from harness import BASE_US, SECOND_US, moment

import headwater as hw
from headwater.flow.samples import Block, Sample, pack, unpack
from headwater.flow.settings import WorkerSettings
from headwater.kernels.blobs import BLOB_HEADER_WORDS
from headwater.kernels.rows import TILE_AT, TILES
from headwater.offline.audit import Audit
from headwater.offline.audited_view import History
from headwater.plan.ops import COUNT_ROWS
from headwater.state.keys import canonical_keys

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headwater.local_store import LocalStore
    from headwater.offline.audited_columns import Audited
    from headwater.plan.plan import ViewPlan
    from headwater.state.store import Stores

__all__ = [
    "ROWS",
    "SHARDS",
    "USERS",
    "Taken",
    "audited",
    "by_shop",
    "by_user",
    "changed",
    "corrupt",
    "corrupt_on_disk",
    "history_of",
    "names_of",
    "opened",
    "service",
    "stream_and_ask",
]

SHARDS = 4

payments = hw.stream(
    "payments",
    schema={"user": pl.String, "shop": pl.Int64, "x": pl.Float64, "at": pl.Int64},
    event_time=hw.epoch("at", "us"),
)
by_user = hw.view(
    "by_user",
    features=payments.group_by(hw.entity("user", key="user"))
    .window("10m", "1h", "lifetime")
    .agg(n=hw.count(), total=hw.sum("x"), newest=hw.last("x")),
)
by_shop = hw.view(
    "by_shop",
    features=payments.filter(pl.col("x") > 0)
    .group_by(hw.entity("shop", key="shop"))
    .window("1h")
    .agg(shop_n=hw.count(), top=hw.max("x")),
)


@hw.on_demand(inputs=[by_user, hw.request("amount", pl.Float64)])
def against(row: pl.LazyFrame) -> pl.LazyFrame:
    return row.with_columns(
        # NaN, infinities and −0.0 are values too.
        share=pl.col("amount") / pl.col("total_1h"),
        product=pl.col("amount") * pl.col("newest_lifetime"),
    )


service = hw.service("payers", [by_user, by_shop, against])
USERS = [*(f"u{n}" for n in range(20)), "never", None]
ROWS = {
    "user": USERS,
    "shop": [n % 7 for n in range(len(USERS))],
    "amount": [0.0, -0.0, None, float("inf"), float("nan"), *[1.5] * (len(USERS) - 5)],
}


def payment(dice: random.Random, second: int) -> dict[str, Any]:
    return {
        "user": dice.choice(USERS),
        "shop": dice.choice([*range(6), None]),
        "x": dice.choice([None, -0.0, 1 / 3, dice.uniform(-9, 9)]),
        "at": BASE_US + second * SECOND_US,
    }


def opened(path: Path | None = None, partitions: int = 3, **settings: Any) -> LocalStore:
    given = {"namespace": "local", "shards": SHARDS, "read_back_us": 60 * SECOND_US, **settings}
    return hw.local([service], path=path, partitions=partitions, settings=WorkerSettings(**given))


def stream_and_ask(store: LocalStore, *, seed: int = 3, chunks: int = 6) -> Taken:
    """Push events, many of them late, and ask in mid-stream and when all is applied."""
    taken = store.worker.reader.samples = Taken()
    dice = random.Random(seed)
    for chunk in range(chunks):
        newest = 600 * (chunk + 1)
        store.push("payments", [payment(dice, newest - dice.randrange(3_000)) for _ in range(120)])
        if dice.random() < 0.5:
            store.settle()
        store.answer("payers", at=moment(BASE_US + newest * SECOND_US), **ROWS)
        store.answer(
            ["by_shop.top_1h", "n_10m"],
            at=moment(BASE_US + (newest + 50) * SECOND_US),
            shop=ROWS["shop"],
            user=USERS,
        )
    store.settle()
    store.answer("payers", at=moment(BASE_US + 4_000 * SECOND_US), **ROWS)
    return taken


class Taken:
    """A sample log that takes every answer, in memory."""

    def __init__(self, worker: str = "w") -> None:
        self.worker = worker
        self.samples: list[Sample] = []

    def is_due(self) -> bool:
        return True

    def put(self, inputs: Any, answer: Any, origin: Any, made_of: Any) -> None:
        served_us = 1_000 + len(self.samples)
        self.samples.append(Sample.of(origin, inputs, answer, made_of, served_us=served_us))

    def close(self) -> None:
        pass

    def blocks(self) -> list[Block]:
        """Return what was taken as a file would have it."""
        return unpack(pack(self.worker, self.samples), "memory")


def history_of(store: LocalStore) -> History:
    worker = store.worker
    return History.of(store.plan, worker.archive, store.log, worker.starts, "local")


def audited(store: LocalStore, blocks: list[Block], **changed: Any) -> Audited:
    """Audit blocks by a store's plan and history."""
    given = {"plan": store.plan, "starts": store.worker.starts, **changed}
    history = given.pop("history", None) or history_of(store)
    return Audit([given["plan"]], blocks, lambda _plan: history, given["starts"]).run()


def names_of(found: Audited) -> set[tuple[str, str]]:
    """Return feature and entity of every difference."""
    return {(one.feature, one.entity) for one in found.differences}


def changed(block: Block, column: str, row: int, value: object) -> Block:
    values = block.values.with_columns(
        pl.Series(
            column,
            [value if i == row else old for i, old in enumerate(block.values[column])],
            dtype=block.values[column].dtype,
        )
    )
    return replace(block, values=values)


def corrupt(
    store: LocalStore, user: str, op: int, *, tile: int, word: int, change: Callable[[int], int]
) -> None:
    """Change a word of one field of one of a user's tiles, in memory."""
    key = canonical_keys(pl.DataFrame({"user": [user]}), ["user"])
    for shard in store.worker.shards.values():
        group = shard.groups["by_user@1"]
        slot = int(group.index.find(key)[0])
        if slot >= 0:
            words = int(group.table.shape[0])
            first = range(int(group.rows[slot, TILES]))[tile] * words
            offset = next(int(at) for one, _, at in group.table.fields.tolist() if one == op)
            arena = store.worker.memory.arena
            at = int(group.rows[slot, TILE_AT]) + first + offset + word
            arena[at] = change(int(arena[at]))
            return
    msg = f"{user} has no row"
    raise AssertionError(msg)


def corrupt_on_disk(stores: Stores, shards: int, view: ViewPlan, user: str) -> None:
    """Count one more in the first tile of a user, in the RocksDB of the shard that has it."""
    (key,) = canonical_keys(pl.DataFrame({"user": [user]}), ["user"]).to_list()
    table = view.layout.table
    offset = next(int(at) for op, _, at in table.fields.tolist() if op == COUNT_ROWS)
    for number in range(shards):
        store = stores.open(number)
        try:
            (blob,) = store.get_many(view.id, [key])
            mark = store.mark()
            if blob is None or mark is None:
                continue
            words = np.frombuffer(bytearray(blob), np.uint64)
            assert words[0], "it has a tile"
            words[BLOB_HEADER_WORDS + offset] += 1
            store.write(mark, [(view.id, [(key, words.tobytes())])])
            store.flush()
            return
        finally:
            store.close()
    msg = f"{user} has no row"
    raise AssertionError(msg)
