"""The kernels against the naive reference: any events, order, batching and horizon; every bit."""

from __future__ import annotations

import math
import struct

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headwater as hw
from headwater.kernels.blobs import blob_sizes, copy_blobs, load_blobs
from headwater.kernels.memory import SPACE_WORDS, reset
from headwater.kernels.read import read
from headwater.kernels.reference import Event, reference_value, usable
from headwater.kernels.rows import NO_HORIZON, ROW_WORDS
from headwater.kernels.update import update
from headwater.kernels.workspace import workspace
from headwater.offline.point_in_time import Events, Reads, features_at
from headwater.plan.layout import Layout, layout_of
from headwater.state.events import event_words, feature_columns, positions_of
from headwater.state.group import Values

SECOND = 1_000_000
HOUR = 3_600 * SECOND
WORDS = 1 << 18

SCHEMA = {
    "key": pl.String,
    "ts": pl.Int64,
    "x": pl.Float64,
    "i": pl.Int64,
    "u": pl.UInt64,
    "b": pl.Boolean,
    "f": pl.Float32,
    "d": pl.Datetime("us", "UTC"),
}
STREAM = hw.stream("events", schema=SCHEMA, event_time=hw.epoch("ts", "us"))
ENTITY = hw.entity("thing", key="key")
AGGREGATES = {
    "n": hw.count(),
    "n_x": hw.count("x"),
    "sum_x": hw.sum("x"),
    "mean_x": hw.mean("x"),
    "min_x": hw.min("x"),
    "max_x": hw.max("x"),
    "var_x": hw.var("x"),
    "std_x": hw.std("x", ddof=0),
    "first_x": hw.first("x"),
    "last_x": hw.last("x"),
    "sum_i": hw.sum("i"),
    "mean_i": hw.mean("i"),
    "var_i": hw.var("i", ddof=0),
    "min_i": hw.min("i"),
    "max_i": hw.max("i"),
    "sum_u": hw.sum("u"),
    "mean_u": hw.mean("u"),
    "std_u": hw.std("u"),
    "max_u": hw.max("u"),
    "min_u": hw.min("u"),
    "sum_b": hw.sum("b"),
    "last_b": hw.last("b"),
    "min_f": hw.min("f"),
    "mean_f": hw.mean("f"),
    "first_d": hw.first("d"),
    "max_d": hw.max("d"),
}
WINDOWS = {
    "hops": [hw.window("10s"), hw.window("10m"), hw.window("3h")],
    "crossed": [hw.window("2m", hop="1m"), hw.window("1h", hop="5s"), hw.window("lifetime")],
    "exact": [hw.window("30s", exact=True), hw.window("2h")],
    "only exact": [hw.window("45s", exact=True)],
    "lifetime": [hw.window("lifetime")],
}
FEATURES = {
    name: STREAM.group_by(ENTITY).window(*windows).agg(**AGGREGATES)
    for name, windows in WINDOWS.items()
}
LAYOUTS = {name: layout_of(features, "test") for name, features in FEATURES.items()}

doubles = st.one_of(
    st.none(),
    st.floats(width=64),
    st.floats(min_value=-1e6, max_value=1e6),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 2.0**96, -(2.0**96), 2.0**64, 1e308, 2.0**-129]),
)
events_of = st.lists(
    st.fixed_dictionaries(
        {
            "ts": st.one_of(
                st.integers(0, 4 * HOUR),
                st.integers(0, 480).map(lambda n: n * 30 * SECOND),
                st.integers(0, 20).map(lambda n: n * SECOND),
            ),
            "x": doubles,
            "i": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9)),
            "u": st.one_of(st.none(), st.integers(0, 2**64 - 1), st.integers(0, 9)),
            "b": st.one_of(st.none(), st.booleans()),
            "f": st.one_of(st.none(), st.floats(width=32)),
            "d": st.one_of(st.none(), st.integers(-(10**15), 4 * 10**15)),
            "partition": st.integers(0, 2),
        }
    ),
    max_size=40,
)


def bits(value: object) -> object:
    """Return what makes a value equal to another one: its type and its bits."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    return value


def frame_of(rows: list[dict[str, object]]) -> pl.DataFrame:
    columns = {name: [row[name] for row in rows] for name in ("x", "i", "u", "b", "f", "d")}
    types = {**SCHEMA, "d": pl.Int64}
    frame = pl.DataFrame({name: pl.Series(name, v, types[name]) for name, v in columns.items()})
    return frame.with_columns(pl.col("d").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))


def words_of(layout: Layout, rows: list[dict[str, object]]) -> np.ndarray:
    times = np.array([row["ts"] for row in rows], np.int64)
    partitions = np.array([row["partition"] for row in rows], np.int64)
    positions = positions_of(partitions, np.arange(len(rows), dtype=np.int64))
    return event_words(layout, frame_of(rows), times, positions)[0]


def expected(name: str, rows: list[dict[str, object]], t: int) -> list[object]:
    frame = frame_of(rows)
    single = {c: frame[c].to_list() for c in ("x", "i", "u", "f")}
    single["b"] = [None if row["b"] is None else int(bool(row["b"])) for row in rows]
    single["d"] = [row["d"] for row in rows]
    events = [
        Event(int(row["ts"]), int(row["partition"]), i, {c: v[i] for c, v in single.items()})
        for i, row in enumerate(rows)
    ]
    found: list[object] = []
    for feature in FEATURES[name].features:
        column = feature.aggregate.column
        value = reference_value(
            feature.aggregate, feature.window, events, t, unsigned=column == "u"
        )
        if feature.dtype == pl.Boolean and value is not None:
            value = bool(value)
        found.append(value)
    return found


def plain(series: pl.Series) -> list[object]:
    if isinstance(series.dtype, pl.Datetime):
        return series.to_physical().to_list()
    return series.to_list()


class Row:
    """One entity's row in an arena of its own."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.arena = np.empty(WORDS, np.uint64)
        self.space = np.empty(SPACE_WORDS, np.int64)
        reset(self.space, WORDS)
        self.rows = np.zeros((1, ROW_WORDS), np.int64)
        self.slot = np.zeros(1, np.int32)
        self.work = workspace(layout.table)

    def apply(self, words: np.ndarray, horizon: int) -> None:
        slots = np.zeros(len(words), np.int32)
        counters = np.zeros(1, np.int64)
        done = update(
            self.arena,
            self.space,
            self.rows,
            self.layout.table,
            self.work,
            slots,
            words,
            0,
            horizon,
            1,
            counters,
        )
        assert done == len(words)

    def values(self, t: int) -> list[object]:
        values = Values(1, len(self.layout.output_dtypes))
        read(
            self.arena, self.rows, self.layout.table, self.work, self.slot, np.array([t], np.int64),
            values.bits.view(np.float64), values.bits, values.valid,
        )  # fmt: skip
        names = tuple(str(i) for i in range(len(self.layout.output_dtypes)))
        return [plain(column)[0] for column in feature_columns(self.layout, names, values)]

    def reloaded(self) -> Row:
        ends = np.empty(1, np.int64)
        out = np.empty(blob_sizes(self.rows, self.layout.table, self.slot, ends), np.uint64)
        copy_blobs(self.arena, self.rows, self.layout.table, self.slot, ends, out)
        other = Row(self.layout)
        done = load_blobs(
            other.arena, other.space, other.rows, self.layout.table, self.slot,
            np.zeros(1, np.int64), out, 0, 1,
        )  # fmt: skip
        assert done == 1
        return other


@pytest.mark.parametrize("name", list(WINDOWS))
@given(
    rows=events_of,
    cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4 * HOUR)), max_size=4),
    ahead=st.integers(0, 4 * HOUR),
    on_edge=st.booleans(),
)
@settings(max_examples=60)
def test_any_order_batching_and_horizon_read_as_the_reference(
    name: str, rows: list[dict[str, object]], cuts: list[tuple[int, int]], ahead: int, on_edge: bool
) -> None:
    row = Row(LAYOUTS[name])
    words = words_of(row.layout, rows)
    horizon, begin = NO_HORIZON, 0
    for cut, until in sorted(cuts):
        end = max(begin, min(cut, len(rows)))
        row.apply(words[begin:end], horizon)
        row = row.reloaded()
        horizon, begin = max(horizon, until), end
    row.apply(words[begin:], horizon)
    t = max(horizon, 0) + ahead
    if on_edge and rows:
        t = max(horizon, int(rows[0]["ts"]))
    got, wanted = row.values(t), expected(name, rows, t)
    names = [feature.name for feature in FEATURES[name].features]
    for feature, a, b in zip(names, got, wanted, strict=True):
        assert bits(a) == bits(b), (feature, a, b)


@pytest.mark.parametrize("name", list(WINDOWS))
@given(
    rows=events_of,
    times=st.lists(st.integers(0, 5 * HOUR), min_size=1, max_size=6),
    entities=st.integers(1, 4),
)
@settings(max_examples=40)
def test_replay_reads_as_the_reference(
    name: str, rows: list[dict[str, object]], times: list[int], entities: int
) -> None:
    layout = LAYOUTS[name]
    words = words_of(layout, rows)
    slots = np.arange(len(rows), dtype=np.int32) % np.int32(entities)
    events = Events(slots, words, words[:, 0].view(np.int64).copy())
    asked = np.array(times, np.int64)
    read_slots = (np.arange(len(times)) % entities).astype(np.int32)
    values = features_at(layout, entities, events, Reads(read_slots, asked, asked, ages=True))
    names = tuple(str(i) for i in range(len(layout.output_dtypes)))
    columns = [plain(c) for c in feature_columns(layout, names, values)]
    for i, t in enumerate(times):
        own = [row for j, row in enumerate(rows) if slots[j] == read_slots[i]]
        wanted = expected(name, own, t)
        for j, column in enumerate(columns):
            assert bits(column[i]) == bits(wanted[j]), (FEATURES[name].features[j].name, t)


def test_minus_zero_and_not_a_number_count_as_the_reference_says() -> None:
    assert usable(math.nan) is None
    assert bits(usable(-0.0)) == bits(0.0)
