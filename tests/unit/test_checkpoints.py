"""Checkpoints: rows and mark as one, when they start, and folders that don't fit."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl
import pytest
from harness import (
    BASE_US,
    SECOND_US,
    SETTINGS,
    Harness,
    click,
    clicks,
    clicks_plan,
    records_of,
)

import headwater as hw
from headwater.errors import ConfigError, StateError
from headwater.plan.plan import compile_plan
from headwater.state.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

INGEST, SHARDS = 0, 1


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    made: list[Harness] = []

    def build(**changes: Any) -> Harness:
        harness = Harness(clicks_plan(), tmp_path, settings=replace(SETTINGS, **changes))
        made.append(harness)
        return harness

    yield build
    for harness in made:
        harness.close()


def apply(harness: Harness, *rows: dict[str, Any]) -> None:
    harness.push(rows)
    harness.settle()


def total(harness: Harness, user: str = "a") -> tuple[int, float | None]:
    reader = harness.worker.reader
    info = reader.describe_features(["by_user.n_lifetime", "by_user.total_lifetime"])
    at_us = BASE_US + 86_400 * SECOND_US
    return reader.read(info, pl.DataFrame({"user": [user]}), at_us).values.row(0)


def written(harness: Harness) -> dict[int, int]:
    """Return the offset of each shard's mark on disk."""
    marks = {n: shard.store.mark() for n, shard in harness.worker.shards.items() if shard.has_store}
    return {n: mark.next_offset for n, mark in marks.items() if mark is not None}


def applied(harness: Harness) -> dict[int, int]:
    return {n: shard.next_offset for n, shard in harness.worker.shards.items()}


def test_a_checkpoint_starts_when_its_time_has_come_and_rows_were_applied(make: Any) -> None:
    harness = make(checkpoint_every_us=60 * SECOND_US)
    apply(harness, click(0))
    assert written(harness) == {}
    harness.wait(60 * SECOND_US)
    harness.step(SHARDS)
    harness.worker.checkpoints.wait()
    assert written(harness) == applied(harness)
    before = written(harness)
    harness.wait(600 * SECOND_US)
    harness.step(SHARDS)
    harness.worker.checkpoints.wait()
    assert written(harness) == before


def test_a_checkpoint_starts_early_when_many_rows_were_applied(make: Any) -> None:
    harness = make(checkpoint_rows=10, poll_records_max=100)
    apply(harness, *[click(n) for n in range(4)])  # eight rows, for two entities
    assert written(harness) == {}
    apply(harness, click(9))
    harness.worker.checkpoints.wait()
    assert written(harness) == applied(harness)


def test_while_one_is_written_the_next_does_not_start(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make(checkpoint_rows=1)
    go_on = threading.Event()
    writes = []
    write = Store.write

    def slow(self: Store, *args: Any) -> int:
        writes.append(1)
        assert go_on.wait(60)
        return write(self, *args)

    monkeypatch.setattr(Store, "write", slow)
    harness.push(click(n) for n in range(30))
    for _ in range(20):
        harness.step(INGEST)
        harness.step(SHARDS)
    assert total(harness) == (30, 30.0)  # applying went on meanwhile
    assert len(writes) <= 1
    go_on.set()
    harness.worker.checkpoints.wait()


def test_rows_and_mark_are_those_of_one_moment(make: Any) -> None:
    harness = make()
    apply(harness, click(0))
    taken = {n: shard.begin_checkpoint() for n, shard in harness.worker.shards.items()}
    at = applied(harness)
    apply(harness, click(1, x=2.0), click(2, user="b", x=4.0))
    for number, checkpoint in taken.items():
        harness.worker.shards[number].write_checkpoint(checkpoint)
    harness.crash()
    assert applied(harness) == at
    assert (total(harness), total(harness, "b")) == ((1, 1.0), (0, None))
    harness.settle()
    assert (total(harness), total(harness, "b")) == ((2, 3.0), (1, 4.0))


def test_rows_changed_while_a_checkpoint_is_written_are_in_the_next(make: Any) -> None:
    harness = make()
    apply(harness, click(0))
    taken = {n: shard.begin_checkpoint() for n, shard in harness.worker.shards.items()}
    apply(harness, click(1, x=2.0))
    for number, checkpoint in taken.items():
        harness.worker.shards[number].write_checkpoint(checkpoint)
    harness.checkpoint()
    at = applied(harness)
    harness.crash()
    assert applied(harness) == at
    assert total(harness) == (2, 3.0)


def test_a_checkpoint_that_was_never_written_loses_nothing(make: Any) -> None:
    harness = make()
    apply(harness, click(0))
    for shard in harness.worker.shards.values():
        shard.begin_checkpoint()
    apply(harness, click(1, user="b", x=2.0))
    harness.checkpoint()
    harness.crash()
    assert (total(harness), total(harness, "b")) == ((1, 1.0), (1, 2.0))


def test_what_a_write_raises_comes_through(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = make(checkpoint_rows=1)
    harness.push([click(0)])
    with monkeypatch.context() as patch:

        def fail(*_args: Any) -> int:
            raise OSError("disk full")

        patch.setattr(Store, "write", fail)
        harness.step(INGEST)

        def work() -> None:
            for _ in range(3):
                harness.step(SHARDS)
                harness.worker.checkpoints.wait()

        with pytest.raises(OSError, match="disk full"):
            work()
    # Nothing was marked clean: the next checkpoint, here the closing one, has it all.
    harness.worker.close()
    harness.open()
    assert total(harness) == (1, 1.0)


def test_the_exchange_keeps_what_no_checkpoint_holds(make: Any) -> None:
    harness = make(keep_exchange=False)
    apply(harness, *[click(n, user=f"u{n}") for n in range(20)])
    harness.checkpoint()
    assert harness.log.start_offsets(harness.exchange) == list(applied(harness).values())
    at = list(applied(harness).values())
    apply(harness, *[click(n, user=f"u{n}") for n in range(20)])
    assert harness.log.start_offsets(harness.exchange) == at
    harness.crash()
    assert harness.unread() > 0
    harness.settle()
    assert all(total(harness, f"u{n}") == (2, 2.0) for n in range(20))


def test_an_exchange_that_is_kept_stays_whole(make: Any) -> None:
    harness = make(keep_exchange=True)
    apply(harness, click(0))
    harness.checkpoint()
    assert harness.log.start_offsets(harness.exchange) == [0, 0]


def test_over_the_budget_rows_are_written_and_leave_memory(make: Any) -> None:
    harness = make()
    harness.tighten(1 << 10)
    apply(harness, *[click(n, user=f"u{n}") for n in range(60)])
    rows = [len(g) for s in harness.worker.shards.values() for g in s.groups.values()]
    assert sum(rows) < 30
    assert written(harness)
    assert all(total(harness, f"u{n}") == (1, 1.0) for n in range(60))
    apply(harness, *[click(n, user=f"u{n}", x=2.0) for n in range(60)])
    assert harness.rows_from_disk >= 60
    assert all(total(harness, f"u{n}") == (2, 3.0) for n in range(60))


def test_nothing_is_left_to_replay_after_a_graceful_stop(make: Any, tmp_path: Path) -> None:
    harness = make()
    apply(harness, *[click(n, user=f"u{n}") for n in range(20)])
    ends = harness.log.end_offsets(harness.exchange)
    harness.close()
    harness.open()
    assert list(applied(harness).values()) == ends
    harness.step(SHARDS)
    assert total(harness, "u7") == (1, 1.0)
    assert sum(map(len, records_of(harness.log, harness.exchange).values())) > 0


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def store_of(folder: Path) -> Store:
    return Store(folder / "shard-000")


def kept(tmp_path: Path) -> Path:
    """Leave a folder with the state of two shards."""
    harness = Harness(clicks_plan(), tmp_path)
    apply(harness, click(0))
    harness.close()
    return tmp_path


def change_mark(folder: Path, **changes: Any) -> None:
    store = store_of(folder)
    mark = store.mark()
    assert mark is not None
    store.write(msgspec.structs.replace(mark, **changes), [])
    store.close()


MARKS: dict[str, tuple[dict[str, Any], str]] = {
    "format": ({"format": 99}, "has format 99, this version reads 2; remove it"),
    "stamp": (
        {"stamp": "format=1 polars=0.1 machine=abacus"},
        "was written by another engine .format=1 polars=0.1 machine=abacus; this one is",
    ),
    "namespace": ({"namespace": "staging"}, 'shard 0 of 2 in namespace "staging", not 0 of 2 in'),
    "shard": ({"shard": 1}, "belongs to shard 1 of 2"),
    "shards": ({"shards": 16}, "belongs to shard 0 of 16"),
    "logic": (
        {"views": {"by_user@1": "0000000000000000", "by_page@1": "0"}},
        'view "by_user" version 1 has changed since .* give it version=2',
    ),
}


@pytest.mark.parametrize("name", MARKS)
def test_state_that_does_not_fit_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    changes, wanted = MARKS[name]
    change_mark(kept(tmp_path), **changes)
    with pytest.raises(StateError, match=wanted) as caught:
        Harness(clicks_plan(), tmp_path)
    assert str(tmp_path) in one_line(caught.value)
    assert caught.value.exit_code == 78


def test_what_was_refused_can_be_opened_again_at_once(tmp_path: Path) -> None:
    folder = kept(tmp_path)
    with pytest.raises(StateError, match="has changed") as caught:
        Harness(changed_plan(), folder)
    harness = Harness(clicks_plan(), folder)  # the failed attempt holds no lock
    assert total(harness) == (1, 1.0)
    harness.close()
    assert caught.value.__traceback__ is not None  # which holds every frame of the attempt


def changed_plan() -> Any:
    """Return the plan of `clicks` with a filter in one of its views."""
    by_user, by_page = clicks().views
    rows = by_user.features.rows.filter(pl.col("x") > 0)
    features = rows.group_by(by_user.features.entity).window("10s", "1h", "lifetime")
    view = hw.view("by_user", features=features.agg(n=hw.count(), total=hw.sum("x")))
    return compile_plan([hw.service("clicks_of", [view, by_page])])


def test_a_view_that_was_removed_is_no_error(tmp_path: Path) -> None:
    folder = kept(tmp_path)
    by_user, _ = clicks().views
    harness = Harness(compile_plan([by_user]), folder)
    assert total(harness) == (1, 1.0)
    harness.close()


def test_a_mark_that_is_no_mark_is_refused(tmp_path: Path) -> None:
    store = store_of(kept(tmp_path))
    store._db.put(b"\x00mark", b"\xc1 nonsense")
    store.close()
    with pytest.raises(StateError, match="a mark this version can't read") as caught:
        Harness(clicks_plan(), tmp_path)
    one_line(caught.value)


def test_a_folder_that_holds_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shard-000").mkdir()
    (tmp_path / "shard-000" / "CURRENT").write_text("not a database")
    with pytest.raises(StateError, match=r"can't be opened: .*; restore it or remove it") as caught:
        Store(tmp_path / "shard-000")
    one_line(caught.value)


HOLD = """
import sys
from pathlib import Path
from headwater.state.store import Store
store = Store(Path(sys.argv[1]))
sys.stdout.write("open\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_a_folder_that_another_process_has_open_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shard-000"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(ConfigError, match="is in use by another process; stop it") as caught:
            Store(folder)
        one_line(caught.value)
        other.communicate(b"")
    Store(folder).close()
