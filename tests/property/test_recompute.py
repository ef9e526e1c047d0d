from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headwater as hw
from headwater.flow.exchange import Header, wires_of
from headwater.flow.settings import WorkerSettings
from headwater.offline.recompute import (
    BEFORE,
    NEVER,
    ExchangeOrder,
    ForgottenError,
    Served,
    offsets_matrix,
    recompute,
)
from headwater.offline.sources import LogEvents
from headwater.plan.plan import compile_plan
from headwater_connectors.log.memory import MemoryLog

SHARDS = 3
T0_S = 1_700_000_000

orders = hw.stream(
    "orders",
    schema={"shop": pl.String, "kind": pl.Int64, "amount": pl.Float64, "ts": pl.Int64},
    event_time=hw.epoch("ts", "s"),
)
shop_sales = hw.view(
    "shop_sales",
    features=orders.group_by(hw.entity("shop", key="shop"))
    .window("1m", "1h", "lifetime")
    .agg(n=hw.count(), total=hw.sum("amount"), newest=hw.last("amount"), spread=hw.std("amount")),
)
kind_sales = hw.view(
    "kind_sales",
    features=orders.filter(pl.col("amount") > 0)
    .group_by(hw.entity("kind", key="kind"))
    .window("1h")
    .agg(kind_n=hw.count(), kind_max=hw.max("amount")),
)


@hw.on_demand(inputs=[shop_sales, kind_sales, hw.request("asked", pl.Float64)])
def shares(row: pl.LazyFrame) -> pl.LazyFrame:
    return row.with_columns(share=pl.col("asked") / pl.col("total_1h") + pl.col("kind_n_1h"))


shops = hw.service("shops", [shop_sales, kind_sales, shares])


def open_store(partitions: int):
    chosen = WorkerSettings(namespace="t", shards=SHARDS, read_back_us=None, keep_exchange=True)
    return hw.local([shops], partitions=partitions, settings=chosen)


def again(store, rows: pl.DataFrame, times: list[int], answers: list) -> pl.DataFrame:
    return recompute(
        store.plan,
        "shops",
        Served(
            rows,
            np.array(times, np.int64) * 1_000_000,
            offsets_matrix([(one.exchange_offsets, len(one.values)) for one in answers], SHARDS),
        ),
        source=LogEvents(store.log, store.worker.starts, "local"),
        order=ExchangeOrder.read(store.log, store.worker.exchange),
        topic_ids={"orders": store.log.topic("orders").id},
    )


def ask(store, rows: pl.DataFrame, t_s: int):
    return store.answer("shops", at=datetime.fromtimestamp(t_s, UTC), **rows.to_dict())


event = st.tuples(
    st.sampled_from(["a", "b", "c", "d", None]),
    st.integers(0, 2),
    st.one_of(st.none(), st.floats(-1e6, 1e6, allow_subnormal=False)),
    st.integers(0, 7200),
)
chunk = st.tuples(st.lists(event, max_size=30), st.integers(0, 8000), st.booleans())


@settings(max_examples=25)
@given(st.lists(chunk, min_size=1, max_size=5), st.integers(1, 3))
def test_whatever_was_answered_in_mid_stream_can_be_computed_again(chunks, partitions) -> None:
    schema = {"shop": pl.String, "kind": pl.Int64, "amount": pl.Float64, "ts": pl.Int64}
    rows = pl.DataFrame(
        {"shop": ["a", "b", "c", "d", "e", None], "kind": [0, 1, 2, 0, 1, 2], "asked": [1.5] * 6}
    )
    with open_store(partitions) as store:
        answers, times = [], []
        for events, back_s, settle in chunks:
            frame = pl.DataFrame(events, schema=schema, orient="row")
            store.push("orders", frame.with_columns(pl.col("ts") + T0_S))
            if settle:
                store.settle()
            times.append(T0_S + back_s)
            answers.append(ask(store, rows, times[-1]))
        found = again(
            store, pl.concat([rows] * len(chunks)), np.repeat(times, rows.height), answers
        )
    assert found.equals(pl.concat([one.values for one in answers]))


def test_an_answer_is_computed_from_what_had_been_applied_and_from_nothing_later() -> None:
    rows = pl.DataFrame({"shop": ["a"], "kind": [0], "asked": [1.0]})
    late = {"shop": "a", "kind": 0, "amount": 5.0, "ts": T0_S}
    with open_store(1) as store:
        store.push("orders", [late])
        store.settle()
        before = ask(store, rows, T0_S + 10)
        store.push("orders", [late])
        store.settle()
        after = ask(store, rows, T0_S + 10)
        found = again(store, pl.concat([rows, rows]), [T0_S + 10] * 2, [before, after])
    assert before.values["n_1h"].to_list() == [1]
    assert found["n_1h"].to_list() == [1, 2]
    assert found.equals(pl.concat([before.values, after.values]))


def test_an_answer_older_than_the_exchange_is_refused() -> None:
    rows = pl.DataFrame({"shop": ["a"], "kind": [0], "asked": [1.0]})
    with open_store(1) as store:
        first = ask(store, rows, T0_S)
        store.push("orders", [{"shop": "a", "kind": 0, "amount": 5.0, "ts": T0_S}])
        store.settle()
        ends = store.log.end_offsets(store.worker.exchange)
        store.log.delete_records(store.worker.exchange, dict(enumerate(ends)))
        with pytest.raises(ForgottenError, match="keep the exchange"):
            again(store, rows, [T0_S], [first])


def test_an_answer_that_names_no_offset_of_its_shard_is_refused() -> None:
    rows = pl.DataFrame({"shop": ["a"], "kind": [0], "asked": [1.0]})
    with open_store(1) as store:
        answer = ask(store, rows, T0_S)
        answer.exchange_offsets.clear()
        with pytest.raises(ForgottenError, match="names no exchange offset of shard"):
            again(store, rows, [T0_S], [answer])


def _exchange(stretches: list[tuple[int, int]]) -> tuple[ExchangeOrder, str]:
    """Return the order of an exchange of one shard with these stretches of one lane."""
    plan = compile_plan([shop_sales])
    (wire,) = wires_of(plan).values()
    log = MemoryLog()
    log.create_topic("exchange", partitions=1, append_time=True)
    producer = log.producer()
    headers = [
        Header(
            topic_id="id",
            binding=wire.binding.id,
            partition=0,
            from_offset=begin,
            to_offset=end,
            rows=0,
            at_end=False,
        )
        for begin, end in stretches
    ]
    producer.send_many("exchange", 0, [wire.encode(header, None) for header in headers])
    producer.flush()
    return ExchangeOrder.read(log, "exchange"), headers[0].lane


def test_an_offset_is_brought_by_the_first_record_that_reaches_it() -> None:
    # The second record repeats the first, the third overlaps it: a restart in between.
    order, lane = _exchange([(-1, 4), (-1, 4), (2, 7), (7, 7), (7, 9)])
    found = order.brought_by(0, lane, np.array([0, 4, 5, 7, 8, 9, 10]))
    assert found.tolist() == [0, 0, 2, 2, 4, 4, NEVER]


def test_what_is_below_the_first_record_came_before_it() -> None:
    order, lane = _exchange([(9, 12)])
    assert order.brought_by(0, lane, np.array([0, 9, 10])).tolist() == [BEFORE, BEFORE, 0]


def test_a_lane_without_records_has_brought_nothing() -> None:
    order, _ = _exchange([(9, 12)])
    assert order.brought_by(0, "another|lane|0", np.array([0, 9])).tolist() == [NEVER, NEVER]


def test_offsets_of_answers_become_a_row_for_each_vector() -> None:
    found = offsets_matrix([({0: 5, 2: 7}, 2), ({1: 3}, 1)], SHARDS)
    assert found.tolist() == [[5, -1, 7], [5, -1, 7], [-1, 3, -1]]
