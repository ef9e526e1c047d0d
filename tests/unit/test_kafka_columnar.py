"""Columns cut from one buffer, what waits in them, and when records are fetched that way at all."""

from __future__ import annotations

import gc
import logging
import struct
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from confluent_kafka import Consumer
from hypothesis import given
from hypothesis import strategies as st

from headwater_connectors.formats.json import JsonCodec
from headwater_connectors.log import kafka_columnar, kafka_columnar_library
from headwater_connectors.log.kafka_columnar import ColumnarFetch, HeadersColumn, open_fetch
from headwater_connectors.log.kafka_columnar_library import Library, UnusableError, load
from headwater_connectors.log.kafka_fetched import Chunk, Fetched
from headwater_connectors.log.log import Topic
from headwater_connectors.log.packed_column import BytesColumn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEY = ("t", 3)
TOPIC = Topic("t", "id", 4, append_time=False)

payloads = st.none() | st.binary(max_size=6) | st.sampled_from([b"\n", b"\r\n", b" "])


def column(items: Sequence[bytes | None], kind: type[BytesColumn] = BytesColumn) -> BytesColumn:
    lengths = [0 if item is None else len(item) for item in items]
    bounds = np.cumsum([0, *(length + 1 for length in lengths)], dtype=np.int64)
    nulls = np.array([item is None for item in items], np.bool_)
    buffer = b"".join([b"\n" + (item or b"") for item in items])
    return kind(buffer, bounds, nulls if nulls.any() else None)


def chunk(offsets: Sequence[int], *, packed: bool) -> Chunk:
    values = [b"%d" % offset if offset % 3 else None for offset in offsets]
    return Chunk(
        offsets=np.array(offsets, np.int64),
        timestamps_us=np.array(offsets, np.int64) * 10,
        keys=[None] * len(offsets),
        values=column(values) if packed else values,
        headers=((),) * len(offsets),
    )


# Columns


@given(st.lists(payloads, max_size=12), st.slices(12), st.integers(-13, 12))
def test_a_column_behaves_like_the_list_of_its_items(
    items: list[bytes | None], run: slice, at: int
) -> None:
    packed = column(items)
    assert list(packed) == items
    assert len(packed) == len(items)
    assert list(packed[run]) == items[run]
    assert list(packed[run][1:]) == items[run][1:]
    assert packed.lengths().tolist() == [len(item or b"") for item in items]
    if -len(items) <= at < len(items):
        assert packed[at] == items[at]
        assert packed[np.int64(at)] == items[at]
    else:
        with pytest.raises(IndexError):
            packed[at]


@given(st.lists(st.lists(payloads, max_size=5), min_size=1, max_size=4), st.data())
def test_joined_columns_are_the_items_of_all(
    lists: list[list[bytes | None]], data: st.DataObject
) -> None:
    runs = [
        data.draw(st.slices(len(items)).filter(lambda s: s.step in {1, None})) for items in lists
    ]
    joined = BytesColumn.join([column(items)[run] for items, run in zip(lists, runs, strict=True)])
    expected = [item for items, run in zip(lists, runs, strict=True) for item in items[run]]
    assert list(joined) == expected
    assert joined.lines() == b"".join([b"\n" + (item or b"") for item in expected])
    assert joined.packed_bytes == len(joined.lines())


def test_a_columns_text_names_no_item() -> None:
    assert "secret" not in repr(column([b"secret"]))


def test_headers_are_taken_apart() -> None:
    def packed(*headers: tuple[bytes, bytes]) -> bytes:
        return b"".join(struct.pack("ii", len(n), len(v)) + n + v for n, v in headers)

    raw = [packed((b"a", b"\x00\n"), (b"a", b"")), b"", packed((b"\xff", b"x"), (b"", b"y"))]
    assert list(column(raw, HeadersColumn)) == [
        (("a", b"\x00\n"), ("a", b"")),
        (),
        (("\ufffd", b"x"), ("", b"y")),
    ]


# What waits


@given(
    st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=1, max_size=6),
    st.lists(st.integers(1, 9), max_size=12),
)
def test_records_leave_in_the_order_they_came_and_are_counted(
    added: list[tuple[int, bool]], taken: list[int]
) -> None:
    fetched, waiting = Fetched(), []
    for count, packed in added:
        first = waiting[-1] + 2 if waiting else 0
        offsets = list(range(first, first + count))
        fetched.add(KEY, chunk(offsets, packed=packed))
        waiting += offsets
    for count in taken:
        if count > len(waiting):
            break
        records = fetched.take(KEY, count, TOPIC)
        expected, waiting = waiting[:count], waiting[count:]
        assert records.offsets.tolist() == expected
        assert records.timestamps_us.tolist() == [10 * offset for offset in expected]
        assert list(records.values) == [b"%d" % o if o % 3 else None for o in expected]
        assert len(records.keys) == len(records.headers) == count
        assert records.next_offset == expected[-1] + 1
        assert (fetched.records, fetched.count(KEY)) == (len(waiting), len(waiting))
        assert fetched.bytes == sum(len(b"%d" % offset) for offset in waiting if offset % 3)
    assert fetched.keys() == ({KEY} if waiting else set())
    fetched.drop(KEY)
    assert (fetched.records, fetched.bytes, fetched.keys()) == (0, 0, set())
    fetched.drop(KEY)


def test_what_is_taken_is_the_callers_own() -> None:
    fetched = Fetched()
    fetched.add(KEY, chunk(range(6), packed=True))
    first = fetched.take(KEY, 3, TOPIC)
    first.offsets[:] = first.timestamps_us[:] = -1
    rest = fetched.take(KEY, 3, TOPIC)
    assert rest.offsets.tolist() == [3, 4, 5]
    assert first.offsets.base is None
    assert rest.offsets.flags.writeable


# Decoding


json_values = st.one_of(
    st.sampled_from(
        [
            b'{"a": 1, "b": "x"}',
            b'{"a":\n2}',
            b' {"a": 3}',
            b'{"a": "3"}',
            b"{}",
            b"",
            b" \n",
            b"nope",
            b'{"b": "' + b"y" * 60 + b'"}',
            b'{"b": "\\ud800"}',
            b'{"a": 1}\n{"a": 2}',
            None,
        ]
    ),
    st.binary(max_size=8),
)


@given(st.lists(json_values, max_size=12), st.integers(0, 12))
def test_a_column_decodes_as_its_items_do(values: list[bytes | None], begin: int) -> None:
    codec = JsonCodec({"a": pl.Int64(), "b": pl.String()}, value_bytes_max=50)
    packed, plain = codec.decode(column(values)[begin:]), codec.decode(values[begin:])
    assert packed.frame.equals(plain.frame)
    assert packed.rows.tolist() == plain.rows.tolist()
    assert packed.rejects == plain.rejects


# Whether records are fetched as columns


@pytest.fixture
def client() -> Iterator[Consumer]:
    client = Consumer({"group.id": "g"}, logger=logging.getLogger("test"))
    yield client
    client.close()


@pytest.fixture
def fresh() -> Iterator[None]:
    caches = (kafka_columnar._library, kafka_columnar._tell, load)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_records_are_fetched_as_columns_here(client: Consumer, fresh: None, caplog) -> None:
    fetch = open_fetch(client)
    assert isinstance(fetch, ColumnarFetch)
    assert not caplog.records
    fetch.direct([("t", 0)])
    harvest = fetch.fetch({("t", 0): 0}, 0.0)
    assert (harvest.chunks, harvest.is_all) == ([], True)
    fetch.close()
    # As at exit, where another thread may still be polling.
    fetch.direct([("t", 1)])
    assert fetch.fetch({}, 0.0).is_all


def test_a_variable_turns_it_off(client: Consumer, monkeypatch) -> None:
    monkeypatch.setenv(kafka_columnar.SWITCH, "plain")
    assert open_fetch(client) is None


def other_version(monkeypatch) -> str:
    monkeypatch.setattr(
        kafka_columnar_library.confluent_kafka, "libversion", lambda: ("0.11.6", 0xB06FF)
    )
    return "confluent-kafka reports librdkafka 0xb06ff"


def no_such_function(monkeypatch) -> str:
    signatures = {**kafka_columnar_library._SIGNATURES, "rd_kafka_gone": (None,)}
    monkeypatch.setattr(kafka_columnar_library, "_SIGNATURES", signatures)
    return "rd_kafka_gone"


def another_layout(monkeypatch) -> str:
    # The key read for the value.
    kernels = kafka_columnar_library.kernels
    monkeypatch.setattr(kernels, "VALUE", kernels.KEY)
    return "don't lie in memory as is known"


def other_fields(monkeypatch) -> str:
    kernels = kafka_columnar_library.kernels
    monkeypatch.setattr(kernels, "OFFSET", kernels.VALUE_LENGTH)
    return "have other fields"


def another_owner(monkeypatch) -> str:
    call = Library.call

    def lying(library: Library, name: str, *arguments: object) -> object:
        return 8 if name == "rd_kafka_opaque" else call(library, name, *arguments)

    monkeypatch.setattr(Library, "call", lying)
    return "names another owner"


@pytest.mark.parametrize(
    "breakage", [other_version, no_such_function, another_layout, other_fields, another_owner]
)
def test_what_is_not_as_known_is_named_once_and_the_plain_way_taken(
    client: Consumer, fresh: None, monkeypatch, caplog, breakage
) -> None:
    reason = breakage(monkeypatch)
    assert open_fetch(client) is None
    assert open_fetch(client) is None
    (line,) = caplog.messages
    assert line.startswith("records are fetched one by one")
    assert reason in line
    assert "\n" not in line


def test_the_handle_of_a_closed_client_is_refused(client: Consumer) -> None:
    library = load()
    assert library.call("rd_kafka_opaque", library.handle(client)) == id(client)
    client.close()
    with pytest.raises(UnusableError, match="isn't where"):
        library.handle(client)


def test_a_fetch_that_nobody_closed_lets_its_client_go() -> None:
    client = Consumer({"group.id": "g"}, logger=logging.getLogger("test"))
    fetch = open_fetch(client)
    assert fetch is not None
    fetch.direct([("t", 0), ("t", 1)])
    finalizer = fetch.close
    del fetch, client
    gc.collect()
    assert not finalizer.alive
