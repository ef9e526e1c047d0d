"""Killed twenty times in mid-stream: after reopening every value is the oracle's, archive too."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import struct
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

import crash_feeder
import polars as pl
import pytest
from crash_feeder import BASE_US, PARTITIONS, USERS, Numbered, event, feed, open_store, service
from harness import moment

from headwater.errors import ConfigError
from headwater.kernels.reference import Event, reference_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwater.local_store import LocalStore

KILLS_MID_STREAM = 20
KILLS_WHILE_OPENING = 6
WAIT_S = 100
SECOND_US = 1_000_000


class Feeder:
    """A process that feeds a store, and what it has said so far."""

    def __init__(self, context: Any, folder: Path) -> None:
        self._end, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=feed, args=(folder, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.said: dict[str, int] = {}

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait_for(self, what: str, at_least: int) -> None:
        """Wait until it has said so much; fail if it dies first."""
        deadline = time.monotonic() + WAIT_S
        while self.said.get(what, -1) < at_least:
            assert self._end.poll(max(0.0, deadline - time.monotonic())), f"no {what} in time"
            self._hear()

    def _hear(self) -> None:
        what, n = self._end.recv()
        self.said[what] = n

    def kill(self) -> None:
        """Kill it where it stands, and hear what it said before."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.join(WAIT_S)
        assert self._process.exitcode == -signal.SIGKILL
        try:
            while self._end.poll(0):
                self._hear()
        except (EOFError, OSError):
            pass
        self._end.close()


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    """Processes that begin with everything imported: imports take longer than all the rest."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["crash_feeder", "headwater.local_store", "pandas"])
    with pytest.MonkeyPatch.context() as patch:
        # The server looks for what it is to import in its own path only.
        patch.setenv("PYTHONPATH", str(Path(crash_feeder.__file__).parent))
        forkserver.ensure_running()
    yield made
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def killed_and_reopened(folder: Path, context: Any) -> tuple[int, int]:
    """Kill feeders of one folder; return the events that were pushed for certain and applied."""
    rng = random.Random(20_240_101)
    pushed = applied = 0
    early = set(rng.sample(range(KILLS_MID_STREAM + KILLS_WHILE_OPENING), KILLS_WHILE_OPENING))
    for kill in range(KILLS_MID_STREAM + KILLS_WHILE_OPENING):
        feeder = Feeder(context, folder)
        if kill in early:
            time.sleep(rng.uniform(0.0, 0.2))
        else:
            feeder.wait_for("open", pushed)  # nothing acknowledged is lost
            feeder.wait_for("applied", applied + 1)  # and it has come further than ever before
            time.sleep(rng.uniform(0.0, 0.12))
        feeder.kill()
        assert feeder.said.get("open", pushed) >= pushed
        pushed = max(pushed, *feeder.said.values(), 0)
        applied = max(applied, feeder.said.get("applied", 0))
    return pushed, applied


def bits(value: object) -> object:
    return struct.pack("<d", value) if isinstance(value, float) else value


def oracle(events: list[Numbered], user: str, t: int) -> list[object]:
    (view,) = service().views
    mine = []
    for one in events:
        x = one.row["x"]
        if one.row["user"] == user and (x is None or x < 450):
            values = {"x": x, "high": None if x is None else int(x > 0)}
            mine.append(Event(one.row["at"], one.partition, one.offset, values))
    features = view.features.features
    return [reference_value(one.aggregate, one.window, mine, t) for one in features]


def assert_values(store: LocalStore, events: list[Numbered], at: list[int]) -> None:
    names = list(service().column_names())
    when = pl.DataFrame({"t": [moment(t) for t in at]})
    spine = when.join(pl.DataFrame({"user": USERS}), how="cross")
    made = store.training_set("numbered", spine, time="t").select(names).collect().rows()
    for n, t in enumerate(at):
        served = store.online("numbered", user=USERS, at=moment(t)).rows()
        trained = made[n * len(USERS) : (n + 1) * len(USERS)]
        for user, a, b in zip(USERS, served, trained, strict=True):
            wanted = [bits(value) for value in oracle(events, user, t)]
            assert [bits(value) for value in a] == wanted, (user, t)
            assert [bits(value) for value in b] == wanted, (user, t)


def view_rows(store: LocalStore) -> float:
    labels = {"view": "by_user", "outcome": "applied"}
    found = store.worker.metrics.registry.get_sample_value("headwater_view_rows_total", labels)
    return found or 0.0


def holes(store: LocalStore) -> float:
    registry = store.worker.metrics.registry
    name = "headwater_exchange_holes_total"
    shards = [str(number) for number in store.worker.shards]
    return sum(registry.get_sample_value(name, {"shard": n}) or 0.0 for n in shards)


def test_killed_in_mid_stream_every_value_is_the_oracles(tmp_path: Path, context: Any) -> None:
    folder = tmp_path / "store"
    pushed, applied = killed_and_reopened(folder, context)
    assert applied >= KILLS_MID_STREAM * 3 * crash_feeder.BATCH

    with open_store(folder) as store:
        replayed = [shard.next_offset for shard in store.worker.shards.values()]
        store.settle()
        ends = store.log.end_offsets("numbers")
        count = sum(ends)
        assert count >= pushed
        assert count % crash_feeder.BATCH == 0
        assert ends == [count // PARTITIONS] * PARTITIONS
        # No record of the exchange was lost, so that nothing had to come from history.
        assert holes(store) == 0
        # Checkpoints were resumed from, and the exchange below them was let go.
        assert all(offset > 0 for offset in replayed)
        assert all(start > 0 for start in store.log.start_offsets(store.worker.exchange))
        archive = store.worker.archive
        assert archive is not None
        topic_id = store.log.topic("numbers").id
        # The archive has a thread of its own, and writes what it has every ten seconds.
        deadline = time.monotonic() + 120
        while True:
            positions = [archive.position("numbers", topic_id, p) or 0 for p in range(PARTITIONS)]
            if all(position > ends[0] // 2 for position in positions):
                break
            assert time.monotonic() < deadline, positions
            time.sleep(0.2)

        events = [event(n) for n in range(count)]
        newest = max(one.row["at"] for one in events)
        horizon = max(shard.horizon_us for shard in store.worker.shards.values())
        at = [
            max(newest - 300 * SECOND_US, horizon),
            newest,
            newest + 1,
            newest + 3_600 * SECOND_US,
        ]
        assert newest - horizon == 600 * SECOND_US
        assert_values(store, events, at)

    # A graceful stop leaves nothing to replay.
    with open_store(folder) as store:
        store.settle()
        assert view_rows(store) == 0
        assert store.online("numbered", user=USERS, at=moment(newest + 1))["n_lifetime"].sum() > 0
        assert_values(store, events, [newest + 1])


def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path: Path, context: Any) -> None:
    feeder = Feeder(context, tmp_path / "store")
    feeder.wait_for("applied", 1)
    with pytest.raises(ConfigError, match=f"already in use by process {feeder.pid}") as caught:
        open_store(tmp_path / "store")
    assert "\n" not in str(caught.value)
    feeder.wait_for("applied", feeder.said["applied"] + 1)
    feeder.kill()
    with open_store(tmp_path / "store") as store:  # the lock died with its process
        store.settle()
        ends = store.log.end_offsets("numbers")
        events = [event(n) for n in range(sum(ends))]
        newest = max(one.row["at"] for one in events)
        assert_values(store, events, [newest + 1])


def test_numbered_events_lie_where_their_number_says() -> None:
    assert [(event(n).partition, event(n).offset) for n in (0, 19, 20, 39, 40, 60)] == [
        (0, 0), (0, 19), (1, 0), (1, 19), (0, 20), (1, 20),
    ]  # fmt: skip
    assert max(event(n).row["at"] for n in range(20)) == BASE_US
