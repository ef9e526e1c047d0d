from __future__ import annotations

import json

import numpy as np
import pytest
from harness import BASE_US, click, clicks_plan
from hypothesis import given
from hypothesis import strategies as st

from headwater.flow.archive_task import raw_column
from headwater.flow.decode import Decoder, Rows
from headwater_connectors.log.log import Records
from headwater_connectors.log.packed_column import BytesColumn

GOOD = json.dumps(click(0)).encode()
VALUES = (
    None,
    b"",
    b"{",
    b"[1]",
    GOOD,
    GOOD[:-1] + b', "more": "\\n"}',
    json.dumps(click(-5, "v", x=2.5)).encode(),
    json.dumps(click(10**6, "late")).encode(),
    GOOD.replace(b"1.0", b'"one"'),
)


def packed(values: list[bytes | None]) -> BytesColumn:
    items = [value or b"" for value in values]
    bounds = np.cumsum([0, *(len(item) + 1 for item in items)])
    nulls = np.array([value is None for value in values]) if None in values else None
    return BytesColumn(b"".join(b"\n" + item for item in items), bounds, nulls)


def records(partition: int, values: list[bytes | None], *, as_columns: bool = True) -> Records:
    count = len(values)
    return Records(
        topic="clicks",
        topic_id="id",
        partition=partition,
        offsets=np.arange(10 * partition, 10 * partition + count),
        timestamps_us=np.full(count, BASE_US),
        keys=[None] * count,
        values=packed(values) if as_columns else values,
        headers=[()] * count,
    )


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    (stream,) = clicks_plan().streams.values()
    return Decoder(stream, "test")


def same(got: Rows, wanted: Rows) -> bool:
    return (
        got.records is wanted.records
        and got.frame.equals(wanted.frame)
        and got.rejects == wanted.rejects
    )


RUNS = st.lists(st.lists(st.sampled_from(VALUES), min_size=1, max_size=6), max_size=4)


@given(RUNS, st.booleans())
def test_runs_decoded_together_are_as_each_alone(
    decoder: Decoder, values: list[list[bytes | None]], as_columns: bool
) -> None:
    runs = [records(at, each, as_columns=as_columns) for at, each in enumerate(values)]
    found = decoder.decode_all(runs)
    assert len(found) == len(runs)
    assert all(map(same, found, map(decoder.decode, runs)))


def test_a_time_that_cannot_be_is_a_reject_of_its_own_run(decoder: Decoder) -> None:
    first, second = decoder.decode_all([records(0, [GOOD]), records(1, [VALUES[7], GOOD])])
    assert first.rejects == []
    assert [(reject.row, reject.reason) for reject in second.rejects] == [(0, "future_event_time")]
    assert second.frame["__offset"].to_list() == [11]


@pytest.mark.parametrize("values", [[], [b"a"], [b"", b"long enough to be no short text", b"b"]])
def test_raw_values_of_a_packed_column_are_the_same_bytes(values: list[bytes | None]) -> None:
    column = raw_column(packed([b"before", *values, b"after"])[1:-1])
    assert column.name == "__raw"
    assert column.to_list() == values
    assert raw_column(packed([None, *values])).to_list() == [None, *values]
    assert raw_column(values).to_list() == values
