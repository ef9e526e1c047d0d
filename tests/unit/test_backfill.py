"""Backfill: a view that is new to a shard gets its past while its present comes live."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from harness import BASE_US, SECOND_US, SETTINGS, Harness, click
from held import Held

import headwater as hw
from headwater.flow.answer import Status
from headwater.flow.checkpoints import late_events
from headwater.flow.history import Past
from headwater.kernels.rows import NO_HORIZON
from headwater.plan.plan import compile_plan
from headwater.state.group import Group
from headwater.state.memory import Memory
from headwater_connectors.log.log import OffsetLostError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from headwater.flow.settings import WorkerSettings

AT_US = BASE_US + 1_000 * SECOND_US
KEYS = pl.DataFrame({"user": ["a", "b"]})
clicks = hw.stream(
    "clicks",
    schema={"user": pl.String, "page": pl.Int64, "x": pl.Float64, "at": pl.Int64},
    event_time=hw.epoch("at", "us"),
)
user = hw.entity("user", key="user")
counts = hw.view(
    "counts", features=clicks.group_by(user).window("1h").agg(n=hw.count())
)  # fmt: skip
totals = hw.view(
    "totals",
    features=clicks.filter(pl.col("x") > 0).group_by(user).window("1h").agg(x=hw.sum("x")),
)
ONE = compile_plan([hw.service("model", [counts])])
BOTH = compile_plan([hw.service("model", [counts, totals])])


class Grown:
    """A folder with `n` applied events and one view, opened again with a second view."""

    def __init__(
        self,
        folder: Path,
        count: int = 20,
        rows_max: int = 3,
        *,
        settings: WorkerSettings = SETTINGS,
        more: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.harness = Harness(ONE, folder, partitions=2, settings=settings)
        if more:
            # No horizon is later than the clock of the exchange.
            self.harness.wait(more[-1]["at"] - BASE_US)
        self.harness.push([*self.rows(count), *more])
        self.harness.settle()
        self.harness.worker.checkpoints.close(self.harness.now_us)
        self.rows_max = rows_max
        self.harness.plan = BOTH
        self.reopen()

    def reopen(self) -> None:
        self.harness.worker.abandon()
        self.harness.open()
        self.ahead = Held()
        self.harness.worker.backfill._ahead = self.ahead  # type: ignore[attr-defined]
        self.harness.worker.backfill._rows_max = self.rows_max

    def rows(self, count: int, first: int = 0) -> list[dict[str, Any]]:
        return [click(i, "ab"[i % 3 == 0], x=float(i - 3)) for i in range(first, first + count)]

    @property
    def left(self) -> int:
        return self.harness.worker.backfill.left

    @property
    def history_rows(self) -> float:
        found = self.harness.worker.metrics.registry.get_sample_value(
            "headwater_history_rows_total"
        )
        return found or 0.0

    def step(self) -> None:
        """Let a piece be read, and the shards have a turn."""
        self.ahead.run()
        self.harness.step(len(self.harness.sources))

    def load(self) -> None:
        for _ in range(1_000):
            if not self.left:
                return
            self.step()
        raise AssertionError("its past never came")

    def read(self) -> tuple[list[tuple[Any, ...]], list[list[Status]]]:
        reader = self.harness.worker.reader
        answer = reader.read(reader.describe("model"), KEYS, AT_US)
        return answer.values.rows(), [
            [Status(s) for s in each] for each in answer.statuses.tolist()
        ]

    def expected(self) -> list[tuple[int, float | None]]:
        rows = [pushed.row for pushed in self.harness.pushed]
        mine = {key: [row for row in rows if row["user"] == key] for key in KEYS["user"]}
        return [
            (len(each), sum(row["x"] for row in each if row["x"] > 0) or None)
            for each in mine.values()
        ]


@pytest.fixture
def grown(tmp_path: Path) -> Grown:
    return Grown(tmp_path)


def test_until_its_past_is_there_a_view_is_warming_and_the_others_answer(grown: Grown) -> None:
    assert grown.left == 20
    while grown.left:
        values, statuses = grown.read()
        assert [row[0] for row in values] == [n for n, _ in grown.expected()]
        assert statuses[0] == [Status.PRESENT, Status.PRESENT]
        # By shard: one may have its past before the other.
        assert {*statuses[1]} <= {Status.WARMING, Status.PRESENT}
        for value, status, (_, wanted) in zip(values, statuses[1], grown.expected(), strict=True):
            assert value[1] == (None if status is Status.WARMING else wanted)
        grown.step()
    assert grown.read() == (grown.expected(), [[Status.PRESENT] * 2] * 2)


def test_live_events_go_on_and_each_event_counts_once(grown: Grown) -> None:
    first = itertools.count(20, 4)
    while grown.left:
        grown.harness.push(grown.rows(4, next(first)))
        for which in range(len(grown.harness.sources)):
            grown.harness.step(which)
        grown.step()
    grown.harness.settle()
    assert len(grown.harness.pushed) > 24
    assert grown.read()[0] == grown.expected()


def test_after_a_restart_it_goes_on_from_its_cursors(grown: Grown) -> None:
    for _ in range(4):
        grown.step()
    done = 20 - grown.left
    assert 0 < done < 20
    grown.harness.worker.checkpoints.close(grown.harness.now_us)
    grown.reopen()
    assert grown.left == 20 - done
    grown.load()
    assert grown.history_rows <= 20 - done + grown.rows_max
    assert grown.read() == (grown.expected(), [[Status.PRESENT] * 2] * 2)


def test_without_a_checkpoint_it_begins_anew(grown: Grown) -> None:
    for _ in range(4):
        grown.step()
    assert grown.left < 20
    grown.reopen()
    assert grown.left == 20
    grown.load()
    assert grown.read()[0] == grown.expected()


def test_a_piece_is_not_given_to_a_shard_that_lacks_what_was_before_it(grown: Grown) -> None:
    backfill = grown.harness.worker.backfill
    grown.step()
    (one, other) = grown.harness.worker.shards.values()
    lane = backfill._lane
    behind = one.loading["totals@1"].lanes[lane]
    ahead = other.loading["totals@1"].lanes[lane]
    ahead.cursor = 5
    piece = Past(5, 9, None)  # type: ignore[arg-type]
    assert behind.cursor < 5
    assert backfill._wanted(piece) == [(other, "totals@1", ahead)]


def test_what_cannot_be_read_is_tried_again_while_live_events_go_on(
    grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = grown.harness.worker.backfill._history
    calls = []

    def lost(*_: object, **__: object):
        calls.append(1)
        raise OffsetLostError("clicks", 0, 0, 7, 9)
        yield

    with monkeypatch.context() as broken:
        broken.setattr(history, "read", lost)
        grown.step()
        grown.step()
        assert len(calls) == 1
        grown.step()
        assert len(calls) == 1  # it waits for a while
        grown.harness.push(grown.rows(4, 20))
        grown.harness.step(0)
        grown.harness.step(1)
        grown.step()
        assert sum(row[0] for row in grown.read()[0]) == 24
        failures = grown.harness.worker.metrics.registry.get_sample_value
        assert failures("headwater_history_failures_total") == 1
    grown.harness.wait(5 * SECOND_US)
    grown.load()
    grown.harness.settle()
    assert grown.read()[0] == grown.expected()


def test_a_view_that_has_left_the_plan_frees_its_space(grown: Grown) -> None:
    grown.load()
    keys = [b"\x01\x01\x00\x00\x00a", b"\x01\x01\x00\x00\x00b"]
    grown.harness.worker.checkpoints.close(grown.harness.now_us)

    def kept(view_id: str) -> int:
        shards = grown.harness.worker.shards.values()
        return sum(b is not None for s in shards for b in s.store.get_many(view_id, keys))

    assert kept("totals@1") == 2
    grown.harness.plan = ONE
    grown.reopen()
    assert (kept("totals@1"), kept("counts@1")) == (0, 2)
    # Without another checkpoint, as after a crash: nothing names what is gone as being there.
    grown.harness.plan = BOTH
    grown.reopen()
    assert grown.left == 20
    grown.load()
    assert grown.read()[0] == grown.expected()


def test_events_too_old_for_every_window_are_left_out_and_not_called_late(tmp_path: Path) -> None:
    # In both shards the last event is two hours later; a horizon is where the newest event is.
    late = [click(7_200 + i, "abcdefgh"[i], x=2.0) for i in range(8)]
    grown = Grown(tmp_path, settings=replace(SETTINGS, read_back_us=0), more=late)
    assert all(
        shard.horizon_us >= BASE_US + 7_200 * SECOND_US
        for shard in grown.harness.worker.shards.values()
    )
    grown.load()
    reader = grown.harness.worker.reader
    at_us = BASE_US + 7_300 * SECOND_US
    answer = reader.read(reader.describe("model"), KEYS, at_us)
    assert answer.values.rows() == [(1, 2.0), (1, 2.0)]
    assert grown.history_rows == 8
    assert late_events(grown.harness.worker.shards.values())["totals@1"] == 0


def test_a_view_needs_events_from_its_widest_window_at_the_horizon_on() -> None:
    def needs(*windows: str, horizon: int = BASE_US) -> int | None:
        view = hw.view("v", features=clicks.group_by(user).window(*windows).agg(n=hw.count()))
        (plan,) = compile_plan([view]).views.values()
        return Group(plan, Memory(1 << 20)).needs_from_us(horizon)

    minute_us = 60 * SECOND_US
    assert needs("1h", "10m") == (BASE_US - 60 * minute_us) // minute_us * minute_us
    assert needs("1h", "lifetime") is None
    assert needs("1h", horizon=NO_HORIZON) is None
