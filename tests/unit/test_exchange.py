"""Exchange records: what they carry comes back as it was; what they cover is in the header."""

from __future__ import annotations

from datetime import UTC, date, datetime

import msgspec
import polars as pl
import pytest
from harness import clicks_plan

import headwater as hw
from headwater.errors import StateError
from headwater.flow.exchange import Header, split, wires_of
from headwater.plan.plan import compile_plan
from headwater.state.keys import Keys, canonical_keys
from headwater.state.lane import lane_of

SCHEMA = {
    "text": pl.String,
    "whole": pl.Int64,
    "small": pl.Int8,
    "big": pl.UInt64,
    "x": pl.Float64,
    "half": pl.Float32,
    "yes": pl.Boolean,
    "day": pl.Date,
    "at": pl.Datetime("us", "UTC"),
    "local": pl.Datetime("ms", "Europe/Berlin"),
}


def every_type() -> pl.DataFrame:
    when = datetime(2024, 3, 31, 1, 0, 0, 1, tzinfo=UTC)
    rows = [
        ("a", -(2**63), -128, 2**64 - 1, 5e-324, 0.5, True, date(1969, 12, 31), when, when),
        ("ü\0", 2**63 - 1, 127, 0, -1e308, -0.5, False, date(2100, 1, 1), when, when),
        (None,) * 10,
        ("", 0, 0, 1, 0.0, 0.0, True, date(1970, 1, 1), when, when),
    ]
    columns = [[row[i] for row in rows] for i in range(10)]
    series = [
        pl.Series(name, values).cast(dtype)
        for (name, dtype), values in zip(SCHEMA.items(), columns, strict=True)
    ]
    system = [pl.Series("__offset", [3, 4, 5, 9]), pl.Series("__ts", [1, -1, 0, 1 << 50])]
    return pl.DataFrame([*system, *series])


def wire_and_binding() -> tuple:
    stream = hw.stream("all", schema=SCHEMA, event_time="at")
    view = hw.view(
        "v",
        features=stream.group_by(hw.entity("thing", key="text")).window("1h").agg(n=hw.count()),
    )
    plan = compile_plan([view])
    (binding,) = plan.bindings
    return wires_of(plan)[binding.id], binding


def test_rows_of_every_type_come_back_as_they_were() -> None:
    wire, binding = wire_and_binding()
    frame = every_type()
    keyed = wire.keyed([frame], 1)
    header = Header("id", binding.id, 2, 2, 9, 3, at_end=False)
    value = wire.encode(header, keyed.of_shard(0))
    found, body = split(value)
    assert found == header
    batch = wire.decode(body)
    # The row without a key has no place in a shard.
    kept = frame.filter(pl.col("text").is_not_null())
    keys = canonical_keys(kept, binding.columns)
    assert Keys.from_arrow(batch.column(0)).to_list() == keys.to_list()
    assert pl.DataFrame(pl.from_arrow(batch)).drop("__key").equals(kept)


def test_a_slice_of_rows_holds_only_its_rows() -> None:
    wire, binding = wire_and_binding()
    frame = every_type()
    table = wire.keyed([frame], 1).of_shard(0)
    header = Header("id", binding.id, 0, 3, 5, 2, at_end=False)
    batch = wire.decode(split(wire.encode(header, table.slice(1, 2)))[1])
    assert pl.DataFrame(pl.from_arrow(batch)).drop("__key").equals(frame[[1, 3]])


def test_a_progress_record_is_a_header_alone() -> None:
    plan = clicks_plan()
    binding = plan.bindings[0]
    wire = wires_of(plan)[binding.id]
    header = Header("id", binding.id, 1, -1, 41, 0, at_end=True)
    found, body = split(wire.encode(header, None))
    assert (found.rows, found.at_end, found.from_offset, found.to_offset) == (0, True, -1, 41)
    assert len(body) == 0


def test_a_lane_is_one_binding_of_one_partition_of_one_topic() -> None:
    lanes = {lane_of(t, b, p) for t in ("t1", "t2") for b in ("b1", "b2") for p in (0, 1)}
    assert len(lanes) == 8
    plan = clicks_plan()
    for binding in plan.bindings:
        header = Header("id", binding.id, 3, 0, 1, 0, at_end=False)
        assert header.lane == lane_of("id", binding.id, 3)


def test_a_record_of_another_format_is_refused() -> None:
    header = Header("id", "b", 0, 0, 1, 0, at_end=False, format=2)
    head = msgspec.msgpack.encode(header)
    with pytest.raises(StateError, match="format 2, this version reads 1") as caught:
        split(len(head).to_bytes(4, "little") + head)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_rows_are_shared_out_by_their_keys_and_keep_their_order(shards: int) -> None:
    wire, _ = wire_and_binding()
    one = every_type()[:1]
    frame = pl.concat([one.with_columns(text=pl.lit(f"k{n % 7}")) for n in range(40)])
    frame = frame.with_columns(pl.Series("__offset", range(40)))
    keyed = wire.keyed([frame], shards)
    parts = [pl.DataFrame(pl.from_arrow(keyed.of_shard(shard))) for shard in range(shards)]
    assert sum(part.height for part in parts) == 40
    owners: dict[str, int] = {}
    for shard, part in enumerate(parts):
        assert part["__offset"].is_sorted()
        for key in part["text"].unique():
            assert owners.setdefault(key, shard) == shard
    assert len(owners) == 7
    assert len(set(owners.values())) > (shards > 1)
