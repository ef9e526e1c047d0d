"""`hw.local`: push, settle, read, train and serve in one process; kept in a folder; errors."""

from __future__ import annotations

import json
import re
import socket
import threading
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from harness import BASE_US, SECOND_US, click, clicks, moment, records_of

import headwater as hw
from headwater.errors import ConfigError, DefinitionError, HeadwaterError
from headwater.flow.answer import Status
from headwater.flow.settings import WorkerSettings
from headwater_serving.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headwater.local_store import LocalStore

T = moment(BASE_US + 4_000 * SECOND_US)
HOUR = timedelta(hours=1)
EMPTY = {
    "n_10s": 0, "n_1h": 0, "n_lifetime": 0, "total_10s": None, "total_1h": None,
    "total_lifetime": None, "hits_1h": 0,
}  # fmt: skip


def opened(parts: Any = None, **more: Any) -> LocalStore:
    return hw.local(parts or [clicks()], clock=lambda: BASE_US + 5_000 * SECOND_US, **more)


@pytest.fixture
def store() -> Iterator[LocalStore]:
    with opened() as made:
        made.push("clicks", [click(3_990, x=2.0), click(1_000, x=3.0), click(3_995, user="b")])
        made.settle()
        yield made


@pytest.fixture
def spine() -> pl.DataFrame:
    return pl.DataFrame({"user": ["a", "b", "a"], "page": [1, 1, 9], "t": [T, T, T - HOUR]})


def ask(store: LocalStore, user: str | None = "a", page: int | None = 1) -> dict[str, Any]:
    return store.online("clicks_of", user=[user], page=[page], at=T).row(0, named=True)


def test_what_was_pushed_and_settled_is_read(store: LocalStore) -> None:
    assert ask(store) == {
        "n_10s": 1, "n_1h": 2, "n_lifetime": 2, "total_10s": 2.0, "total_1h": 5.0,
        "total_lifetime": 5.0, "hits_1h": 3,
    }  # fmt: skip
    store.push("clicks", pl.DataFrame([click(3_999, x=0.5)]))
    store.settle()
    assert ask(store)["total_10s"] == 2.5


def test_any_time_can_be_read(store: LocalStore) -> None:
    times = [T, T - HOUR, T, moment(BASE_US), moment(0), T + 48 * HOUR]
    found = [store.online("clicks_of", user="a", page=1, at=t)["n_lifetime"].item() for t in times]
    assert found == [2, 0, 2, 0, 0, 2]


def test_without_a_time_now_is_read(store: LocalStore) -> None:
    answer = store.answer("clicks_of", user=["a"], page=[1])
    assert (answer.t_us, answer.t_from_request) == (BASE_US + 5_000 * SECOND_US, False)
    assert answer.values["n_10s"].item() == 0


def test_an_answer_says_what_it_reflects(store: LocalStore) -> None:
    answer = store.answer("clicks_of", user=["a", "b"], page=[1, 1], at=T)
    assert (answer.t_us, answer.t_from_request) == (BASE_US + 4_000 * SECOND_US, True)
    ends = store.log.end_offsets(store.worker.exchange)
    assert all(offset == ends[shard] for shard, offset in answer.exchange_offsets.items())
    assert answer.exchange_offsets
    assert answer.revision == store.plan.services["clicks_of"].revision
    assert answer.statuses.shape == (7, 2)


@pytest.mark.parametrize("user", ["never", None])
def test_an_entity_never_seen_reads_as_empty_windows(store: LocalStore, user: str | None) -> None:
    answer = store.answer("clicks_of", user=[user, "a"], page=[777, 1], at=T)
    assert answer.values.row(0, named=True) == EMPTY
    assert set(answer.statuses[:, 0].tolist()) == {Status.NOT_FOUND}
    assert set(answer.statuses[:, 1].tolist()) == {Status.PRESENT}


def test_a_window_without_values_is_null(store: LocalStore) -> None:
    store.push("clicks", [click(3_999, user="n", x=None)])
    store.settle()
    answer = store.answer("clicks_of", user=["n"], page=[1], at=T)
    by_name = dict(zip(answer.values.columns, answer.statuses[:, 0].tolist(), strict=True))
    assert (by_name["n_1h"], by_name["total_1h"]) == (Status.PRESENT, Status.NULL)


def test_no_entity_asked_for_is_an_empty_answer(store: LocalStore) -> None:
    answer = store.answer("clicks_of", user=[], page=[], at=T)
    assert answer.values.height == 0
    assert answer.values.schema == store.online("clicks_of", user="a", page=1, at=T).schema
    assert answer.statuses.shape == (7, 0)


def test_an_empty_store_has_empty_windows(spine: pl.DataFrame) -> None:
    with opened() as store:
        store.settle()
        assert ask(store) == EMPTY
        made = store.training_set("clicks_of", spine, time="t").collect()
        assert made.select(*EMPTY).rows() == [tuple(EMPTY.values())] * 3
        store.push("clicks", [])
        store.settle()


def test_an_empty_spine_has_the_columns_of_a_full_one(
    store: LocalStore, spine: pl.DataFrame
) -> None:
    full = store.training_set("clicks_of", spine, time="t")
    empty = store.training_set("clicks_of", spine.clear(), time="t")
    assert empty.collect().height == 0
    assert empty.collect_schema() == full.collect_schema()


def test_bad_rows_are_dead_letters_and_do_not_stop_the_others(store: LocalStore) -> None:
    store.push_bytes("clicks", [b"{", json.dumps(click(3_998)).encode(), b"\xff"])
    store.settle()
    assert ask(store)["n_10s"] == 2
    assert records_of(store.log, "clicks.dlq")[0] == [b"{", b"\xff"]  # type: ignore[arg-type]


def test_rows_are_spread_over_the_partitions() -> None:
    with opened(partitions=3) as store:
        store.push("clicks", [click(n) for n in range(10)])
        assert store.log.end_offsets("clicks") == [4, 4, 2]
        store.settle()
        assert ask(store)["n_lifetime"] == 10


def test_the_arrival_is_what_a_push_says(store: LocalStore, spine: pl.DataFrame) -> None:
    store.push("clicks", [click(3_996, x=8.0)], arrival=T + HOUR)
    store.settle()
    assert ask(store)["total_1h"] == 13.0  # applied, however late
    sets = [
        store.training_set("clicks_of", spine, time="t", as_of=as_of).collect()["total_1h"][0]
        for as_of in ("event", "arrival")
    ]
    # Everything else has arrived at the store's clock, which is after T as well.
    assert sets == [13.0, None]


def test_a_closed_store_says_so(spine: pl.DataFrame) -> None:
    store = opened()
    store.close()
    store.close()  # twice is harmless
    calls: list[Callable[[], Any]] = [
        lambda: store.push("clicks", [click(0)]),
        store.settle,
        lambda: ask(store),
        lambda: store.training_set("clicks_of", spine, time="t"),
        lambda: store.serve(0),
        lambda: store.push_bytes("clicks", [b"{}"]),
    ]
    for call in calls:
        with pytest.raises(HeadwaterError, match="the store is closed; open it again"):
            call()


def test_a_task_that_died_raises_at_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from headwater.flow.ingest import Ingest

    died = threading.Event()

    def fail(*_args: Any) -> None:
        died.set()
        raise OverflowError("odd number")

    monkeypatch.setattr(Ingest, "decode", fail)
    store = opened()
    assert died.wait(60)
    for thread in store._threads:
        thread.join(60)
    with pytest.raises(HeadwaterError, match="the store has stopped: OverflowError: odd number"):
        store.push("clicks", [click(0)])
    with pytest.raises(HeadwaterError, match="the store has stopped"):
        store.settle()
    store.close()


def test_settling_gives_up_after_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    from headwater.flow.shard_task import ShardTask

    monkeypatch.setattr(ShardTask, "_apply", lambda *_: None)
    with opened() as store:
        store.push("clicks", [click(0)])
        with pytest.raises(HeadwaterError, match=r"not settled after 0\.05 s; give settle"):
            store.settle(timeout_s=0.05)


def test_the_client_reads_the_same_over_grpc(store: LocalStore) -> None:
    server = store.serve(0)
    with connect(server.target) as client:
        found = client.online("clicks_of", user=["a", "never"], page=[1, 2], at=T)
        wanted = store.online("clicks_of", user=["a", "never"], page=[1, 2], at=T)
        assert found.to_polars().equals(wanted)
    with pytest.raises(ConfigError, match=rf"port {server.port} on 127\.0\.0\.1 is in use; choose"):
        store.serve(server.port)
    store.close()
    with socket.socket() as probe:  # and the port is free again
        probe.bind(("127.0.0.1", server.port))


# --- Times that can't be answered in full ---


def test_below_the_horizon_nothing_has_a_value() -> None:
    by_user, _ = clicks().views

    @hw.on_demand(inputs=[by_user, hw.request("amount", pl.Float64)])
    def more(row: pl.LazyFrame) -> pl.LazyFrame:
        return row.with_columns(
            sure=pl.col("n_1h").fill_null(0) + pl.col("amount"), double=pl.col("amount") * 2
        )

    settings = WorkerSettings(namespace="local", shards=1, read_back_us=60 * SECOND_US)
    with opened([hw.service("s", [by_user, more])], settings=settings) as store:
        store.push("clicks", [click(1_000), click(2_000)])
        store.settle()
        horizon = moment(BASE_US + 1_940 * SECOND_US)
        answer = store.answer("s", user=["a", "b"], amount=[1.0, 1.0], at=horizon)
        assert Status.OUT_OF_RANGE not in answer.statuses
        assert answer.values["sure"].to_list() == [2.0, 1.0]
        for back_us in (1, 3_600 * SECOND_US):
            at = horizon - timedelta(microseconds=back_us)
            answer = store.answer("s", user=["a", "b"], amount=[1.0, 1.0], at=at)
            assert set(answer.statuses.ravel().tolist()) == {Status.OUT_OF_RANGE}
            assert answer.values.null_count().sum_horizontal().item() == 2 * answer.values.width


def test_a_stream_that_starts_with_an_empty_topic_is_complete() -> None:
    with opened([clicks(start="latest")]) as store:
        store.push("clicks", [click(3_999)])
        store.settle()
        assert ask(store)["n_lifetime"] == 1
        answer = store.answer("clicks_of", user=["a"], page=[1], at=T)
        assert Status.WARMING not in answer.statuses


# --- Definitions that contradict each other ---


def test_definitions_of_one_store_must_agree() -> None:
    other = clicks(skew="1m")
    with pytest.raises(DefinitionError, match="defined in two ways"):
        opened([clicks(), hw.service("other", other.views)])


def test_inputs_of_one_name_are_one_thing() -> None:
    by_user, by_page = clicks().views
    odd = hw.stream("odd", schema={"user": pl.Int64, "at": pl.String}, event_time="at")
    features = odd.group_by(hw.entity("customer", key="user")).window("1h").agg(m=hw.count())
    with pytest.raises(DefinitionError, match=re.escape('key "user" is String in one view and')):
        hw.service("both", [by_user, hw.view("odd", features=features)])

    def asking(name: str, request: Any) -> Any:
        def function(row: pl.LazyFrame) -> pl.LazyFrame:
            return row.with_columns(pl.col("n_1h").alias(f"{name}_out"))

        function.__name__ = name
        return hw.on_demand(inputs=[by_user, request])(function)

    with pytest.raises(DefinitionError, match='"page" is a key and a request input'):
        hw.service("s", [by_page, asking("f", hw.request("page", pl.Int64))])
    two = [asking("f", hw.request("z", pl.Int64)), asking("g", hw.request("z", pl.String))]
    with pytest.raises(DefinitionError, match='"z" is Int64 in one on-demand function and String'):
        hw.service("s", two)
    with pytest.raises(DefinitionError, match='"by_user" is a view and an on-demand function'):
        hw.service("s", [asking("by_user", hw.request("z", pl.Int64))])


def test_one_moment_in_any_zone_has_the_same_values(store: LocalStore) -> None:
    from zoneinfo import ZoneInfo

    zones = ["Europe/Berlin", "America/New_York", "Asia/Kathmandu"]
    rows = [
        store.online("clicks_of", user="a", page=1, at=T.astimezone(ZoneInfo(zone))).row(0)
        for zone in zones
    ]
    assert rows == [store.online("clicks_of", user="a", page=1, at=T.astimezone(UTC)).row(0)] * 3
