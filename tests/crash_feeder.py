"""What the crash test kills: a local store that is fed numbered events and says how far it is.

Imported once by a fork server, which must have no threads: so nothing here runs Polars when it is
imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

import headwater as hw
from headwater.flow import archive_task
from headwater.flow.settings import WorkerSettings
from headwater.state.memory import Memory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

    from headwater.local_store import LocalStore

__all__ = ["BASE_US", "PARTITIONS", "USERS", "Numbered", "event", "feed", "open_store", "service"]

SECOND_US = 1_000_000
BASE_US = 1_700_000_000 * SECOND_US
PARTITIONS = 2
BATCH = 40
USERS = [f"u{n}" for n in range(13)]
SETTINGS = WorkerSettings(
    namespace="local",
    shards=3,
    memory_budget_bytes=1 << 20,
    read_back_us=600 * SECOND_US,
    poll_records_max=16,
    checkpoint_every_us=15_000,
)
ARCHIVE_WAIT_US = 40_000

# The first kernel that is called makes Numba load itself, which takes longer than the rest of an
# opening: it is done here, once for every process that is forked.
Memory(1 << 20)


@dataclass(frozen=True, slots=True)
class Numbered:
    """Event number n: what it holds and where in the log it lies, by its number alone."""

    partition: int
    offset: int
    row: dict[str, Any]


def event(n: int) -> Numbered:
    """Return event n; times run on, many of them late, some equal."""
    batch, place = divmod(n, BATCH)
    half = BATCH // PARTITIONS
    mixed = n * 2_654_435_761 % 1_000_003
    seconds = n // 20 - (mixed % 400 if mixed % 5 == 0 else 0)
    row = {
        "user": None if mixed % 97 == 0 else USERS[mixed % len(USERS)],
        "x": None if mixed % 31 == 0 else mixed / 997 - 500,
        "at": BASE_US + seconds * SECOND_US,
    }
    return Numbered(place // half, batch * half + place % half, row)


def service() -> Any:
    """Return the service; made when it is needed, since making it runs Polars."""
    stream = hw.stream(
        "numbers",
        schema={"user": pl.String, "x": pl.Float64, "at": pl.Int64},
        event_time=hw.epoch("at", "us"),
    )
    rows = stream.filter(pl.col("x").is_null() | (pl.col("x") < 450)).with_columns(
        high=pl.col("x") > 0
    )
    features = (
        rows.group_by(hw.entity("user", key="user"))
        .window("1m", "1h", "lifetime")
        .agg(
            n=hw.count(),
            total=hw.sum("x"),
            spread=hw.var("x"),
            high=hw.sum("high"),
            first=hw.first("x"),
            last=hw.last("x"),
        )
    )
    return hw.service("numbered", [hw.view("by_user", features=features)])


def open_store(folder: Path) -> LocalStore:
    """Open the store; it checkpoints and archives all the time."""
    archive_task._WAIT_US = ARCHIVE_WAIT_US
    return hw.local([service()], path=folder, partitions=PARTITIONS, settings=SETTINGS)


def feed(folder: Path, progress: Connection) -> None:
    """Push events from where the log ends until killed; send (what, events) as it goes.

    A push is one flush, so all of it is in the log or nothing: the next number is the log's end.
    """
    store = open_store(folder)
    n = sum(store.log.end_offsets("numbers"))
    progress.send(("open", n))
    until = datetime.now(UTC) + timedelta(seconds=120)
    while datetime.now(UTC) < until:
        for _ in range(3):
            store.push("numbers", [event(i).row for i in range(n, n + BATCH)])
            n += BATCH
            progress.send(("pushed", n))
        store.settle()
        progress.send(("applied", n))
