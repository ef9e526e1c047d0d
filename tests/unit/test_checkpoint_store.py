"""The checkpoint store: what comes back is what was saved, whatever happens in between."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from checkpoint_harness import (
    EXCHANGE,
    SHARD,
    DyingBlobs,
    HookedBlobs,
    RemoteBlobs,
    advance,
    check,
    checkpoints_in,
    contents,
    mark_at,
    newest,
    offsets,
    rows_at,
    save,
    stored,
)

from headwater.errors import ConfigError, StateError
from headwater.flow import checkpoint_files, checkpoint_store
from headwater.flow.checkpoint_manifest import unpack
from headwater.flow.checkpoint_store import StoredCheckpoint
from headwater.state.store import Store
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.errors import ArchiveError, MissingBlobError

if TYPE_CHECKING:
    from pathlib import Path

HOUR_US = 3_600_000_000


@pytest.fixture
def store(tmp_path: Path):
    opened = Store(tmp_path / "a" / "shard-003")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()


# Saving and restoring


@pytest.mark.parametrize("kind", [FolderBlobs, RemoteBlobs])
def test_what_is_restored_is_what_was_saved(tmp_path: Path, store: Store, kind: type) -> None:
    checkpoints = checkpoints_in(tmp_path, blobs=kind(tmp_path / "blobs"))
    assert checkpoints.latest(SHARD, exchange_id=EXCHANGE) is None
    assert save(checkpoints, store, 10) > 0
    advance(store, 12)
    found = newest(checkpoints)
    assert (found.shard, found.next_offset, found.writer) == (SHARD, 10, "worker-a")
    into = tmp_path / "b" / "shard-003"
    checkpoints_in(tmp_path, writer="worker-b").restore(found, into)
    check(into, 10)
    assert found.bytes >= sum(path.stat().st_size for path in stored(tmp_path, "files"))
    # Nothing else is left lying about.
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"shard-003"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"shard-003", ".shard-003.lock"}


def test_the_manifest_says_what_the_snapshot_holds(tmp_path: Path, store: Store) -> None:
    checkpoints = checkpoints_in(tmp_path)
    early = advance(store, 10)
    # Written since, not flushed: a snapshot holds it too.
    store.write(mark_at(14), [("v@1", rows_at(14).items())])
    checkpoints.save(SHARD, store, early, exchange_id=EXCHANGE)
    assert offsets(checkpoints) == [14]
    (path,) = stored(tmp_path, "manifests")
    manifest = unpack(path.read_bytes(), "here")
    assert (manifest.next_offset, manifest.stamp, manifest.shards) == (14, "engine", 16)
    checkpoints.restore(newest(checkpoints), tmp_path / "b" / "shard-003")
    check(tmp_path / "b" / "shard-003", 14)


def test_only_what_is_new_is_uploaded(tmp_path: Path, store: Store) -> None:
    checkpoints = checkpoints_in(tmp_path)
    rows = [(b"%d" % n, os.urandom(100)) for n in range(10_000)]
    store.write(mark_at(1), [("big@1", rows)])
    store.flush()
    first = checkpoints.save(SHARD, store, mark_at(1), exchange_id=EXCHANGE)
    second = save(checkpoints, store, 2)
    assert first > 1_000_000
    assert second < 30_000
    assert newest(checkpoints).bytes > 1_000_000
    assert len(stored(tmp_path, "files")) == 2


def test_a_checksum_is_computed_once_for_each_file(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    digest = checkpoint_files._digest

    def note(path: Path) -> str:
        seen.append(path.name)
        return digest(path)

    monkeypatch.setattr(checkpoint_files, "_digest", note)
    checkpoints = checkpoints_in(tmp_path)
    for at in (5, 10, 15):
        save(checkpoints, store, at)
    tables = [name for name in seen if name.endswith(".sst")]
    assert len(tables) == 3 == len(set(tables))


def test_nothing_is_saved_below_the_newest(tmp_path: Path, store: Store) -> None:
    checkpoints = checkpoints_in(tmp_path)
    save(checkpoints, store, 10)
    other = Store(tmp_path / "b" / "shard-003")
    for to_offset, saved in ((9, False), (10, False), (11, True)):
        assert (save(checkpoints_in(tmp_path, writer="b"), other, to_offset) > 0) is saved
    other.close()
    assert offsets(checkpoints) == [11, 10]


def test_exchanges_namespaces_and_shards_are_kept_apart(tmp_path: Path, store: Store) -> None:
    checkpoints = checkpoints_in(tmp_path)
    save(checkpoints, store, 10)
    assert checkpoints.latest(SHARD, exchange_id="made-again") is None
    assert checkpoints.latest(SHARD + 1, exchange_id=EXCHANGE) is None
    assert checkpoints_in(tmp_path, namespace="n").latest(SHARD, exchange_id=EXCHANGE) is None
    with pytest.raises(StateError, match=r'belongs to shard 3 in "ns", not 3 in "n"'):
        checkpoints_in(tmp_path, namespace="n").save(
            SHARD, store, mark_at(10), exchange_id=EXCHANGE
        )


def test_a_mark_that_was_not_written_is_refused(tmp_path: Path, store: Store) -> None:
    checkpoints = checkpoints_in(tmp_path)
    with pytest.raises(StateError, match="holds no checkpoint, and not yet offset 5"):
        checkpoints.save(SHARD, store, mark_at(5), exchange_id=EXCHANGE)
    advance(store, 4)
    with pytest.raises(StateError, match="holds offset 4, and not yet offset 5: write"):
        checkpoints.save(SHARD, store, mark_at(5), exchange_id=EXCHANGE)
    assert offsets(checkpoints) == []
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"shard-003"}


def test_a_new_owner_goes_on_from_the_files_of_the_one_before(tmp_path: Path, store: Store) -> None:
    a, b = checkpoints_in(tmp_path), checkpoints_in(tmp_path, writer="b")
    rows = [(b"%d" % n, os.urandom(100)) for n in range(10_000)]
    store.write(mark_at(1), [("big@1", rows)])
    store.flush()
    assert a.save(SHARD, store, mark_at(1), exchange_id=EXCHANGE) > 1_000_000
    into = tmp_path / "b" / "shard-003"
    b.restore(newest(b), into)
    moved = Store(into)
    assert save(b, moved, 2) < 30_000
    # The old owner's files can go at any time: the new one's checkpoint is its own.
    for path in stored(tmp_path, "files"):
        if path.name.startswith("worker-a"):
            path.unlink()
    moved.close()
    b.restore(newest(b), into)
    assert contents(into)[0] == 2


@pytest.mark.parametrize("writer", ["host.example.com-0", "a=b/c d", "ü"])
def test_any_worker_id_is_a_writer(tmp_path: Path, store: Store, writer: str) -> None:
    checkpoints = checkpoints_in(tmp_path, writer=writer)
    save(checkpoints, store, 10)
    save(checkpoints, store, 11)
    checkpoints.prune(SHARD, exchange_id=EXCHANGE)
    assert newest(checkpoints).writer == writer
    checkpoints.restore(newest(checkpoints), tmp_path / "b" / "shard-003")
    check(tmp_path / "b" / "shard-003", 11)


def test_settings_that_can_not_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep at least 1"):
        checkpoints_in(tmp_path, keep=0)
    for writer in ("", "x" * 121):
        with pytest.raises(ConfigError, match="worker id of 1 to 120"):
            checkpoints_in(tmp_path, writer=writer)


# Pruning


def test_the_newest_are_kept_with_their_files(tmp_path: Path, store: Store) -> None:
    checkpoints = checkpoints_in(tmp_path)
    for step in range(1, 6):
        save(checkpoints, store, step * 10)
    store._db.compact_range(None, None)
    save(checkpoints, store, 60)
    checkpoints.prune(SHARD, exchange_id=EXCHANGE)
    assert offsets(checkpoints) == [60, 50]
    named = {
        file.sha256
        for one in checkpoints.candidates(SHARD, exchange_id=EXCHANGE)
        for file in checkpoints._manifest(one).files
        if file.data is None
    }
    assert {path.name.rpartition("=")[2] for path in stored(tmp_path, "files")} == named
    for one in checkpoints.candidates(SHARD, exchange_id=EXCHANGE):
        checkpoints.restore(one, tmp_path / "b" / "shard-003")
        check(tmp_path / "b" / "shard-003", one.next_offset)


class Clock:
    def __init__(self) -> None:
        self.us = time.time_ns() // 1000

    def __call__(self) -> int:
        return self.us


def test_what_another_writer_left_goes_after_a_while(tmp_path: Path, store: Store) -> None:
    clock = Clock()
    blobs = RemoteBlobs(tmp_path / "blobs", clock=clock)
    a = checkpoints_in(tmp_path, blobs=blobs, clock=clock)
    b = checkpoints_in(tmp_path, blobs=blobs, clock=clock, writer="b")
    for step in (10, 20):
        save(a, store, step)
    b.restore(newest(b), tmp_path / "b" / "shard-003")
    moved = Store(tmp_path / "b" / "shard-003")
    for step in (30, 40):
        save(b, moved, step)
    of_a = [path for path in stored(tmp_path, "files") if path.name.startswith("worker-a")]
    assert len(of_a) == 2
    clock.us += HOUR_US
    b.prune(SHARD, exchange_id=EXCHANGE)
    assert offsets(b) == [40, 30, 20, 10]
    clock.us += 1
    b.prune(SHARD, exchange_id=EXCHANGE)
    assert offsets(b) == [40, 30]
    for what in ("files", "owners"):
        names = [path.name for path in stored(tmp_path, what)]
        assert names
        assert not [name for name in names if name.startswith("worker-a")]
    # And one who comes back after all that is a new owner, with files of its own.
    assert save(a, store, 50) > 0
    assert len(stored(tmp_path, "owners")) == 2
    moved.close()
    a.restore(newest(a), tmp_path / "b" / "shard-003")
    check(tmp_path / "b" / "shard-003", 50)


def test_a_writer_that_begins_while_another_prunes_keeps_its_files(
    tmp_path: Path, store: Store
) -> None:
    clock = Clock()
    uploaded, pruned = threading.Event(), threading.Event()

    def wait(what: str) -> None:
        if what == "put_if_absent":
            uploaded.set()
            assert pruned.wait(60)

    b = checkpoints_in(
        tmp_path, blobs=HookedBlobs(tmp_path / "blobs", wait), writer="b", clock=clock
    )
    writing = threading.Thread(target=save, args=(b, store, 10))

    def begin(_what: str) -> None:
        if writing.ident is None:
            writing.start()
            assert uploaded.wait(60)

    blobs = HookedBlobs(tmp_path / "blobs", after=begin)
    checkpoints_in(tmp_path, blobs=blobs, clock=clock).prune(SHARD, exchange_id=EXCHANGE)
    pruned.set()
    writing.join(60)
    b.restore(newest(b), tmp_path / "b" / "shard-003")
    check(tmp_path / "b" / "shard-003", 10)


def test_the_newest_checkpoint_is_kept_however_long_its_writer_is_gone(
    tmp_path: Path, store: Store
) -> None:
    clock = Clock()
    blobs = RemoteBlobs(tmp_path / "blobs", clock=clock)
    a = checkpoints_in(tmp_path, blobs=blobs, clock=clock)
    for step in (10, 20, 30):
        save(a, store, step)
    clock.us += 100 * HOUR_US
    b = checkpoints_in(tmp_path, blobs=blobs, clock=clock, writer="b")
    b.prune(SHARD, exchange_id=EXCHANGE)
    assert offsets(b) == [30, 20]
    for one in b.candidates(SHARD, exchange_id=EXCHANGE):
        b.restore(one, tmp_path / "b" / "shard-003")
        check(tmp_path / "b" / "shard-003", one.next_offset)


@pytest.mark.parametrize("step", ["put_file", "put_if_absent"])
def test_a_save_that_was_held_up_for_too_long_names_nothing(
    tmp_path: Path, store: Store, step: str
) -> None:
    """A stopped process goes on: what it stored may be gone, so that its manifest must not be."""
    clock = Clock()
    stop_us = 0

    def stop(what: str) -> None:
        if what == step:
            clock.us += stop_us

    blobs = HookedBlobs(tmp_path / "blobs", stop, clock=clock)
    a = checkpoints_in(tmp_path, blobs=blobs, clock=clock)
    save(a, store, 10)
    stop_us = HOUR_US // 2 + 1
    with pytest.raises(StateError, match=r"held up for longer than 1800 s.*save again"):
        save(a, store, 20)
    assert offsets(a) == [10]
    stop_us = 0
    assert save(a, store, 20) > 0
    assert len(stored(tmp_path, "owners")) == 2
    a.restore(newest(a), tmp_path / "b" / "shard-003")
    check(tmp_path / "b" / "shard-003", 20)


def test_a_long_upload_shows_that_it_lives(tmp_path: Path, store: Store) -> None:
    clock = Clock()

    def slow(what: str) -> None:
        if what == "put_file":
            clock.us += HOUR_US // 3

    blobs = HookedBlobs(tmp_path / "blobs", slow, clock=clock)
    a = checkpoints_in(tmp_path, blobs=blobs, clock=clock)
    for to_offset in range(1, 4):
        advance(store, to_offset)
    assert save(a, store, 4) > 0  # four files: an hour and twenty minutes
    (owner,) = stored(tmp_path, "owners")
    assert clock.us - blobs.named_us[f"ns/exchange-id/shard-003/owners/{owner.name}"] <= HOUR_US / 2


def test_an_error_of_the_store_comes_through(tmp_path: Path, store: Store) -> None:
    checkpoints = checkpoints_in(tmp_path, blobs=DyingBlobs(tmp_path / "blobs", 1, late=False))
    asks = [
        lambda: checkpoints.latest(SHARD, exchange_id=EXCHANGE),
        lambda: save(checkpoints, store, 10),
        lambda: checkpoints.prune(SHARD, exchange_id=EXCHANGE),
        lambda: checkpoints.restore(StoredCheckpoint(SHARD, 1, "a", 1, "a/b"), tmp_path / "b/c"),
    ]
    for ask in asks:
        with pytest.raises(ArchiveError, match="doesn't answer"):
            ask()
    assert not (tmp_path / "b/c").exists()


def test_a_copy_whose_source_is_gone_is_uploaded(tmp_path: Path, store: Store) -> None:
    save(checkpoints_in(tmp_path), store, 10)

    class Gone(FolderBlobs):
        def copy(self, source, target):
            raise MissingBlobError("gone")

    b = checkpoints_in(tmp_path, writer="b", blobs=Gone(tmp_path / "blobs"))
    assert save(b, store, 20) > 0
    for path in stored(tmp_path, "files"):
        if path.name.startswith("worker-a"):
            path.unlink()
    b.restore(newest(b), tmp_path / "b" / "shard-003")
    check(tmp_path / "b" / "shard-003", 20)


def test_the_defaults_are_wall_time_and_a_name_that_is_never_used_twice() -> None:
    assert abs(checkpoint_store._now_us() - time.time_ns() // 1000) < HOUR_US
    assert checkpoint_store._epoch() != checkpoint_store._epoch()
