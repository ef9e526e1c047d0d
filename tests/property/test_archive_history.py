"""Compaction, retention and named snapshots against a plain list of rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from archive_harness import COLUMNS, ID, TOPIC, add, offsets, open_archive, rows
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headwater_connectors.archive.archive import Archive
from headwater_connectors.archive.compaction import Sizes, compact
from headwater_connectors.archive.errors import ArchiveError
from headwater_connectors.archive.named_snapshots import NamedSnapshots
from headwater_connectors.archive.retention import retain
from headwater_connectors.archive.snapshot import Snapshot
from headwater_connectors.archive.verification import verify

GRACE_US = 1_000


class History(RuleBasedStateMachine):
    """One partition; offset n arrived at 1000 n + 7, so a bound in time is one in offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.archive = open_archive(Path(self.place.name))
        self.begin = 0
        self.end = 0
        self.now_us = 0
        self.taken: dict[str, tuple[int, int]] = {}
        self.texts: list[tuple[str, int, int]] = []

    def teardown(self) -> None:
        self.place.cleanup()

    def snapshot(self) -> Snapshot:
        return self.archive.snapshot({TOPIC: ID})

    @rule(count=st.integers(0, 6))
    def append(self, count: int) -> None:
        add(self.archive, count)
        self.end += count

    @rule(
        file_rows=st.integers(4, 40),
        few=st.integers(0, 4),
        step_bytes=st.sampled_from([1, 1 << 30]),
    )
    def merge(self, file_rows: int, few: int, step_bytes: int) -> None:
        sizes = Sizes(1 << 20, file_rows, step_bytes, few)
        compact(self.archive, TOPIC, ID, 0, now_us=self.now_us, sizes=sizes)

    @rule(before=st.none() | st.integers(0, 60), later_us=st.sampled_from([0, 1, GRACE_US]))
    def retain(self, before: int | None, later_us: int) -> None:
        self.now_us += later_us
        visit = {"grace_us": GRACE_US, "now_us": self.now_us}
        before_us = None if before is None else 1_000 * before
        would = retain(self.archive, TOPIC, ID, 0, before_us=before_us, **visit, dry_run=True)
        told = retain(self.archive, TOPIC, ID, 0, before_us=before_us, **visit)
        assert told == would
        assert told.held_by == tuple(sorted(self.taken))
        if self.taken or before is None:
            assert told.dropped_rows == 0
        self.begin += told.dropped_rows
        assert self.begin <= max(before or 0, self.begin - told.dropped_rows)

    @rule(name=st.sampled_from("abc"))
    def name(self, name: str) -> None:
        named = NamedSnapshots(self.archive)
        if name in self.taken:
            named.remove(name)
            del self.taken[name]
        elif self.end:
            named.take(name, {TOPIC: ID}, self.now_us)
            self.taken[name] = (self.begin, self.end)

    @rule()
    def note_a_snapshot(self) -> None:
        self.texts.append((str(self.snapshot()), self.begin, self.end))

    @rule()
    def start_anew(self) -> None:
        self.archive = open_archive(Path(self.place.name))

    @invariant()
    def every_row_is_there_once(self) -> None:
        expected = list(range(self.begin, self.end))
        assert offsets(self.archive) == expected
        assert self.archive.rows(TOPIC, ID) == len(expected)

    @invariant()
    def named_snapshots_read_what_they_had(self) -> None:
        named = {one.name: one for one in NamedSnapshots(self.archive).all()}
        assert named.keys() == self.taken.keys()
        for name, (begin, end) in self.taken.items():
            found = offsets(self.archive, snapshot=Snapshot.parse(named[name].snapshot))
            assert found == list(range(begin, end))

    @invariant()
    def other_snapshots_read_what_they_had_or_are_refused(self) -> None:
        for text, begin, end in self.texts:
            snapshot = Snapshot.parse(text)
            if begin == self.begin or not any(snapshot.topics[0].numbers):
                assert offsets(self.archive, snapshot=snapshot) == list(range(begin, end))
                continue
            with pytest.raises(ArchiveError, match=r"history of flights\[0\] begins after offset"):
                offsets(self.archive, snapshot=snapshot)

    @invariant()
    def values_are_as_they_were(self) -> None:
        for _, frame in self.archive.scan(TOPIC, ID, columns=COLUMNS, raw=True):
            expected = rows(self.begin, self.end - self.begin).select(frame.columns)
            assert frame.equals(expected)

    @invariant()
    def the_archive_verifies(self) -> None:
        found = verify(Archive(self.archive.blobs, stamp="s"), TOPIC, ID, 0)
        assert found.problems == []
        assert found.rows == self.end - self.begin


History.TestCase.settings = settings(deadline=None, max_examples=150, stateful_step_count=30)
TestHistory = History.TestCase
