"""Two writers of one shard, one of them a zombie, take turns at every call of the store."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest
from checkpoint_harness import EXCHANGE, SHARD, HookedBlobs, RemoteBlobs, advance, check

from headwater.errors import StateError
from headwater.flow.checkpoint_store import CheckpointStore
from headwater.state.store import Store
from headwater_connectors.archive.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GRACE_US = 3_600_000_000
KEEP = 2
TURNS_MAX = 2_000


class Turns:
    """Lets one thread run at a time, from one call of the store to the next; time passes."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.us = 10 * GRACE_US
        self._waiting: dict[str, threading.Event] = {}
        self._back = threading.Event()
        self._done: set[str] = set()
        self.errors: list[BaseException] = []

    def clock(self) -> int:
        return self.us

    def hand_over(self, _call: str = "") -> None:
        """Let the scheduler choose who goes on; called by writers only."""
        turn = self._waiting.get(threading.current_thread().name)
        if turn is not None:
            turn.clear()
            self._back.set()
            assert turn.wait(60)

    def run(self, writers: dict[str, Callable[[], None]], between: Callable[[], None]) -> None:
        threads = [
            threading.Thread(target=self._work, args=(work,), name=name)
            for name, work in writers.items()
        ]
        self._waiting = {name: threading.Event() for name in writers}
        for thread in threads:
            thread.start()
        # In stretches, so that one writer often stands still for long.
        favourite = self.rng.choice(list(writers))
        for _ in range(TURNS_MAX):
            left = [name for name in writers if name not in self._done]
            if not left:
                break
            if self.rng.random() < 0.1:
                favourite = self.rng.choice(left)
            name = favourite if favourite in left else left[0]
            # At most an eighth of what would be too long, so that pauses add up and can be noticed.
            self.us += self.rng.choice([1, 1, 1, 1_000_000, GRACE_US // 16])
            self._back.clear()
            self._waiting[name].set()
            assert self._back.wait(60)
            if self.rng.random() < 0.1:
                between()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()

    def _work(self, work: Callable[[], None]) -> None:
        name = threading.current_thread().name
        assert self._waiting[name].wait(60)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            self.errors.append(error)
        self._done.add(name)
        self._back.set()


class Writer:
    """A worker that has the shard, or thinks so: applies, saves, prunes, crashes, restores."""

    def __init__(self, name: str, folder: Path, blobs: HookedBlobs, turns: Turns) -> None:
        self.name = name
        self._into = folder / name / "shard-003"
        self._into.parent.mkdir()
        self._blobs = blobs
        self._turns = turns
        self.saved = self.held_up = self.restored = 0

    def open(self) -> CheckpointStore:
        return CheckpointStore(
            self._blobs,
            namespace="ns",
            writer=self.name,
            keep=KEEP,
            grace_us=GRACE_US,
            clock=self._turns.clock,
            epoch=lambda: f"{self._turns.rng.getrandbits(64):016x}",
        )

    def __call__(self) -> None:
        rng, checkpoints, offset = self._turns.rng, self.open(), 0
        store = Store(self._into)
        try:
            for _ in range(rng.randrange(4, 12)):
                offset += rng.randrange(1, 9)
                mark = advance(store, offset)
                try:
                    self.saved += checkpoints.save(SHARD, store, mark, exchange_id=EXCHANGE) > 0
                except StateError as error:
                    assert "held up" in str(error)  # noqa: PT017 - what else would be a fault
                    self.held_up += 1
                if rng.random() < 0.5:
                    checkpoints.prune(SHARD, exchange_id=EXCHANGE)
                if rng.random() < 0.2:
                    store._db.compact_range(None, None)
                if rng.random() < 0.2:  # as another process of the same worker
                    checkpoints = self.open()
                if rng.random() < 0.3:
                    store.close()
                    offset = max(offset, self._restore(checkpoints, offset))
                    store = Store(self._into)
                self._turns.hand_over()
        finally:
            store.close()

    def _restore(self, checkpoints: CheckpointStore, offset: int) -> int:
        """Restore the newest checkpoint above `offset`; while one vanishes, look again."""
        for _ in range(100):
            latest = checkpoints.latest(SHARD, exchange_id=EXCHANGE)
            if latest is None or latest.next_offset <= offset:
                return offset
            try:
                checkpoints.restore(latest, self._into)
            except StateError as error:
                assert "is missing" in str(error)  # noqa: PT017 - what else would be a fault
                # Only one that is no longer among the newest may be gone.
                newer = checkpoints.candidates(SHARD, exchange_id=EXCHANGE)[:KEEP]
                assert latest not in newer
                continue
            check(self._into, latest.next_offset)
            self.restored += 1
            return latest.next_offset
        pytest.fail("the newest checkpoint kept vanishing")


@pytest.mark.parametrize("kind", [HookedBlobs, RemoteBlobs])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_kept_can_always_be_restored(tmp_path: Path, seed: int, kind: type) -> None:
    turns = Turns(random.Random(seed))
    blobs = kind(tmp_path / "blobs", turns.hand_over, turns.hand_over, clock=turns.clock)
    writers = {name: Writer(name, tmp_path, blobs, turns) for name in ("a", "b")}
    reader = Writer("reader", tmp_path, blobs, turns)

    def look() -> None:
        checkpoints = reader.open()
        for one in checkpoints.candidates(SHARD, exchange_id=EXCHANGE)[:KEEP]:
            checkpoints.restore(one, reader._into)
            check(reader._into, one.next_offset)

    turns.run(dict(writers), look)
    if turns.errors:
        raise turns.errors[0]
    look()
    # In the end nothing is left but what the kept checkpoints name.
    turns.us += 2 * GRACE_US
    last = reader.open()
    last.prune(SHARD, exchange_id=EXCHANGE)
    kept = last.candidates(SHARD, exchange_id=EXCHANGE)
    assert len(kept) == KEEP
    named = {
        f"{one.owner}={file.sha256}"
        for one in kept
        for file in last._manifest(one).files
        if file.data is None
    }
    files = blobs.find(f"ns/{EXCHANGE}/shard-{SHARD:03}/files/")
    assert {info.name.rpartition("/")[2] for info in files} == named
    look()


def test_a_writer_that_fails_at_random_loses_nothing(tmp_path: Path) -> None:
    rng = random.Random(7)

    def fail(_what: str) -> None:
        if rng.random() < 0.1:
            raise ArchiveError("the store doesn't answer")

    blobs = HookedBlobs(tmp_path / "blobs", fail, fail)
    healthy = CheckpointStore(HookedBlobs(tmp_path / "blobs"), namespace="ns", writer="reader")
    checkpoints = CheckpointStore(blobs, namespace="ns", writer="a")
    (tmp_path / "a").mkdir()
    store, failed, best = Store(tmp_path / "a" / "shard-003"), 0, 0
    for offset in range(1, 30):
        mark = advance(store, offset)
        try:
            checkpoints.save(SHARD, store, mark, exchange_id=EXCHANGE)
            checkpoints.prune(SHARD, exchange_id=EXCHANGE)
        except ArchiveError:
            failed += 1
        for one in healthy.candidates(SHARD, exchange_id=EXCHANGE)[:KEEP]:
            healthy.restore(one, tmp_path / "reader")
            check(tmp_path / "reader", one.next_offset)
            best = max(best, one.next_offset)
    store.close()
    assert failed >= 10
    assert best > 20
