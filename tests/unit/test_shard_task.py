"""The shard task: the chain rule of lanes, and rows that count once whatever is sent twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import headwater as hw
from harness import BASE_US, SECOND_US, SETTINGS, Harness, click, clicks_plan
from headwater.errors import StateError
from headwater.flow.exchange import Header, lane_of, wires_of
from headwater.flow.shard_task import HoleError
from headwater.plan.plan import compile_plan
from headwater.state.keys import canonical_keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHARDS = 1
TOPIC_ID = "made-by-hand"


class Lanes:
    """A harness whose exchange is written by hand: one shard, no ingest."""

    def __init__(self, folder: Path, plan: Any = None, **changes: Any) -> None:
        settings = replace(SETTINGS, shards=1, poll_records_max=100, **changes)
        self.harness = Harness(plan or clicks_plan(), folder, settings=settings)
        self.wires = wires_of(self.harness.plan)
        self.bindings = {b.entity: b.id for b in self.harness.plan.bindings}

    @property
    def shard(self) -> Any:
        return self.harness.worker.shards[0]

    def lane(self, entity: str = "user", partition: int = 0) -> str:
        return lane_of(TOPIC_ID, self.bindings[entity], partition)

    def send(
        self,
        start: int,
        end: int,
        rows: dict[int, dict[str, Any]] | None = None,
        entity: str = "user",
        partition: int = 0,
        binding: str | None = None,
    ) -> None:
        """Send the record of a stretch (start, end] with rows at some of its offsets."""
        wire = self.wires[self.bindings[entity]]
        rows = rows or {}
        frame = pl.DataFrame(list(rows.values()), schema=dict(self.harness.stream.schema))
        frame = frame.with_columns(
            pl.Series("__offset", list(rows), pl.Int64), pl.col("at").alias("__ts")
        )
        keys = canonical_keys(frame, wire.binding.columns).to_arrow()
        header = Header(
            TOPIC_ID, binding or wire.binding.id, partition, start, end, len(rows), at_end=False
        )
        value = wire.encode(header, wire.table(frame, keys) if rows else None)
        producer = self.harness.log.producer()
        producer.send(self.harness.exchange, 0, value)
        producer.close()

    def apply(self) -> None:
        self.harness.step(SHARDS)

    def read(self, user: str = "a", second: int = 3_000) -> tuple[int, float | None]:
        reader = self.harness.worker.reader
        info = reader.describe_features(["by_user.n_lifetime", "by_user.total_lifetime"])
        answer = reader.read(info, pl.DataFrame({"user": [user]}), BASE_US + second * SECOND_US)
        return answer.values.row(0)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.harness.worker.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def lanes(tmp_path: Path) -> Iterator[Lanes]:
    made = Lanes(tmp_path)
    yield made
    made.harness.close()


def test_a_lane_begins_where_its_first_record_does(lanes: Lanes) -> None:
    lanes.send(41, 43, {43: click(0, x=2.0)})
    lanes.apply()
    assert lanes.read() == (1, 2.0)
    assert lanes.shard.applied == {lanes.lane(): 43}


def test_a_record_that_is_applied_already_is_skipped(lanes: Lanes) -> None:
    lanes.send(-1, 1, {0: click(0), 1: click(1, x=2.0)})
    lanes.send(-1, 1, {0: click(0), 1: click(1, x=2.0)})
    lanes.send(-1, 0, {0: click(0)})
    lanes.apply()
    lanes.send(0, 1, {1: click(1, x=2.0)})
    lanes.apply()
    assert lanes.read() == (2, 3.0)
    assert lanes.shard.applied == {lanes.lane(): 1}


@pytest.mark.parametrize("at_once", [True, False])
def test_of_a_record_that_overlaps_only_the_new_rows_count(lanes: Lanes, at_once: bool) -> None:
    lanes.send(-1, 2, {0: click(0), 2: click(1, x=2.0)})
    if not at_once:
        lanes.apply()
    lanes.send(-1, 5, {0: click(0), 2: click(1, x=2.0), 4: click(2, x=4.0), 5: click(3, x=8.0)})
    lanes.apply()
    assert lanes.read() == (4, 15.0)
    assert lanes.shard.applied == {lanes.lane(): 5}


def test_an_overlap_whose_new_part_has_no_rows_only_moves_the_lane(lanes: Lanes) -> None:
    lanes.send(-1, 2, {0: click(0)})
    lanes.send(-1, 7, {0: click(0)})
    lanes.apply()
    assert lanes.read() == (1, 1.0)
    assert lanes.shard.applied == {lanes.lane(): 7}


def test_a_progress_record_moves_the_lane(lanes: Lanes) -> None:
    lanes.send(-1, 9)
    lanes.send(9, 10, {10: click(0)})
    lanes.send(10, 12)
    lanes.apply()
    assert lanes.read() == (1, 1.0)
    assert lanes.shard.applied == {lanes.lane(): 12}


def test_a_hole_is_counted_and_named_and_nothing_of_the_poll_is_applied(lanes: Lanes) -> None:
    lanes.send(-1, 2, {0: click(0)})
    lanes.apply()
    lanes.send(2, 3, {3: click(1)})
    lanes.send(7, 9, {8: click(2)})
    with pytest.raises(HoleError) as caught:
        lanes.apply()
    text = str(caught.value)
    assert lanes.lane() in text
    assert "offsets 4 to 7 are missing" in text
    assert "\n" not in text
    assert isinstance(caught.value, StateError)
    assert lanes.sample("headwater_exchange_holes_total", shard="0") == 1
    assert lanes.read() == (1, 1.0)
    assert lanes.shard.applied == {lanes.lane(): 2}


def test_a_hole_between_progress_records_is_found_too(lanes: Lanes) -> None:
    lanes.send(-1, 2)
    lanes.send(3, 4)
    with pytest.raises(HoleError, match="offsets 3 to 3 are missing"):
        lanes.apply()


def test_lanes_are_apart_by_partition_and_by_entity(lanes: Lanes) -> None:
    lanes.send(-1, 4, {4: click(0)}, partition=0)
    lanes.send(-1, 1, {1: click(1, x=2.0)}, partition=1)
    lanes.send(-1, 2, {0: click(0), 1: click(0)}, entity="page")
    lanes.apply()
    assert lanes.read() == (2, 3.0)
    assert lanes.shard.applied == {
        lanes.lane(partition=0): 4,
        lanes.lane(partition=1): 1,
        lanes.lane("page"): 2,
    }
    reader = lanes.harness.worker.reader
    info = reader.describe_features(["hits_1h"])
    answer = reader.read(info, pl.DataFrame({"page": [1]}), BASE_US + SECOND_US)
    assert answer.values.item() == 2


def test_rows_of_a_binding_that_the_plan_has_no_more_are_passed_over(lanes: Lanes) -> None:
    lanes.send(-1, 1, {0: click(0)}, binding="clicks/gone/user")
    lanes.send(-1, 1, {1: click(1, x=2.0)})
    lanes.send(8, 9, {9: click(0)}, binding="clicks/gone/user")
    lanes.apply()
    assert lanes.read() == (1, 2.0)
    assert lanes.shard.applied == {lanes.lane(): 1}
    assert lanes.shard.next_offset == 3


def test_a_record_of_another_format_stops_the_task(lanes: Lanes) -> None:
    wire = lanes.wires[lanes.bindings["user"]]
    header = Header(TOPIC_ID, wire.binding.id, 0, -1, 0, 0, at_end=False, format=99)
    producer = lanes.harness.log.producer()
    producer.send(lanes.harness.exchange, 0, wire.encode(header, None))
    producer.close()
    with pytest.raises(StateError, match="format 99"):
        lanes.apply()


def test_a_replay_from_the_checkpoint_counts_nothing_twice(lanes: Lanes) -> None:
    lanes.send(-1, 1, {0: click(0), 1: click(1, x=2.0)})
    lanes.apply()
    lanes.harness.checkpoint()
    lanes.send(1, 3, {2: click(2, x=4.0)})
    lanes.apply()
    assert lanes.read() == (3, 7.0)
    lanes.harness.crash()
    assert lanes.shard.applied == {lanes.lane(): 1}
    assert lanes.read() == (2, 3.0)
    lanes.apply()
    assert lanes.read() == (3, 7.0)


def test_the_horizon_is_the_newest_event_applied_but_no_later_than_the_exchange(
    tmp_path: Path,
) -> None:
    lanes = Lanes(tmp_path, read_back_us=10 * SECOND_US)
    lanes.harness.now_us = BASE_US + 100 * SECOND_US
    lanes.send(-1, 0, {0: click(50)})
    lanes.apply()
    assert lanes.shard.horizon_us == BASE_US + 40 * SECOND_US
    lanes.send(0, 1, {1: click(20)})  # late: the horizon never goes back
    lanes.apply()
    assert lanes.shard.horizon_us == BASE_US + 40 * SECOND_US
    appended_us = lanes.harness.now_us
    lanes.send(1, 2, {2: click(5_000)})  # ahead of the exchange's own clock
    lanes.apply()
    assert lanes.shard.horizon_us == appended_us - 10 * SECOND_US
    lanes.harness.checkpoint()
    lanes.harness.crash()
    assert lanes.shard.horizon_us == appended_us - 10 * SECOND_US
    lanes.harness.close()


def plan_that_may_fail() -> Any:
    stream = hw.stream(
        "clicks",
        schema={"user": pl.String, "page": pl.Int64, "x": pl.Float64, "at": pl.Int64},
        event_time=hw.epoch("at", "us"),
    )
    rows = stream.with_columns(small=pl.col("page").cast(pl.Int8))
    features = (
        rows.group_by(hw.entity("user", key="user"))
        .window("lifetime")
        .agg(n=hw.count(), total=hw.sum("x"), least=hw.min("small"))
    )
    return compile_plan([hw.view("by_user", features=features)])


def test_a_row_on_which_an_expression_raises_is_left_out_and_counted(tmp_path: Path) -> None:
    lanes = Lanes(tmp_path, plan_that_may_fail())
    rows = {n: click(n, page=page, x=2.0**n) for n, page in enumerate([1, 1_000, 3, 2_000, 5])}
    lanes.send(-1, 4, rows)
    lanes.apply()
    assert lanes.read() == (3, 21.0)
    assert lanes.sample("headwater_view_rows_total", view="by_user", outcome="failed") == 2
    assert lanes.sample("headwater_view_rows_total", view="by_user", outcome="applied") == 3
    lanes.harness.close()


def test_values_that_count_as_null_are_counted(lanes: Lanes) -> None:
    nan, out_of_range = float("nan"), 2.0**96
    rows = {n: click(n, x=x) for n, x in enumerate([nan, float("inf"), out_of_range, 1.0, None])}
    lanes.send(-1, 4, rows)
    lanes.apply()
    assert lanes.read() == (5, 1.0)
    assert lanes.sample("headwater_unusable_values_total", view="by_user") == 3
