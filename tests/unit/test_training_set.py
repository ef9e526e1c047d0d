"""Training sets: any source, any number of buckets and threads, the same bits; the spine kept."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from harness import BASE_US, SECOND_US, moment

import headwater as hw
from headwater.offline import buckets, point_in_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headwater.local_store import LocalStore

HOUR_US = 3_600 * SECOND_US
USERS = 37
EVENTS = 3_000

orders = hw.stream(
    "orders",
    schema={"user": pl.Int64, "x": pl.Float64, "at": pl.Datetime("us", "UTC")},
    event_time="at",
)
user = hw.entity("user", key="user")
spend = hw.view(
    "spend",
    features=orders.filter(pl.col("x") > -2)
    .group_by(user)
    .window("10m", "3h", "lifetime", hw.window("1m", exact=True, name="exact"))
    .agg(n=hw.count(), total=hw.sum("x"), spread=hw.std("x"), last=hw.last("x"), top=hw.max("x")),
)


@hw.on_demand(inputs=[spend, hw.request("amount", pl.Float64)])
def ratio(row: pl.LazyFrame) -> pl.LazyFrame:
    return row.with_columns(ratio=pl.col("amount") / pl.col("total_3h"))


model = hw.service("model", [spend, ratio])


def events_of(seed: int = 0, count: int = EVENTS) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    at = BASE_US + rng.integers(0, 6 * HOUR_US, count)
    return pl.DataFrame(
        {
            "user": rng.integers(0, USERS, count),
            "x": rng.normal(0, 1, count),
            "at": pl.Series(at).cast(pl.Datetime("us", "UTC")),
        }
    )


def spine_of(seed: int = 1, count: int = 500) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    at = BASE_US + rng.integers(0, 7 * HOUR_US, count)
    return pl.DataFrame(
        {
            "label": rng.random(count) < 0.5,
            "user": rng.integers(0, USERS + 3, count),
            "t": pl.Series(at).cast(pl.Datetime("us", "UTC")),
            "amount": rng.normal(0, 1, count),
            "note": [f"row {n}" for n in range(count)],
        }
    )


EVENTS_FRAME, SPINE = events_of(), spine_of()


def clock() -> int:
    return BASE_US + 8 * HOUR_US


@pytest.fixture(scope="module")
def store() -> Iterator[LocalStore]:
    with hw.local([model], clock=clock) as made:
        made.push("orders", EVENTS_FRAME)
        made.settle()
        yield made


@pytest.fixture(scope="module")
def wanted(store: LocalStore) -> pl.DataFrame:
    return store.training_set("model", SPINE, time="t").collect()


def same(got: pl.DataFrame, wanted: pl.DataFrame) -> bool:
    """Tell whether frames agree in schema, nulls and bits."""
    return got.schema == wanted.schema and got.equals(wanted)


def made_of(store: LocalStore, **more: Any) -> pl.DataFrame:
    spine = more.pop("spine", SPINE)
    return store.training_set("model", spine, time="t", **more).collect()


def test_it_is_what_online_says_at_each_time(store: LocalStore, wanted: pl.DataFrame) -> None:
    names = model.column_names()
    assert wanted["n_3h"].max() > 20
    assert wanted["n_exact"].max() > 0
    for row in wanted[:60].iter_rows(named=True):
        found = store.online("model", user=row["user"], amount=row["amount"], at=row["t"])
        assert found.equals(pl.DataFrame([row], schema=wanted.schema).select(names))


def test_the_spine_is_kept_as_it_is(wanted: pl.DataFrame) -> None:
    assert wanted.columns == [*SPINE.columns, *model.column_names()]
    assert wanted.select(SPINE.columns).equals(SPINE)


def test_the_order_and_number_of_spine_rows_change_no_value(
    store: LocalStore, wanted: pl.DataFrame
) -> None:
    order = np.random.default_rng(5).permutation(SPINE.height)
    assert same(made_of(store, spine=SPINE[order]), wanted[order])
    twice = np.concatenate([order, order[:100], order[:100]])
    assert same(made_of(store, spine=SPINE[twice]), wanted[twice])
    assert same(made_of(store, spine=SPINE[:1]), wanted[:1])
    assert same(made_of(store, spine=SPINE.lazy()), wanted)


def test_one_entity_at_many_times_and_many_at_one(store: LocalStore, wanted: pl.DataFrame) -> None:
    for spine in (
        SPINE.with_columns(user=pl.lit(3, pl.Int64)),
        SPINE.with_columns(t=pl.lit(moment(BASE_US + 3 * HOUR_US))),
    ):
        made = made_of(store, spine=spine)
        singly = [made_of(store, spine=spine[n : n + 1]) for n in range(0, 500, 50)]
        assert same(made[::50], pl.concat(singly))


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_units_and_zones_of_the_spine_change_no_value(
    store: LocalStore, unit: Any, zone: str
) -> None:
    whole = SPINE.with_columns(pl.col("t").dt.truncate("1ms"))
    names = model.column_names()
    wanted = made_of(store, spine=whole).select(names)
    spine = whole.with_columns(pl.col("t").dt.cast_time_unit(unit).dt.convert_time_zone(zone))
    made = made_of(store, spine=spine)
    assert made["t"].dtype == pl.Datetime(unit, zone)
    assert same(made.select(names), wanted)


def test_a_key_of_another_integer_type_is_the_same_key(
    store: LocalStore, wanted: pl.DataFrame
) -> None:
    names = model.column_names()
    for dtype in (pl.Int8, pl.UInt16, pl.Int32):
        made = made_of(store, spine=SPINE.with_columns(pl.col("user").cast(dtype)))
        assert same(made.select(names), wanted.select(names))


@pytest.mark.parametrize("events_max", [1, 7, 500, 1_000, EVENTS - 1, EVENTS])
@pytest.mark.parametrize("as_of", ["event", "arrival"])
def test_buckets_change_no_value(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, events_max: int, as_of: str
) -> None:
    one = made_of(store, as_of=as_of)
    monkeypatch.setattr(buckets, "_events_per_bucket", lambda *_: events_max)
    assert same(made_of(store, as_of=as_of), one)


def test_buckets_are_in_files_and_the_files_go(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, Any]] = []
    end = buckets.Buckets.__exit__

    def watch(self: buckets.Buckets, *args: Any) -> None:
        folder = self._folder
        seen.append((self.buckets, None if folder is None else folder.name))
        end(self, *args)

    monkeypatch.setattr(buckets, "_events_per_bucket", lambda *_: 700)
    monkeypatch.setattr(buckets.Buckets, "__exit__", watch)
    made_of(store)
    ((count, folder),) = seen
    assert count == 5
    from pathlib import Path

    assert folder is not None
    assert not Path(folder).exists()


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
@pytest.mark.parametrize("work", [1, 700])
def test_blocks_and_threads_change_no_value(
    store: LocalStore,
    wanted: pl.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    work: int,
) -> None:
    blocks: list[int] = []
    cut = point_in_time._blocks

    def watch(*args: Any) -> Any:
        found = cut(*args)
        blocks.append(len(found))
        return found

    monkeypatch.setattr(point_in_time.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(point_in_time, "_WORK_PER_BLOCK", work)
    monkeypatch.setattr(point_in_time, "_blocks", watch)
    assert same(made_of(store), wanted)
    assert blocks[0] >= 5


def test_files_frames_and_pushed_rows_give_the_same(
    store: LocalStore, wanted: pl.DataFrame, tmp_path: Path
) -> None:
    single, folder = tmp_path / "events.parquet", tmp_path / "many"
    EVENTS_FRAME.write_parquet(single)
    folder.mkdir()
    for n, piece in enumerate(EVENTS_FRAME.iter_slices(1_000)):
        piece.write_parquet(folder / f"{n}.parquet")
    zoned = EVENTS_FRAME.with_columns(extra=1)
    for events in (
        EVENTS_FRAME,
        EVENTS_FRAME.lazy(),
        zoned.select("extra", "at", "x", "user"),
        single,
        str(single),
        f"{folder}/*.parquet",
        pl.scan_parquet(single).filter(pl.col("user") >= 0),
    ):
        assert same(made_of(store, events={"orders": events}), wanted)


def test_files_replace_what_was_pushed(store: LocalStore) -> None:
    made = made_of(store, events={"orders": EVENTS_FRAME.clear()})
    assert made["n_lifetime"].sum() == 0
    assert made["total_3h"].null_count() == SPINE.height


def test_rows_without_a_time_or_outside_the_calendar_count_nowhere(store: LocalStore) -> None:
    early = pl.Series([-62_135_596_800_000_001]).cast(pl.Datetime("us", "UTC"))
    odd = pl.concat(
        [
            pl.DataFrame({"user": [3], "x": [1e9], "at": early}),
            pl.DataFrame({"user": [3], "x": [1e9], "at": [None]}, schema=orders.schema),
        ]
    )
    both = made_of(store, events={"orders": pl.concat([EVENTS_FRAME, odd])})
    assert same(both, made_of(store, events={"orders": EVENTS_FRAME}))


def test_the_result_goes_to_pandas_arrow_and_parquet(wanted: pl.DataFrame, tmp_path: Path) -> None:
    frame = wanted.to_pandas()
    assert list(frame.columns) == wanted.columns
    assert frame["n_3h"].tolist() == wanted["n_3h"].to_list()
    table = wanted.to_arrow()
    assert isinstance(table, pa.Table)
    assert same(pl.DataFrame(pl.from_arrow(table)), wanted)
    wanted.lazy().sink_parquet(tmp_path / "set.parquet")
    assert same(pl.read_parquet(tmp_path / "set.parquet"), wanted)


def test_it_is_a_lazy_frame_to_go_on_with(store: LocalStore, wanted: pl.DataFrame) -> None:
    made = store.training_set("model", SPINE, time="t")
    assert isinstance(made, pl.LazyFrame)
    kept = made.filter(pl.col("label")).select("user", "n_3h").collect()
    assert kept.equals(wanted.filter(pl.col("label")).select("user", "n_3h"))


def test_as_of_arrival_leaves_out_what_had_not_arrived() -> None:
    t = moment(BASE_US + HOUR_US)
    second = timedelta(seconds=1)
    spine = pl.DataFrame(
        {"user": [1] * 4, "amount": [0.0] * 4, "t": [t - second, t, t + second, t + 2 * second]}
    )
    with hw.local([model], clock=clock) as store:
        happened = {"user": [1], "at": [t - 60 * second]}
        store.push("orders", pl.DataFrame({**happened, "x": [1.0]}), arrival=t - 30 * second)
        store.push("orders", pl.DataFrame({**happened, "x": [4.0]}), arrival=t)
        store.push("orders", pl.DataFrame({**happened, "x": [2.0]}), arrival=t + second)
        store.settle()
        sets = {
            as_of: made_of(store, spine=spine, as_of=as_of)["total_10m"].to_list()
            for as_of in ("event", "arrival")
        }
    # What arrives at exactly t has arrived by t.
    assert sets == {"event": [7.0] * 4, "arrival": [1.0, 5.0, 7.0, 7.0]}


def test_a_progress_bar_changes_no_value(store: LocalStore, wanted: pl.DataFrame) -> None:
    assert same(made_of(store, progress=True), wanted)
