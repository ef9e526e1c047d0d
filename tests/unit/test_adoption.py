"""Adoption: a running worker takes on another plan between two batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from harness import BASE_US, SECOND_US, Harness, click, records_of
from held import Held

import headwater as hw
from headwater.errors import NotFoundError
from headwater.flow.answer import PlanChangedError, Status
from headwater.flow.exchange import split
from headwater.flow.lanes import Lanes
from headwater.flow.running import CurrentPlan
from headwater.flow.starts import Start
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headwater.plan.plan import Plan

AT_US = BASE_US + 1_000 * SECOND_US
SCHEMA = {"user": pl.String, "page": pl.Int64, "x": pl.Float64, "at": pl.Int64}
user, page = hw.entity("user", key="user"), hw.entity("page", key="page")


def views_of(schema: dict[str, Any]) -> dict[str, Any]:
    clicks = hw.stream("clicks", schema=schema, event_time=hw.epoch("at", "us"))
    by_user = clicks.group_by(user).window("1h")
    made = {
        "counts": by_user.agg(n=hw.count()),
        "totals": clicks.filter(pl.col("x") > 0).group_by(user).window("1h").agg(x=hw.sum("x")),
        "pages": clicks.group_by(page).window("1h").agg(hits=hw.count()),
    }
    if "y" in schema:
        made["ys"] = by_user.agg(y=hw.sum("y"))
    return {name: hw.view(name, features=features) for name, features in made.items()}


def plan_of(*names: str, schema: dict[str, Any] = SCHEMA) -> Plan:
    views = views_of(schema)
    return compile_plan([hw.service(name, [views[name]]) for name in names])


EXPECTED: dict[str, Callable[[list[dict[str, Any]], Any], Any]] = {
    "counts": lambda rows, key: sum(row["user"] == key for row in rows),
    "totals": lambda rows, key: (
        sum(row["x"] for row in rows if row["user"] == key and row["x"] > 0) or None
    ),
    "pages": lambda rows, key: sum(row["page"] == key for row in rows),
    "ys": lambda rows, key: (
        sum(row["y"] for row in rows if row["user"] == key and "y" in row) or None
    ),
}


class Running:
    """A worker with twenty events in it; history is read when the test says so."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.harness = Harness(plan_of(*names), folder, partitions=2)
        self.hold()
        self.push(20)
        self.harness.settle()

    def hold(self) -> None:
        self.ahead = Held()
        self.harness.worker.backfill._ahead = self.ahead  # type: ignore[attr-defined]
        self.harness.worker.backfill._rows_max = 3

    def push(self, count: int, **more: Any) -> None:
        first = len(self.harness.pushed)
        self.harness.push(
            click(i, "ab"[i % 3 == 0], page=i % 2, x=float(i - 3)) | more
            for i in range(first, first + count)
        )

    def adopt(self, *names: str) -> None:
        self.harness.adopt(plan_of(*names))

    def step(self) -> None:
        """Let a piece of the past be read, and everybody have a turn."""
        self.ahead.run()
        for which in range(len(self.harness.sources) + 1):
            self.harness.step(which)

    def load(self) -> None:
        for _ in range(200):
            if not any(shard.loading for shard in self.shards) and not self.harness.unread():
                return
            self.step()
        raise AssertionError("its past never came")

    @property
    def shards(self) -> list[Any]:
        return list(self.harness.worker.shards.values())

    @property
    def holes(self) -> int:
        return sum(
            int(sample.value)
            for metric in self.harness.worker.metrics.holes.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )

    def late_views(self) -> set[str]:
        """Return the views for which late events are counted."""
        (metric,) = self.harness.worker.metrics.late_rows.collect()
        return {sample.labels["view"] for sample in metric.samples}

    def keys(self, name: str) -> list[Any]:
        return [0, 1] if name == "pages" else ["a", "b"]

    def read(self, name: str) -> tuple[list[Any], list[Status]]:
        reader = self.harness.worker.reader
        info = reader.describe(name)
        ((key, dtype),) = info.join_keys.items()
        inputs = pl.DataFrame({key: pl.Series(self.keys(name), dtype=dtype)})
        answer = reader.read(info, inputs, AT_US)
        (column,) = answer.values.get_columns()
        return column.to_list(), [Status(one) for one in answer.statuses[0]]

    def expected(self, name: str) -> list[Any]:
        rows = [one.row for one in self.harness.pushed]
        return [EXPECTED[name](rows, key) for key in self.keys(name)]

    def assert_right(self, *names: str) -> None:
        for name in names:
            assert self.read(name) == (self.expected(name), [Status.PRESENT] * 2), name

    def crash(self) -> None:
        self.harness.worker.abandon()
        self.harness.open()
        self.hold()


def test_a_new_view_is_warming_until_its_past_is_there_and_counts_each_event_once(tmp_path):
    running = Running(tmp_path, "counts")
    running.adopt("counts", "totals")
    warming = 0
    while any(shard.loading for shard in running.shards):
        values, statuses = running.read("totals")
        assert {*statuses} <= {Status.WARMING, Status.PRESENT}
        assert all(v is None for v, s in zip(values, statuses, strict=True) if s is Status.WARMING)
        warming += statuses.count(Status.WARMING)
        assert running.read("counts")[1] == [Status.PRESENT] * 2
        running.push(2)
        running.step()
    assert warming
    running.load()
    assert len(running.harness.pushed) > 22
    running.assert_right("counts", "totals")
    assert running.holes == 0


def test_a_view_by_another_key_begins_where_ingest_first_sends_it_without_a_hole(tmp_path):
    running = Running(tmp_path, "counts")
    running.adopt("counts", "pages")
    # Nothing was sent by page yet: how long its past is nobody knows.
    assert running.read("pages") == ([None, None], [Status.WARMING] * 2)
    assert not running.harness.worker.backfill.left
    running.push(4)
    running.load()
    running.push(6)
    running.harness.settle()
    running.assert_right("counts", "pages")
    assert running.holes == 0


def test_what_is_sent_by_another_key_before_a_shard_knows_it_comes_from_history(tmp_path):
    running = Running(tmp_path, "counts")
    harness = running.harness
    # The ingest of another worker follows sooner than the shards here.
    ahead = Harness(plan_of("counts", "pages"), tmp_path / "other", partitions=2)
    ahead.log, ahead.topic = harness.log, harness.topic
    ahead.open()
    running.push(6)
    for which in range(len(ahead.sources)):
        ahead.step(which)
    harness.settle()
    running.adopt("counts", "pages")
    running.push(3)
    running.load()
    running.assert_right("counts", "pages")
    ahead.worker.abandon()


def test_a_view_that_is_removed_is_refused_and_its_memory_and_rows_are_free(tmp_path):
    running = Running(tmp_path, "counts", "totals")
    harness = running.harness
    harness.checkpoint()
    memory = harness.worker.memory
    used = memory.used_bytes
    reader = harness.worker.reader
    described = reader.describe("totals")
    running.adopt("counts")
    assert memory.used_bytes < used
    with pytest.raises(NotFoundError, match='"totals"'):
        running.read("totals")
    with pytest.raises(NotFoundError, match='"totals"'):
        reader.read(described, pl.DataFrame({"user": ["a"]}), AT_US)
    for shard in running.shards:
        assert "totals@1" not in shard.store.mark().seen
        assert shard.store.get_many("totals@1", [b"\x01\x01\x00\x00\x00a"]) == [None]
    assert running.late_views() == {"counts@1", "totals@1"}
    running.push(6)
    harness.settle()
    assert running.late_views() == {"counts@1"}
    running.assert_right("counts")
    running.crash()
    harness.settle()
    running.assert_right("counts")


def test_the_room_of_a_removed_view_is_used_again(tmp_path):
    running = Running(tmp_path, "counts", "totals")
    reserved = []
    for _ in range(5):
        running.adopt("counts")
        running.adopt("counts", "totals")
        running.load()
        reserved.append(running.harness.worker.memory.reserved_bytes)
    assert reserved[1:] == [reserved[1]] * 4


@pytest.mark.parametrize("when", ["at once", "after a step", "after a checkpoint"])
@pytest.mark.parametrize("crashes", [False, True])
def test_a_view_that_comes_back_begins_anew(tmp_path, when: str, crashes: bool):
    running = Running(tmp_path, "counts", "totals")
    running.harness.checkpoint()
    running.adopt("counts")
    if when != "at once":
        running.push(3)
        running.step()
    if when == "after a checkpoint":
        running.harness.checkpoint()
    running.adopt("counts", "totals")
    assert running.read("totals")[1] == [Status.WARMING] * 2
    if crashes:
        running.crash()
        assert running.read("totals")[1] == [Status.WARMING] * 2
    running.push(3)
    running.load()
    running.assert_right("counts", "totals")


def test_rows_that_a_crash_left_of_a_removed_view_count_for_nothing_when_it_comes_back(tmp_path):
    running = Running(tmp_path, "counts", "totals")
    running.harness.checkpoint()
    keys = [b"\x01\x01\x00\x00\x00a", b"\x01\x01\x00\x00\x00b"]
    kept = [
        [(k, b) for k, b in zip(keys, shard.store.get_many("totals@1", keys), strict=True) if b]
        for shard in running.shards
    ]
    assert sum(map(len, kept)) == 2
    running.adopt("counts")
    for shard, rows in zip(running.shards, kept, strict=True):
        # What was deleted after the last flush is there again.
        shard.store.write(shard.store.mark(), [("totals@1", rows)])
    running.adopt("counts", "totals")
    running.load()
    running.assert_right("counts", "totals")


@pytest.mark.parametrize("crashes", [False, True])
def test_a_key_that_comes_back_begins_anew_and_leaves_no_hole(tmp_path, crashes: bool):
    running = Running(tmp_path, "counts", "pages")
    running.harness.checkpoint()
    running.adopt("counts")
    running.push(6)
    running.harness.settle()
    assert all("/page/" not in lane for shard in running.shards for lane in shard.applied)
    running.harness.checkpoint()
    if crashes:
        running.crash()
    running.adopt("counts", "pages")
    running.push(3)
    running.load()
    running.assert_right("counts", "pages")
    assert running.holes == 0


def test_a_view_removed_while_its_past_comes_is_forgotten_and_the_others_go_on(tmp_path):
    running = Running(tmp_path, "counts")
    running.adopt("counts", "totals", "pages")
    for _ in range(3):
        running.step()
    assert running.ahead.jobs
    running.adopt("counts", "pages")
    assert all("totals@1" not in shard.loading for shard in running.shards)
    running.push(3)
    running.load()
    running.assert_right("counts", "pages")
    running.adopt("counts", "totals")
    running.load()
    running.assert_right("counts", "totals")


def test_a_checkpoint_that_is_being_written_is_waited_for(tmp_path):
    running = Running(tmp_path, "counts", "totals")
    checkpoints = running.harness.worker.checkpoints
    real = checkpoints._executor
    checkpoints._executor = held = Held()  # type: ignore[assignment]
    running.harness.checkpoint(wait=False)
    waited = []

    class Waiting:
        def result(self) -> None:
            waited.append(running.harness.worker.current.now.number)
            held.run()

        def done(self) -> bool:
            return False

    checkpoints._writing = Waiting()  # type: ignore[assignment]
    running.adopt("counts")
    assert waited == [0]
    checkpoints._executor = real
    assert all("totals@1" not in shard.store.mark().seen for shard in running.shards)


def test_shards_without_events_write_a_changed_plan_down(tmp_path):
    running = Running(tmp_path, "counts")
    running.harness.checkpoint()
    running.adopt("counts", "totals")
    running.load()
    before = [shard.store.mark() for shard in running.shards]
    assert all("totals@1" not in mark.views for mark in before)
    running.harness.checkpoint()
    after = [shard.store.mark() for shard in running.shards]
    assert all("totals@1" in mark.views for mark in after)
    # And only once: nothing has changed since.
    written = running.harness.worker.metrics.checkpoint_bytes._value.get()
    running.harness.checkpoint()
    assert running.harness.worker.metrics.checkpoint_bytes._value.get() == written
    assert [mark.next_offset for mark in after] == [mark.next_offset for mark in before]


def test_a_read_of_what_has_changed_since_it_was_described_is_refused_and_can_be_asked_anew(
    tmp_path,
):
    views = views_of(SCHEMA)
    running = Running(tmp_path, "counts", "totals")
    reader = running.harness.worker.reader
    moved = compile_plan([hw.service("counts", [views["totals"]]), views["counts"]])
    described, listed = reader.describe("counts"), reader.describe_features(["counts.n_1h"])
    running.harness.adopt(moved)
    inputs = pl.DataFrame({"user": ["a"]})
    with pytest.raises(PlanChangedError, match='service "counts" has just changed'):
        reader.read(described, inputs, AT_US)
    assert reader.read(reader.describe("counts"), inputs, AT_US).values.columns == ["x_1h"]
    # A view that stays is read as before, whatever else has changed.
    assert reader.read(listed, inputs, AT_US).values.columns == ["counts.n_1h"]


def test_a_view_that_leaves_in_the_middle_of_a_read_is_noticed(tmp_path, monkeypatch):
    running = Running(tmp_path, "counts", "totals")
    reader = running.harness.worker.reader
    info = reader.describe("totals")
    router_read = reader._router.read

    def read(plan, entities, t_us, **more):
        running.adopt("counts")
        return router_read(plan, entities, t_us, **more)

    monkeypatch.setattr(reader._router, "read", read)
    with pytest.raises(PlanChangedError, match='"totals@1" has just left'):
        reader.read(info, pl.DataFrame({"user": ["a"]}), AT_US)


def test_a_stream_that_gains_a_column_keeps_every_value_and_new_views_have_it(tmp_path):
    running = Running(tmp_path, "counts")
    harness = running.harness
    wider = SCHEMA | {"y": pl.Int64}
    running.push(4, y=5)
    for which in range(len(harness.sources)):
        harness.publish(which)  # by the old plan, and not applied yet
    harness.adopt(plan_of("counts", "ys", schema=wider))
    running.push(4, y=7)
    running.load()
    running.push(2, y=1)
    harness.settle()
    running.assert_right("counts", "ys")
    headers = [
        split(value)[0]
        for values in records_of(harness.log, harness.exchange).values()
        for value in values
    ]
    assert len({header.schema for header in headers if header.rows}) == 2


def test_a_plan_without_views_is_run_as_well(tmp_path):
    running = Running(tmp_path, "counts")
    harness = running.harness
    harness.worker.adoption.offer(type(harness.worker.current.now).of(compile_plan([]), 7))
    running.step()
    assert harness.worker.memory.used_bytes == 0
    assert list(harness.worker.reader.services()) == []
    running.push(3)
    running.step()
    running.adopt("counts")
    running.load()
    running.assert_right("counts")


def test_lanes_follow_the_plan_and_a_view_of_the_plan_before_has_its_own_all_the_same():
    current = CurrentPlan(plan_of("counts", "pages"))
    before = current.plan
    lanes = Lanes(current, {"clicks": Start("t", {0: 0, 1: 0}, 0)}, {"clicks": 2})
    pages = lanes.of_view(before.views["pages@1"])
    assert pages == ("t|clicks/page/page|0", "t|clicks/page/page|1")
    current.now = CurrentPlan(plan_of("counts")).now
    # A thread that has looked at the plan a moment ago asks for what it has seen.
    assert lanes.of_view(before.views["pages@1"]) == pages
    lanes.learn({"clicks": 3})
    assert len(lanes.of_view(current.plan.views["counts@1"])) == 3


def test_of_two_plans_that_are_offered_at_once_the_newer_is_adopted(tmp_path):
    running = Running(tmp_path, "counts")
    adoption = running.harness.worker.adoption
    for number, names in enumerate((("counts", "pages"), ("counts", "totals")), 1):
        adoption.offer(CurrentPlan(plan_of(*names), number).now)
    running.step()
    assert running.harness.worker.current.now.number == 2
    running.load()
    running.assert_right("counts", "totals")
