"""The shard task: the chain rule of lanes, and rows that count once whatever is sent twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from harness import BASE_US, SECOND_US, SETTINGS, Harness, click, clicks_plan

import headwater as hw
from headwater.errors import StateError
from headwater.flow import shard_task
from headwater.flow.exchange import Header, wires_of
from headwater.plan.plan import compile_plan
from headwater.state.group import Group
from headwater.state.lane import lane_of
from headwater_connectors.log.log import OffsetLostError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHARDS = 1
TOPIC_ID = "made-by-hand"


class Lanes:
    """A harness whose exchange is written by hand: one shard, no ingest."""

    def __init__(self, folder: Path, plan: Any = None, **changes: Any) -> None:
        settings = replace(SETTINGS, shards=1, poll_records_max=100, **changes)
        self.harness = Harness(plan or clicks_plan(), folder, partitions=2, settings=settings)
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
        table = wire.keyed([frame], 1).of_shard(0)
        assert table.num_rows == len(rows)
        header = Header(
            TOPIC_ID, binding or wire.binding.id, partition, start, end, len(rows),
            at_end=False, schema=wire.schema_id,
        )  # fmt: skip
        value = wire.encode(header, table if rows else None)
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


def test_a_lane_begins_where_its_stream_does(lanes: Lanes) -> None:
    start = lanes.harness.starts["clicks"]
    start.positions[0] = 42
    lanes.send(30, 41, {41: click(0)})  # before the start: not this view's business
    lanes.send(41, 43, {43: click(0, x=2.0)})
    lanes.apply()
    assert lanes.read() == (1, 2.0)
    assert lanes.shard.applied == {lanes.lane(): 43}
    assert lanes.sample("headwater_exchange_holes_total", shard="0") is None


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


@pytest.fixture
def pushed(lanes: Lanes) -> Lanes:
    """Lanes whose source holds ten clicks in partition 0, some without a user; x names them."""
    rows = [click(n, user=None if n in (3, 7) else "a", x=2.0**n) for n in range(10)]
    producer = lanes.harness.log.producer()
    values = [json.dumps(row).encode() for row in rows]
    values[5] = b"not a row"
    producer.send_many("clicks", 0, values, timestamps_us=[BASE_US] * 10)
    producer.close()
    return lanes


ALL = sum(2.0**n for n in range(10) if n not in (3, 5, 7))


def test_a_hole_is_filled_from_the_source_and_counted(pushed: Lanes) -> None:
    pushed.send(-1, 1, {0: click(0, x=1.0), 1: click(1, x=2.0)})
    pushed.apply()
    assert pushed.read() == (2, 3.0)
    pushed.send(8, 9, {9: click(9, x=512.0)})
    pushed.apply()
    assert pushed.read() == (7, ALL)
    assert pushed.shard.applied == {pushed.lane(): 9}
    assert pushed.sample("headwater_exchange_holes_total", shard="0") == 1


def test_a_hole_is_named(pushed: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, Any]] = []

    class Log:
        def warning(self, event: str, **fields: Any) -> None:
            said.append({"event": event, **fields})

    monkeypatch.setattr(shard_task, "_log", Log())
    pushed.send(4, 5)
    pushed.apply()
    assert said == [
        {"event": "exchange_hole_filled", "lane": pushed.lane(), "after": -1, "to": 4, "shard": 0}
    ]


def test_a_hole_before_progress_alone_is_filled_too(pushed: Lanes) -> None:
    pushed.send(9, 12)
    pushed.apply()
    assert pushed.read() == (7, ALL)
    assert pushed.shard.applied == {pushed.lane(): 12}


def test_holes_within_one_poll_are_filled_once_each(pushed: Lanes) -> None:
    pushed.send(1, 2, {2: click(2, x=4.0)})
    pushed.send(4, 6, {6: click(6, x=64.0)})
    pushed.send(1, 2, {2: click(2, x=4.0)})  # sent again, behind the others
    pushed.send(8, 9)
    pushed.apply()
    assert pushed.read() == (6, ALL - 2.0**9)
    assert pushed.sample("headwater_exchange_holes_total", shard="0") == 3


def test_a_hole_whose_past_is_gone_ends_the_task_and_applies_nothing(pushed: Lanes) -> None:
    pushed.send(-1, 0, {0: click(0, x=1.0)})
    pushed.apply()
    pushed.harness.log.delete_records("clicks", {0: 5})
    pushed.send(0, 1, {1: click(1, x=2.0)})
    pushed.send(7, 9, {9: click(9, x=512.0)})
    with pytest.raises(OffsetLostError, match=r"clicks\[0\]: offset 2 is below the log's start 5"):
        pushed.apply()
    assert pushed.read() == (1, 1.0)
    assert pushed.shard.applied == {pushed.lane(): 0}


def test_what_the_hole_of_one_shard_holds_goes_to_that_shard_alone(tmp_path: Path) -> None:
    harness = Harness(clicks_plan(), tmp_path, settings=replace(SETTINGS, shards=3))
    users = [f"u{n}" for n in range(30)]
    harness.push(click(n, user=user, page=n) for n, user in enumerate(users))
    harness.settle()
    exchange = harness.exchange
    # Every shard has lost its state, and the exchange all its records.
    harness.worker.close()
    for path in sorted(tmp_path.iterdir()):
        shutil.rmtree(path)
    harness.log.delete_records(exchange, dict(enumerate(harness.log.end_offsets(exchange))))
    harness.open()
    harness.push([click(99, user="last", page=99)])
    harness.settle()
    reader = harness.worker.reader
    info = reader.describe("clicks_of")
    frame = pl.DataFrame({"user": users, "page": list(range(30))})
    answer = reader.read(info, frame, BASE_US + 3_000 * SECOND_US)
    assert answer.values["n_lifetime"].to_list() == [1] * 30
    assert answer.values["hits_1h"].to_list() == [1] * 30
    harness.close()


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
    lanes.send(8, 9, {9: click(0)}, binding="clicks/gone/user")  # nor do its holes matter
    lanes.apply()
    assert lanes.read() == (1, 2.0)
    assert lanes.shard.applied == {lanes.lane(): 1}
    assert [lanes.shard.next_offset] == lanes.harness.log.end_offsets(lanes.harness.exchange)


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


def test_a_read_between_slices_is_the_state_of_its_exchange_offset(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the slices, a reader sees whole records: those below the answer's offset."""
    sizes = [5, 1, 4, 7]
    ends = list(accumulate(sizes))
    (first,) = lanes.harness.log.end_offsets(lanes.harness.exchange)
    for size, end in zip(sizes, ends, strict=True):
        lanes.send(end - size - 1, end - 1, {n: click(n) for n in range(end - size, end)})
    seen: list[tuple[int, int]] = []

    def look() -> bool:
        seen.append((lanes.shard.next_offset, lanes.read()[0]))
        return False

    task = lanes.harness.sink.stages[0]
    monkeypatch.setattr(task, "_slice_rows", lambda: 3)
    monkeypatch.setattr(lanes.harness.worker.checkpoints, "relieve", look)
    lanes.apply()
    assert len(seen) > 1
    assert dict(seen).items() <= {(first + i, end) for i, end in enumerate(ends, 1)}
    assert seen[-1] == (first + 4, ends[-1])


def test_a_record_that_memory_is_too_small_for_is_applied_in_parts_nobody_sees(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes.send(-1, 8, {n: click(n, user=f"u{n}") for n in range(9)})
    task = lanes.harness.sink.stages[0]
    applied = task._apply
    sizes: list[int] = []

    def counted(pieces: list[Any]) -> None:
        sizes.append(sum(piece.count for piece in pieces))
        applied(pieces)

    monkeypatch.setattr(task, "_apply", counted)
    # As if every event took a third of the arena.
    third = len(lanes.harness.worker.memory.arena) // 3
    monkeypatch.setattr(
        Group,
        "words_wanted",
        lambda _self, keys, _fetched: len(keys) * third,
    )
    lanes.apply()
    assert sizes[0] == 9
    assert min(sizes) <= 2
    assert [lanes.read(user=f"u{n}")[0] for n in range(9)] == [1] * 9
    assert lanes.shard.applied == {lanes.lane(): 8}
    lanes.harness.crash()
    lanes.harness.settle()
    assert [lanes.read(user=f"u{n}")[0] for n in range(9)] == [1] * 9
