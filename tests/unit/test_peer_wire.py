"""Messages between workers: what goes in comes out, and nonsense is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import HeadwaterError
from headwater.flow.answer import RequestError
from headwater.flow.peers import EntityRows, RowsAnswer, RowsRequest
from headwater.flow.provenance import ShardProvenance
from headwater.flow.shard_reads import RowFlag, ViewRows
from headwater.flow.status import TaskStatus, WorkerStatus
from headwater.state.group import Values
from headwater.state.keys import Keys, canonical_keys
from headwater_proto.v1 import peer_pb2
from headwater_serving.peer_wire import (
    rows_answer,
    rows_request,
    rows_request_message,
    rows_response,
    status_from,
    status_message,
)

ROWS_MAX = 100


def request_of(*entities: EntityRows) -> RowsRequest:
    fingerprints = {one: f"f-{one}" for entity in entities for one in entity.view_ids}
    return RowsRequest(list(entities), -5, fingerprints, "stamp", 16)


def sent(request: RowsRequest) -> RowsRequest:
    message = rows_request_message(request)
    return rows_request(peer_pb2.ReadRowsRequest.FromString(message.SerializeToString()), ROWS_MAX)


def rows_of(rows: int, features: int, seed: int = 0) -> ViewRows:
    random = np.random.default_rng(seed)
    values = Values(rows, features)
    values.bits[:] = random.integers(0, 2**64 - 1, (rows, features), np.uint64, endpoint=True)
    values.valid[:] = random.integers(0, 2, (rows, features))
    values.found[:] = random.integers(0, 2, rows) == 1
    return ViewRows(values, random.integers(0, 8, rows).astype(np.uint8))


@given(st.lists(st.one_of(st.none(), st.text(max_size=9)), max_size=20))
def test_keys_arrive_as_they_were(names: list[str | None]) -> None:
    keys = canonical_keys(pl.DataFrame({"k": names}, schema={"k": pl.String}), ["k"])
    middle = keys.slice(len(keys) // 3, len(keys))
    request = request_of(EntityRows(keys, ("a@1", "b@2")), EntityRows(middle, ("c@1",)))
    got = sent(request)
    assert (got.t_us, got.stamp, got.shard_count) == (-5, "stamp", 16)
    assert got.fingerprints == request.fingerprints
    for one, other in zip(got.entities, request.entities, strict=True):
        assert one.view_ids == other.view_ids
        assert one.keys.to_list() == other.keys.to_list()
        assert np.array_equal(one.keys.valid, other.keys.valid)
        assert np.array_equal(one.keys.hashes, other.keys.hashes)
        # Numba would compile every kernel again for an array that can't be written to.
        assert one.keys.data.flags.writeable
        assert one.keys.offsets.flags.writeable


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_rows_arrive_bit_for_bit(rows: int) -> None:
    keys = Keys.from_list([b"k"] * rows)
    request = request_of(EntityRows(keys, ("a@1", "b@1")))
    answer = RowsAnswer({"b@1": rows_of(rows, 3, 1), "a@1": rows_of(rows, 5, 2)}, {3: 2**40, 0: 7})
    message = rows_response(request, answer)
    got = rows_answer(request, peer_pb2.ReadRowsResponse.FromString(message.SerializeToString()))
    assert dict(got.offsets) == {3: 2**40, 0: 7}
    assert list(got.views) == ["a@1", "b@1"]
    for name, one in got.views.items():
        for part in ("bits", "valid", "found"):
            mine, theirs = getattr(one.values, part), getattr(answer.views[name].values, part)
            assert mine.dtype == theirs.dtype
            assert np.array_equal(mine, theirs)
        assert np.array_equal(one.flags, answer.views[name].flags)


@pytest.mark.parametrize("asked", [True, False])
def test_provenance_travels_where_it_is_asked_for(asked: bool) -> None:
    request = request_of(EntityRows(Keys.from_list([b"k"]), ("a@1",)))
    request = replace(request, with_provenance=asked)
    assert sent(request).with_provenance is asked
    made_of = {
        2: ShardProvenance({"id|orders/c/c|0": 2**40, "id|orders/c/c|1": -1}, ("a@1",)),
        0: ShardProvenance({}, ()),
    }
    answer = RowsAnswer({"a@1": rows_of(1, 2)}, {2: 9, 0: 3}, made_of if asked else {})
    message = rows_response(request, answer)
    got = rows_answer(request, peer_pb2.ReadRowsResponse.FromString(message.SerializeToString()))
    assert got.provenance == answer.provenance


def edited(**changes: Any) -> peer_pb2.ReadRowsRequest:
    request = request_of(EntityRows(Keys.from_list([b"ab", b"c"]), ("a@1",)))
    message = rows_request_message(request)
    for name, value in changes.items():
        if name in {"keys", "lengths"}:
            setattr(message.entities[0], name, value)
        elif name == "views":
            message.entities[0].views.extend(peer_pb2.ViewRef(id=one) for one in value)
        else:
            setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"keys": b"abcd"}, "4 bytes of keys don't fit"),
        ({"lengths": b"\x02\x00\x00\x00\x02"}, "don't fit their 5 bytes of lengths"),
        ({"lengths": b"\xff\xff\xff\xff" * 2}, "don't fit"),
        ({"lengths": b"\x00\x00\x00\x00" * 101, "keys": b""}, "101 rows .* limit is 100"),
        ({"t_us": 1 << 61}, "is not a time"),
        ({"views": ["a@1"]}, "asked for twice"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        rows_request(edited(**changes), ROWS_MAX)


@pytest.mark.parametrize("part", ["bits", "valid", "found", "flags"])
def test_an_answer_with_a_buffer_cut_short_is_refused(part: str) -> None:
    request = request_of(EntityRows(Keys.from_list([b"ab", b"c"]), ("a@1",)))
    message = rows_response(request, RowsAnswer({"a@1": rows_of(2, 3)}, {}))
    setattr(message.views[0], part, getattr(message.views[0], part)[:-1])
    with pytest.raises(HeadwaterError, match=r'view "a@1" came in buffers of'):
        rows_answer(request, message)


def test_an_answer_to_something_else_is_refused() -> None:
    request = request_of(EntityRows(Keys.from_list([b"ab", b"c"]), ("a@1",)))
    for answer in ([], [rows_of(3, 3)], [rows_of(2, 3)] * 2):
        views = {f"{n}": one for n, one in enumerate(answer)}
        other = request_of(EntityRows(Keys.from_list([b"x"]), tuple(views)))
        with pytest.raises(HeadwaterError, match="run workers of one version"):
            rows_answer(request, rows_response(other, RowsAnswer(views, {})))


def test_a_status_arrives_as_it_was() -> None:
    tasks = (
        TaskStatus(kind="ingest", topic="t", partition=0, state="running", next_offset=5,
                   end_offset=None),
        TaskStatus(kind="shard", topic="x", partition=3, state="replaying", next_offset=0,
                   end_offset=0, freshness_ms=0),
    )  # fmt: skip
    status = WorkerStatus(
        worker="w", target="h:1", namespace="n", started_us=2**50, tasks=tasks, state_bytes=2**40,
        backlog_rows=3, dead_letters=4, history_left=2**40, plan=7,
        plan_refused="not this one",
    )  # fmt: skip
    assert status_from(status_message(status)) == status


def test_the_numbers_of_flags_are_those_of_the_contract() -> None:
    assert [flag.value for flag in RowFlag] == [1, 2, 4, 8]
