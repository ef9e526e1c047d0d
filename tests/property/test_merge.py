"""Events that displace much of a head go in together; the rows are those of one at a time."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headwater as hw
from headwater.kernels import merge
from headwater.kernels.blobs import blob_sizes, copy_blobs
from headwater.kernels.memory import SPACE_WORDS, reset
from headwater.kernels.rows import ROW_WORDS
from headwater.kernels.update import update
from headwater.kernels.workspace import workspace
from headwater.plan.layout import layout_of
from headwater.state.events import event_words, positions_of

SECOND = 1_000_000
ROWS = 3

STREAM = hw.stream(
    "events",
    schema={"key": pl.String, "ts": pl.Int64, "x": pl.Float64},
    event_time=hw.epoch("ts", "us"),
)
FEATURES = (
    STREAM.group_by(hw.entity("thing", key="key"))
    .window("1m", "1h")
    .agg(n=hw.count(), total=hw.sum("x"), last=hw.last("x"))
)
LAYOUT = layout_of(FEATURES, "test")


class Rows:
    """A few rows in an arena of their own."""

    def __init__(self, words: int = 1 << 18) -> None:
        self.arena = np.empty(words, np.uint64)
        self.space = np.empty(SPACE_WORDS, np.int64)
        reset(self.space, words)
        self.rows = np.zeros((ROWS, ROW_WORDS), np.int64)
        self.work = workspace(LAYOUT.table)
        self.late = np.zeros(1, np.int64)

    def apply(self, slots: np.ndarray, words: np.ndarray, horizon: int, begin: int = 0) -> int:
        return update(
            self.arena, self.space, self.rows, LAYOUT.table, self.work, slots, words, begin,
            horizon, 1, self.late,
        )  # fmt: skip

    def blobs(self) -> list[bytes]:
        """Return each row as it would be written."""
        found = []
        for slot in range(ROWS):
            ends = np.empty(1, np.int64)
            at = np.array([slot], np.int32)
            out = np.empty(blob_sizes(self.rows, LAYOUT.table, at, ends), np.uint64)
            copy_blobs(self.arena, self.rows, LAYOUT.table, at, out)
            found.append(out.tobytes())
        return found


def events(rng: np.random.Generator, count: int, spread_us: int) -> tuple[np.ndarray, np.ndarray]:
    times = rng.integers(0, max(1, spread_us), count) // 1_000 * 1_000
    positions = positions_of(rng.integers(0, 3, count), np.arange(count, dtype=np.int64))
    frame = pl.DataFrame({"x": rng.integers(-99, 99, count).astype(np.float64)})
    words = event_words(LAYOUT, frame, times, positions)[0]
    # Mostly one busy row.
    return np.minimum(rng.geometric(0.7, count) - 1, ROWS - 1).astype(np.int32), words


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batches=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    spread_s=st.sampled_from([1, 20, 59, 400]),
    is_sorted=st.booleans(),
    horizon_s=st.sampled_from([-(10**9), 0, 30, 200]),
)
def test_any_batches_leave_the_rows_that_one_event_at_a_time_leaves(
    seed: int, batches: list[int], spread_s: int, is_sorted: bool, horizon_s: int
) -> None:
    rng = np.random.default_rng(seed)
    together, single = Rows(), Rows()
    for count in batches:
        slots, words = events(rng, count, spread_s * SECOND)
        if is_sorted:
            order = np.argsort(words[:, 0], kind="stable")
            slots, words = slots[order], words[order]
        for i in range(count):
            assert single.apply(slots[i : i + 1].copy(), words[i : i + 1], horizon_s * SECOND) == 1
        assert together.apply(slots, words, horizon_s * SECOND) == count
    assert heads(together) == heads(single)
    assert together.late[0] == single.late[0]


def heads(rows: Rows) -> list[list[list[int]]]:
    """Return each row's single events; when tiles close depends on the batching."""
    words = LAYOUT.event_words
    found = []
    for slot in range(ROWS):
        _, _, _, at, count, _, _, _ = rows.rows[slot].tolist()
        found.append(rows.arena[at : at + count * words].reshape(-1, words).tolist())
    return found


def test_without_a_horizon_every_event_stays_in_order() -> None:
    rng = np.random.default_rng(5)
    rows = Rows()
    everything = []
    for _ in range(3):
        slots, words = events(rng, 400, 50 * SECOND)
        everything += [
            (slot, *word.tolist()) for slot, word in zip(slots.tolist(), words, strict=True)
        ]
        assert rows.apply(slots, words, -(10**15)) == 400
    for slot, found in enumerate(heads(rows)):
        wanted = sorted(list(row[1:]) for row in everything if row[0] == slot)
        assert found == wanted


def test_a_full_arena_leaves_out_all_of_a_merge_and_goes_on_from_there() -> None:
    rng = np.random.default_rng(9)
    whole, small = Rows(), Rows(words=2_600)
    for _ in range(2):
        slots, words = events(rng, 200, 50 * SECOND)
        assert whole.apply(slots.copy(), words, -(10**15)) == 200
        done = small.apply(slots, words, -(10**15))
        if done == 200:
            continue
        grown = Rows()
        grown.arena[: len(small.arena)] = small.arena
        grown.rows[:] = small.rows
        reset(grown.space, len(grown.arena))
        grown.space[0] = len(small.arena)
        assert grown.apply(slots, words, -(10**15), done) == 200
        small = grown
    assert heads(small) == heads(whole)


@pytest.mark.parametrize("deep", [0, 1])
def test_how_deep_an_event_goes_is_counted_from_the_end(deep: int) -> None:
    rows = Rows()
    count = merge._DEEP_EVENTS + deep
    words = np.zeros((count, LAYOUT.event_words), np.uint64)
    words[:, 0] = np.arange(1, count + 1) * 10
    assert rows.apply(np.zeros(count, np.int32), words, -(10**15)) == count
    flat = rows.rows.reshape(-1)
    assert merge.goes_deep(rows.arena, flat, 0, LAYOUT.event_words, 5) == bool(deep)
