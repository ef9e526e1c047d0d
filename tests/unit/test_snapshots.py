"""Training sets that name their snapshot: repeated bit for bit, refused beyond the frontier."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from harness import BASE_US, SECOND_US, click, clicks, moment

import headwater as hw
from headwater.archive_store import ArchiveStore
from headwater.config import Config
from headwater.errors import ConfigError
from headwater.offline.frontier import FrontierError, moment_text
from headwater.plan.plan import compile_plan
from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.named_snapshots import NamedSnapshots
from headwater_connectors.archive.snapshot import Snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from headwater.local_store import LocalStore

NOW_US = BASE_US + 5_000 * SECOND_US
T = moment(BASE_US + 4_000 * SECOND_US)
SECOND = timedelta(seconds=1)
SPINE = pl.DataFrame({"user": ["a", "b", "a"], "page": [1, 1, 1], "t": [T, T, T - 5 * SECOND]})


class Clock:
    def __init__(self) -> None:
        self.now_us = NOW_US

    def __call__(self) -> int:
        return self.now_us


def opened(path: Path, clock: Clock | None = None) -> LocalStore:
    return hw.local([clicks()], path=path / "store", partitions=2, clock=clock or Clock())


def made(store: LocalStore | ArchiveStore, **more: Any) -> pl.DataFrame:
    return store.training_set("clicks_of", more.pop("spine", SPINE), time="t", **more).collect()


@pytest.mark.parametrize("as_of", ["event", "arrival"])
def test_a_snapshot_gives_the_same_bits_although_more_and_late_events_came(
    tmp_path: Path, as_of: str
) -> None:
    with opened(tmp_path) as store:
        store.push("clicks", [click(3_990 + n, x=0.1 * n) for n in range(9)], arrival=T - SECOND)
        first = store.snapshot()
        before = made(store, as_of=as_of, snapshot=first)
        assert before["n_1h"].to_list() == [9, 0, 5] if as_of == "event" else [9, 0, 0]
        # Late by event time, and as late by arrival as it can be to count in both.
        store.push("clicks", [click(3_980, x=7.0), click(3_994, x=1e9)], arrival=T - 6 * SECOND)
        second = store.snapshot()
        assert second != first
        assert made(store, as_of=as_of, snapshot=first).equals(before)
        assert made(store, as_of=as_of, snapshot=str(first)).equals(before)
        after = made(store, as_of=as_of, snapshot=second)
        assert after["n_1h"].to_list() == [11, 0, 7 if as_of == "event" else 2]
        # Without a snapshot there is everything: archive and log.
        assert made(store, as_of=as_of).equals(after)
    with opened(tmp_path) as store:
        assert made(store, as_of=as_of, snapshot=str(first)).equals(before)
    found = hw.archive([clicks()], tmp_path / "store" / "archive")
    assert made(found, as_of=as_of, snapshot=str(first)).equals(before)
    assert made(found, as_of=as_of, snapshot=second).equals(after)
    assert made(found, as_of=as_of).equals(after)


def test_a_named_snapshot_goes_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "store" / "archive"
    with opened(tmp_path) as store:
        store.push("clicks", [click(3_990)], arrival=T)
        store.snapshot()
        kept = Archive(FolderBlobs(folder), stamp="")
        pairs = {(topic, topic_id) for topic, topic_id, _ in kept.partitions()}
        NamedSnapshots(kept).take("march", sorted(pairs), NOW_US)
        before = made(store, snapshot="march")
        store.push("clicks", [click(3_991)], arrival=T)
        later = store.snapshot()
        assert made(store, snapshot="march").equals(before)
        assert not made(store, snapshot=later).equals(before)
    found = hw.archive([clicks()], folder)
    assert made(found, snapshot="march").equals(before)
    assert found.frontier("march") == moment(NOW_US)


def test_a_snapshot_holds_what_was_pushed_before_it_and_is_complete_up_to_then(
    tmp_path: Path,
) -> None:
    clock = Clock()
    with opened(tmp_path, clock) as store:
        store.push("clicks", [click(3_990)], arrival=T)
        snapshot = store.snapshot()
        # The second partition never had an event: it is at its end, and that is said.
        found = hw.archive([clicks()], tmp_path / "store" / "archive")
        assert found.frontier(snapshot) == moment(NOW_US)
        clock.now_us += 60 * SECOND_US
        assert found.frontier(store.snapshot()) == moment(NOW_US + 60 * SECOND_US)
        assert found.frontier(str(snapshot)) == moment(NOW_US)


def test_rows_beyond_a_snapshots_frontier_are_an_error_that_counts_them(tmp_path: Path) -> None:
    clock = Clock()
    spine = SPINE.with_columns(t=pl.Series([T, moment(NOW_US), moment(NOW_US + 1)]))
    with opened(tmp_path, clock) as store:
        store.push("clicks", [click(3_990)])
        snapshot = store.snapshot()
        with pytest.raises(FrontierError, match=r"1 of 3 rows .* frontier .* later snapshot"):
            made(store, spine=spine, snapshot=snapshot)
        assert made(store, spine=spine[:2], snapshot=snapshot)["n_1h"].to_list() == [1, 0]
        # The log has everything: nothing is beyond it.
        assert made(store, spine=spine).height == 3
        clock.now_us += 1
        assert made(store, spine=spine, snapshot=store.snapshot()).height == 3
        # What was refused of the snapshot still is: its own frontier counts.
        with pytest.raises(FrontierError):
            made(store, spine=spine, snapshot=snapshot)


class Waits:
    """Time that passes as somebody sleeps; after a while something happens."""

    def __init__(self, after: int, then: Any) -> None:
        self.slept: list[float] = []
        self._after, self._then = after, then

    def now_s(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == self._after:
            self._then()


def test_an_archive_is_waited_for_until_its_frontier_has_passed(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock) as store:
        store.push("clicks", [click(3_990)])
        first = store.snapshot()

        def later() -> None:
            clock.now_us += 90 * SECOND_US
            store.snapshot()

        waits = Waits(3, later)
        found = ArchiveStore(
            compile_plan([clicks()]), Config(worker={"archive": tmp_path / "store" / "archive"}),
            sleep=waits.sleep, now_s=waits.now_s,
        )  # fmt: skip
        until = moment(NOW_US + 80 * SECOND_US)
        assert found.snapshot() == first
        with pytest.raises(FrontierError, match=r"complete up to .* was asked for; wait longer"):
            found.snapshot(until=until, timeout_s=1.5)
        assert waits.slept == [1.0, 0.5]
        assert found.frontier(found.snapshot(until=until, timeout_s=10)) > until


def test_a_store_in_memory_has_no_snapshot() -> None:
    with hw.local([clicks()]) as store, pytest.raises(ConfigError, match="path="):
        store.snapshot()


def test_an_archive_that_is_not_there_or_holds_nothing_of_a_stream_is_named(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="no archive at"):
        hw.archive([clicks()], tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"nothing is archived of stream .clicks. .archived: no"):
        hw.archive([clicks()], tmp_path).snapshot()


def test_a_snapshot_of_another_stream_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.push("clicks", [click(3_990)])
        other = Snapshot.parse("flights@a1:1~00000000")
        with pytest.raises(hw.RequestError, match='nothing of stream "clicks"'):
            made(store, snapshot=other)
        with pytest.raises(hw.RequestError, match="leave one out"):
            made(store, snapshot=other, events={})


def test_moments_are_spelled_for_people() -> None:
    assert moment_text(BASE_US) == moment(BASE_US).isoformat().replace("+00:00", "Z")
    assert moment_text(-(1 << 63)) == "nothing"
