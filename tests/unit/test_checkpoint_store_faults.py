"""The checkpoint store when things break: crashes, damage, and folders that can't be replaced."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
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
    newest,
    offsets,
    save,
    stored,
)

from headwater.errors import ConfigError, StateError
from headwater.flow import checkpoint_files
from headwater.state.store import Store, Stores
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.errors import ArchiveError

if TYPE_CHECKING:
    from headwater.flow.checkpoint_store import CheckpointStore, StoredCheckpoint


@pytest.fixture
def store(tmp_path: Path):
    opened = Store(tmp_path / "a" / "shard-003")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()


# Crashes


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_crash_at_any_step_leaves_the_older_checkpoint(tmp_path: Path, late: bool) -> None:
    """The number of calls is found out: the first save that comes through ends the loop."""
    survived = 0
    for dies_at in range(1, 30):
        root = tmp_path / str(dies_at)
        (root / "a").mkdir(parents=True)
        store = Store(root / "a" / "shard-003")
        checkpoints = checkpoints_in(root)
        save(checkpoints, store, 10)
        advance(store, 15)
        dying = DyingBlobs(root / "blobs", dies_at, late=late)
        try:
            save(checkpoints_in(root, blobs=dying), store, 20)
        except ArchiveError:
            # Only the answer to its very last call can get lost after the effect.
            at = newest(checkpoints).next_offset
            assert at == 10 or (late and at == 20)
            checkpoints.restore(newest(checkpoints), root / "b")
            check(root / "b", at)
            survived += 1
        else:
            break
        # The next try, of the same process or another, comes through.
        assert (save(checkpoints_in(root), store, 20) > 0) is (at == 10)
        checkpoints.prune(SHARD, exchange_id=EXCHANGE)
        store.close()
        checkpoints.restore(newest(checkpoints), root / "b")
        check(root / "b", 20)
    store.close()
    assert survived >= 6  # listed twice, shown, copied, uploaded, named


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_crash_while_pruning_leaves_no_checkpoint_without_its_files(
    tmp_path: Path, store: Store, late: bool
) -> None:
    healthy = checkpoints_in(tmp_path)
    dies_at, done = 0, False
    while not done:
        dies_at += 1
        dying = DyingBlobs(tmp_path / "blobs", 10_000, late=late)
        checkpoints = checkpoints_in(tmp_path, blobs=dying)
        for step in range(4):
            save(checkpoints, store, dies_at * 10 + step)
        store._db.compact_range(None, None)
        save(checkpoints, store, dies_at * 10 + 4)
        dying.calls = 10_000 - dies_at
        try:
            checkpoints.prune(SHARD, exchange_id=EXCHANGE)
            done = True
        except ArchiveError:
            pass
        found = healthy.candidates(SHARD, exchange_id=EXCHANGE)
        assert len(found) >= 2
        for one in found:
            healthy.restore(one, tmp_path / "b" / "shard-003")
            check(tmp_path / "b" / "shard-003", one.next_offset)
    assert dies_at >= 8  # three lists, two manifests, three deletions


def test_what_a_dead_process_left_of_a_snapshot_is_removed(tmp_path: Path, store: Store) -> None:
    left = tmp_path / "a" / ".shard-003.snapshot"
    left.mkdir()
    (left / "000001.sst").write_bytes(b"half")
    checkpoints = checkpoints_in(tmp_path)
    save(checkpoints, store, 10)
    assert not left.exists()
    checkpoints.restore(newest(checkpoints), tmp_path / "b" / "shard-003")
    check(tmp_path / "b" / "shard-003", 10)


# Damage


def two_checkpoints(folder: Path, store: Store) -> tuple[CheckpointStore, list[StoredCheckpoint]]:
    checkpoints = checkpoints_in(folder, blobs=RemoteBlobs(folder / "blobs"))
    save(checkpoints, store, 10)
    save(checkpoints, store, 20)
    return checkpoints, checkpoints.candidates(SHARD, exchange_id=EXCHANGE)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [(cut, "instead of.*was cut"), (flip, "fails its checksum"), (Path.unlink, "is missing")],
)
def test_a_damaged_file_is_refused_by_name_and_the_older_checkpoint_is_used(
    tmp_path: Path, store: Store, damage, says: str
) -> None:
    checkpoints, (new, old) = two_checkpoints(tmp_path, store)
    names = {
        one.next_offset: {file.sha256 for file in checkpoints._manifest(one).files}
        for one in (new, old)
    }
    (path,) = (
        path
        for path in stored(tmp_path, "files")
        if path.name.rpartition("=")[2] in names[20] - names[10]
    )
    damage(path)
    into = tmp_path / "b" / "shard-003"
    with pytest.raises(StateError, match=f"{path.name}.*{says}.*older checkpoint, or rebuild"):
        checkpoints.restore(new, into)
    assert list((tmp_path / "b").iterdir()) == [tmp_path / "b" / ".shard-003.lock"]
    checkpoints.restore(old, into)
    check(into, 10)


@pytest.mark.parametrize(
    ("damage", "says"),
    [(cut, "is torn|checksum"), (flip, "is torn|checksum"), (Path.unlink, "is missing")],
)
def test_a_damaged_manifest_is_refused_and_the_older_checkpoint_is_used(
    tmp_path: Path, store: Store, damage, says: str
) -> None:
    checkpoints, (new, old) = two_checkpoints(tmp_path, store)
    path = tmp_path / "blobs" / new.name
    damage(path)
    into = tmp_path / "b" / "shard-003"
    with pytest.raises(StateError, match=says):
        checkpoints.restore(new, into)
    # If what it names can't be read, nothing of its writer's goes.
    before = stored(tmp_path, "files")
    checkpoints.prune(SHARD, exchange_id=EXCHANGE)
    assert path.exists() is (stored(tmp_path, "files") == before)
    checkpoints.restore(old, into)
    check(into, 10)


def test_every_flipped_bit_of_a_manifest_is_noticed(tmp_path: Path, store: Store) -> None:
    checkpoints, (new, _) = two_checkpoints(tmp_path, store)
    path = tmp_path / "blobs" / new.name
    data = path.read_bytes()
    for at in range(0, len(data), max(1, len(data) // 200)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(StateError):
            checkpoints.restore(new, tmp_path / "b" / "shard-003")


def test_a_manifest_under_another_name_is_refused(tmp_path: Path, store: Store) -> None:
    checkpoints, (new, old) = two_checkpoints(tmp_path, store)
    (tmp_path / "blobs" / old.name).rename(tmp_path / "blobs" / new.name)
    with pytest.raises(StateError, match=r'that of shard 3 at offset 10 in "ns": files were moved'):
        checkpoints.restore(new, tmp_path / "b" / "shard-003")


def test_files_of_others_in_the_store_are_passed_over(tmp_path: Path, store: Store) -> None:
    checkpoints, _ = two_checkpoints(tmp_path, store)
    for what in ("manifests", "files", "owners"):
        (stored(tmp_path, what)[0].parent / "README").write_text("hello")
    checkpoints.prune(SHARD, exchange_id=EXCHANGE)
    assert offsets(checkpoints) == [20, 10]
    assert newest(checkpoints).next_offset == 20


# The folder that is restored into


def test_a_restore_replaces_what_was_there(tmp_path: Path, store: Store) -> None:
    checkpoints, (new, old) = two_checkpoints(tmp_path, store)
    into = tmp_path / "b" / "shard-003"
    for one in (old, new):
        checkpoints.restore(one, into)
        (into / "stray").write_text("")
        check(into, one.next_offset)
    checkpoints.restore(old, into)
    assert not (into / "stray").exists()
    check(into, 10)


def test_a_restored_shard_does_not_change_the_checkpoint(tmp_path: Path, store: Store) -> None:
    checkpoints = checkpoints_in(tmp_path)
    save(checkpoints, store, 10)
    into = tmp_path / "b" / "shard-003"
    checkpoints.restore(newest(checkpoints), into)
    moved = Store(into)
    for to_offset in range(20, 100, 5):
        advance(moved, to_offset)
    moved._db.compact_range(None, None)
    moved.close()
    checkpoints.restore(newest(checkpoints), into)
    check(into, 10)


@pytest.mark.parametrize("kind", [FolderBlobs, RemoteBlobs])
def test_a_full_disk_leaves_the_folder_as_it_was(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    checkpoints = checkpoints_in(tmp_path, blobs=kind(tmp_path / "blobs"))
    save(checkpoints, store, 10)
    into = tmp_path / "b" / "shard-003"
    checkpoints.restore(newest(checkpoints), into)
    save(checkpoints, store, 20)
    write, written = checkpoint_files._write, []

    def full(path, parts) -> None:
        written.append(path)
        if len(written) == 3:
            path.write_bytes(b"a part")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, parts)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "_write", full)
        with pytest.raises(ConfigError, match=r"can't restore shard 3 to .*No space.*needs space"):
            checkpoints.restore(newest(checkpoints), into)
    assert not written[0].parent.exists()
    check(into, 10)
    checkpoints.restore(newest(checkpoints), into)
    check(into, 20)


def test_a_crash_between_the_two_renames_loses_nothing(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, (new, old) = two_checkpoints(tmp_path, store)
    into = tmp_path / "b" / "shard-003"
    checkpoints.restore(old, into)
    # As a crash leaves it: the old store put aside, the new one not yet in its place.
    into.rename(tmp_path / "b" / ".shard-003.old")
    (tmp_path / "b" / ".shard-003.new").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "_digest", lambda _: "damaged")
        with pytest.raises(StateError, match="checksum"):
            checkpoints.restore(new, into)
    check(into, 10)
    checkpoints.restore(new, into)
    check(into, 20)


def test_a_rename_that_fails_is_undone(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, (new, old) = two_checkpoints(tmp_path, store)
    into = tmp_path / "b" / "shard-003"
    checkpoints.restore(old, into)
    rename = Path.rename

    def fail(self, target):
        if self.name == ".shard-003.new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ConfigError, match="can't restore shard 3"):
        checkpoints.restore(new, into)
    check(into, 10)


HOLD = """
import sys
from pathlib import Path
from headwater.state.store import Store
store = Store(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_use_by_another_process_is_refused_and_untouched(
    tmp_path: Path, store: Store
) -> None:
    checkpoints, (new, old) = two_checkpoints(tmp_path, store)
    into = tmp_path / "clock" / "block" / "shard-003"  # names with "lock" in them
    checkpoints.restore(old, into)
    command = [sys.executable, "-c", HOLD, str(into)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(ConfigError, match="shard-003 is in use by another process"):
            checkpoints.restore(new, into)
        other.communicate()
    check(into, 10)
    checkpoints.restore(new, into)
    check(into, 20)


def test_a_folder_opened_or_restored_meanwhile_is_refused(tmp_path: Path, store: Store) -> None:
    checkpoints, (new, old) = two_checkpoints(tmp_path, store)
    into = tmp_path / "b" / "shard-003"
    checkpoints.restore(old, into)
    opened: list[Store] = []

    def open_it(what: str) -> None:
        if not opened:
            opened.append(Store(into))

    meanwhile = checkpoints_in(tmp_path, blobs=HookedBlobs(tmp_path / "blobs", open_it))
    with pytest.raises(ConfigError, match="in use"):
        meanwhile.restore(new, into)
    opened[0].close()
    check(into, 10)

    class Twice(FolderBlobs):
        def link(self, name, path):
            checkpoints.restore(new, into)
            return super().link(name, path)

    with pytest.raises(ConfigError, match="being restored by another process"):
        checkpoints_in(tmp_path, blobs=Twice(tmp_path / "blobs")).restore(new, into)
    check(into, 10)


def test_a_folder_that_is_no_store_is_replaced(tmp_path: Path, store: Store) -> None:
    checkpoints, (new, _) = two_checkpoints(tmp_path, store)
    into = tmp_path / "b" / "shard-003"
    checkpoints.restore(new, into)
    (into / "CURRENT").write_bytes(b"nonsense")
    with pytest.raises(StateError):
        Store(into)
    checkpoints.restore(new, into)
    check(into, 20)
    assert Stores(tmp_path / "b").folder(SHARD) == into
