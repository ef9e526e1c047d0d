"""Two versions of a view side by side: what is counted, and the spine that history gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from harness import BASE_US, SECOND_US

import headwater as hw
from headwater.flow.answer import RequestError
from headwater.offline.comparison import Comparison
from headwater.offline.sources import ParquetEvents
from headwater.offline.spine_sample import sample_spine
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headwater.definitions.stream import Stream
    from headwater.plan.plan import ViewPlan

HOUR_US = 3_600 * SECOND_US
UTC = pl.Datetime("us", "UTC")

orders = hw.stream(
    "orders",
    schema={"shop": pl.String, "x": pl.Float64, "k": pl.Int64, "at": UTC},
    event_time="at",
)
shop = hw.entity("shop", key="shop")


def view_of(version: int = 1, rows: Any = orders, **aggregates: Any) -> Any:
    aggregates = aggregates or {"n": hw.count(), "total": hw.sum("x")}
    features = rows.group_by(shop).window("1h").agg(**aggregates)
    return hw.view("sales", version=version, features=features)


def events_of(*rows: tuple[str | None, float | None, int, int]) -> pl.DataFrame:
    """Return events of (shop, x, k, seconds)."""
    columns = list(zip(*rows, strict=True))
    at = pl.Series([BASE_US + s * SECOND_US for s in columns[3]]).cast(UTC)
    schema = {"shop": pl.String, "x": pl.Float64, "k": pl.Int64}
    frame = pl.DataFrame(dict(zip(schema, columns[:3], strict=True)), schema=schema)
    return frame.with_columns(at=at)


def source_of(events: pl.DataFrame) -> ParquetEvents:
    return ParquetEvents(compile_plan([view_of()]), {"orders": events})


def compared(old: Any, new: Any, events: pl.DataFrame, *spines: pl.DataFrame) -> Comparison:
    found = Comparison(old, new)
    for spine in spines or [spine_of(60)]:
        found.add(spine, time="t", source=source_of(events))
    return found


def spine_of(*seconds: int, shop: str = "a") -> pl.DataFrame:
    at = pl.Series([BASE_US + s * SECOND_US for s in seconds], dtype=pl.Int64).cast(UTC)
    return pl.DataFrame({"shop": [shop] * len(seconds), "t": at})


EVENTS = events_of(("a", 2.0, 1, 0), ("a", -1.0, 2, 10), ("b", 5.0, 3, 20))


def test_a_version_that_computes_the_same_is_the_same_bit_for_bit() -> None:
    rows = orders.with_columns(y=pl.col("x"))
    found = compared(view_of(), view_of(2, rows, n=hw.count(), total=hw.sum("y")), EVENTS)
    assert [(one.name, one.compared, one.equal, one.differing) for one in found.features] == [
        ("n_1h", 1, 1, 0),
        ("total_1h", 1, 1, 0),
    ]
    assert found.is_same


def test_values_that_differ_are_counted_measured_and_shown() -> None:
    new = view_of(2, orders.filter(pl.col("x") > 0))
    found = compared(view_of(), new, EVENTS, spine_of(5, 60), spine_of(70, 80, 90, 100))
    n, total = found.features
    assert (found.rows, n.compared, n.equal, n.differing) == (6, 6, 1, 5)
    assert (n.largest_absolute, n.largest_relative) == (1.0, 0.5)
    assert (total.largest_absolute, total.largest_relative) == (1.0, 0.5)
    assert not found.is_same
    shown = [(dict(one.entity), one.old, one.new) for one in total.examples]
    assert shown == [({"shop": "a"}, 1.0, 2.0)] * 3
    assert [one.at.second for one in total.examples] == [(20 + s) % 60 for s in (60, 70, 80)]


def test_the_rows_that_differ_come_back_with_both_values() -> None:
    comparison = Comparison(view_of(), view_of(2, orders.filter(pl.col("x") > 0)))
    spine = spine_of(5, 60).with_columns(label=pl.lit(1))
    found = comparison.add(spine, time="t", source=source_of(EVENTS))
    assert found.columns == ["shop", "t", "old.n_1h", "new.n_1h", "old.total_1h", "new.total_1h"]
    assert found.drop("t").rows() == [("a", 2, 1, 1.0, 2.0)]


def test_a_value_that_only_one_version_has_differs() -> None:
    new = view_of(2, orders.filter(pl.col("x") < 0))
    _, total = compared(view_of(), new, EVENTS, spine_of(60, shop="b")).features
    assert (total.differing, total.only_old, total.only_new) == (1, 1, 0)
    assert total.largest_absolute is None
    _, total = compared(new, view_of(), EVENTS, spine_of(60, shop="b")).features
    assert (total.differing, total.only_old, total.only_new) == (1, 0, 1)


def test_features_of_one_version_alone_are_listed() -> None:
    found = compared(view_of(), view_of(2, n=hw.count(), top=hw.max("x")), EVENTS)
    assert (found.only_old, found.only_new) == (("total_1h",), ("top_1h",))
    assert [one.name for one in found.features] == ["n_1h"]


def test_numbers_of_other_types_are_compared_as_doubles() -> None:
    new = view_of(2, top=hw.max("k"))
    old = view_of(1, orders.with_columns(y=pl.col("k").cast(pl.Float64)), top=hw.max("y"))
    (top,) = compared(old, new, EVENTS).features
    assert (top.old_dtype, top.new_dtype) == (pl.Float64(), pl.Int64())
    assert (top.compared, top.differing) == (1, 0)


def test_other_types_are_not_compared_and_not_the_same() -> None:
    new = view_of(2, last=hw.last("at"))
    found = compared(view_of(1, last=hw.last("x")), new, EVENTS)
    assert [(one.compared, one.is_same) for one in found.features] == [(0, False)]
    assert not found.is_same


def test_large_whole_numbers_that_differ_by_one_have_a_difference() -> None:
    big = (1 << 62) + 1
    events = events_of(("a", 1.0, big, 0), ("a", -1.0, big + 1, 0))
    new = view_of(2, orders.filter(pl.col("x") > 0), top=hw.max("k"))
    (top,) = compared(view_of(1, top=hw.max("k")), new, events).features
    assert top.largest_absolute == 1.0


def test_versions_with_other_keys_cannot_be_compared() -> None:
    features = orders.group_by(hw.entity("k", key="k")).window("1h").agg(n=hw.count())
    with pytest.raises(RequestError, match="keyed by shop String and sales@2 is keyed by k Int64"):
        Comparison(view_of(), hw.view("sales", version=2, features=features))


def test_nothing_compared_is_not_the_same() -> None:
    assert not compared(view_of(), view_of(2), EVENTS, spine_of()).is_same


class _Batches:
    """Events of one stream in two partitions, in batches of a size, partitions in any order."""

    def __init__(self, sizes: int, *, turned: bool = False) -> None:
        self._sizes = sizes
        self._partitions = [1, 0] if turned else [0, 1]

    def rows(self, stream: Stream) -> int:
        del stream
        return 2_000

    def scan(
        self, stream: Stream, columns: Sequence[str], span: Any = None
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        del stream, span
        for partition in self._partitions:
            n = np.arange(1_000)
            shops = pl.Series([None if i % 10 == 0 else f"s{i % 7}" for i in n], dtype=pl.String)
            ts = BASE_US + n * SECOND_US + partition
            frame = pl.DataFrame({"__offset": n, "__ts": ts, "__arrival": ts, "shop": shops})
            for part in frame.iter_slices(self._sizes):
                yield partition, part.select("__offset", "__ts", "__arrival", *columns)


def sampled(source: Any, rows: int = 50, seed: int = 0) -> pl.DataFrame:
    return sample_spine([plan_of()], source, rows=rows, seed=seed)


def plan_of() -> ViewPlan:
    (found,) = compile_plan([view_of()]).views.values()
    return found


@pytest.mark.parametrize(("sizes", "turned"), [(1, False), (64, True), (1_000, True)])
def test_a_sample_is_the_same_however_history_is_cut(sizes: int, turned: bool) -> None:
    assert sampled(_Batches(sizes, turned=turned)).equals(sampled(_Batches(1_000)))


def test_a_sample_is_of_real_events_just_after_them_in_order_of_time() -> None:
    found = sampled(_Batches(100))
    assert found.height == 50
    assert found["at"].is_sorted()
    offsets = (found["at"].dt.timestamp("us") - 1 - BASE_US) // SECOND_US
    assert [f"s{i % 7}" for i in offsets] == found["shop"].to_list()
    assert not [i for i in offsets if i % 10 == 0]


def test_another_seed_chooses_other_events() -> None:
    assert not sampled(_Batches(100), seed=1).equals(sampled(_Batches(100), seed=2))


def test_a_sample_is_all_there_is_where_that_is_less() -> None:
    assert sampled(_Batches(100), rows=10_000).height == 1_800


def test_the_sample_of_an_empty_history_has_no_rows() -> None:
    found = sample_spine([plan_of()], source_of(EVENTS.clear()), rows=5, seed=0)
    assert (found.columns, found.height) == (["shop", "at"], 0)
