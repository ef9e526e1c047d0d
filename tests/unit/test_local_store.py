"""`hw.local`: push, settle, read, train and serve in one process; kept in a folder; errors."""

from __future__ import annotations

import json
import re
import socket
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import headwater as hw
from harness import BASE_US, SECOND_US, click, clicks, moment, records_of
from headwater.errors import ConfigError, DefinitionError, HeadwaterError, NotFoundError, StateError
from headwater.flow.answer import RequestError, Status
from headwater.flow.settings import WorkerSettings
from headwater.local_store import LocalStore
from headwater_serving.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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


# What a user does wrong, the error, and what it must say.
MISTAKES: dict[str, tuple[Callable[[LocalStore, pl.DataFrame], Any], type, str]] = {
    "unknown stream": (
        lambda store, _: store.push("click", [click(0)]),
        NotFoundError,
        r'no stream "click" in this store \(known: clicks\)\. Did you mean "clicks"\?',
    ),
    "unknown service": (
        lambda store, _: store.online("click_of", user="a", page=1),
        NotFoundError,
        r'no service "click_of" here \(known: clicks_of\)\. Did you mean "clicks_of"\?',
    ),
    "unknown service of a training set": (
        lambda store, spine: store.training_set("click_of", spine, time="t"),
        NotFoundError,
        'Did you mean "clicks_of"',
    ),
    "unknown entity": (
        lambda store, _: store.online("clicks_of", usr="a", page=1),
        RequestError,
        'service "clicks_of" has no input "usr". Did you mean "user"?',
    ),
    "unknown feature": (
        lambda store, _: store.worker.reader.describe_features(["n_2h"]),
        NotFoundError,
        'no feature "n_2h" here. Did you mean "n_1h"?',
    ),
    "unknown feature of a view": (
        lambda store, _: store.worker.reader.describe_features(["by_user.n_2h"]),
        NotFoundError,
        'Did you mean "by_user.n_1h"?',
    ),
    "missing entity": (
        lambda store, _: store.online("clicks_of", user="a"),
        RequestError,
        'needs input "page"',
    ),
    "wrong type": (
        lambda store, _: store.online("clicks_of", user=[1], page=[1]),
        RequestError,
        r'input "user" takes String; row 0 holds 1 \(int\)',
    ),
    "lengths": (
        lambda store, _: store.online("clicks_of", user=["a", "b"], page=[1]),
        RequestError,
        "user 2, page 1; make them equally long",
    ),
    "naive time": (
        lambda store, _: store.online("clicks_of", user="a", page=1, at=datetime(2024, 1, 1)),
        RequestError,
        "at: .* is no datetime with a time zone; write tzinfo=datetime.UTC",
    ),
    "time as text": (
        lambda store, _: store.online("clicks_of", user="a", page=1, at="2024-01-01"),
        RequestError,
        "at: '2024-01-01' is no datetime",
    ),
    "naive arrival": (
        lambda store, _: store.push("clicks", [click(0)], arrival=datetime(2024, 1, 1)),
        RequestError,
        "arrival: .* is no datetime with a time zone",
    ),
    "spine without the time": (
        lambda store, spine: store.training_set("clicks_of", spine.drop("t"), time="t"),
        RequestError,
        'spine: no time column "t"',
    ),
    "spine with a similar time": (
        lambda store, spine: store.training_set("clicks_of", spine.rename({"t": "time"}), time="tim"),
        RequestError,
        'no time column "tim". Did you mean "time"?',
    ),
    "spine with a naive time": (
        lambda store, spine: store.training_set(
            "clicks_of", spine.with_columns(pl.col("t").dt.replace_time_zone(None)), time="t"
        ),
        RequestError,
        r'"t" has no time zone; write pl.col\("t"\).dt.replace_time_zone\("UTC"\) if it is UTC',
    ),
    "spine with a date": (
        lambda store, spine: store.training_set(
            "clicks_of", spine.with_columns(pl.col("t").dt.date()), time="t"
        ),
        RequestError,
        '"t" is Date; make it a datetime with a time zone',
    ),
    "spine with a null time": (
        lambda store, spine: store.training_set(
            "clicks_of", spine.with_columns(t=pl.when(pl.col("page") < 5).then("t")), time="t"
        ),
        RequestError,
        '"t" has 1 nulls; fill or drop those rows',
    ),
    "spine with a feature's name": (
        lambda store, spine: store.training_set("clicks_of", spine.with_columns(n_1h=0), time="t"),
        RequestError,
        'column "n_1h" has the name of a feature; rename it',
    ),
    "spine without a key": (
        lambda store, spine: store.training_set("clicks_of", spine.drop("user"), time="t"),
        RequestError,
        r'no column "user" \(key of entity "user"\)',
    ),
    "spine with another key type": (
        lambda store, spine: store.training_set(
            "clicks_of", spine.with_columns(user=pl.lit(1)), time="t"
        ),
        RequestError,
        r'"user" \(key of entity "user"\) is Int32, the service says String; cast it',
    ),
    "as_of": (
        lambda store, spine: store.training_set("clicks_of", spine, time="t", as_of="arival"),
        RequestError,
        'is neither "event" nor "arrival". Did you mean "arrival"?',
    ),
    "events of an unknown stream": (
        lambda store, spine: store.training_set("clicks_of", spine, time="t", events={"clix": spine}),
        NotFoundError,
        'no stream "clix" in the plan',
    ),
    "events of a stream left out": (
        lambda store, spine: store.training_set("clicks_of", spine, time="t", events={}),
        RequestError,
        'nothing given for stream "clicks"; add it to events=',
    ),
    "events without a column": (
        lambda store, spine: store.training_set(
            "clicks_of", spine, time="t", events={"clicks": pl.DataFrame([click(0)]).rename({"x": "xx"})}
        ),
        RequestError,
        'no column "x"',
    ),
    "events of another type": (
        lambda store, spine: store.training_set(
            "clicks_of", spine, time="t",
            events={"clicks": pl.DataFrame([click(0)]).with_columns(pl.col("x").cast(pl.Float32))},
        ),
        RequestError,
        'column "x" is Float32, the stream says Float64; cast it',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_the_cure(
    store: LocalStore, spine: pl.DataFrame, name: str
) -> None:
    make, kind, wanted = MISTAKES[name]
    with pytest.raises(
        kind, match=wanted.replace("?", r"\?") if "\\" not in wanted else wanted
    ) as e:
        make(store, spine)
    assert isinstance(e.value, HeadwaterError)
    assert "\n" not in str(e.value)
    assert ask(store)["n_lifetime"] == 2  # and the store goes on


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
        with pytest.raises(HeadwaterError, match="not settled after 0.05 s; give settle"):
            store.settle(timeout_s=0.05)


def test_the_client_reads_the_same_over_grpc(store: LocalStore) -> None:
    server = store.serve(0)
    with connect(server.target) as client:
        found = client.online("clicks_of", user=["a", "never"], page=[1, 2], at=T)
        wanted = store.online("clicks_of", user=["a", "never"], page=[1, 2], at=T)
        assert found.to_polars().equals(wanted)
    with pytest.raises(ConfigError, match=f"port {server.port} on 127.0.0.1 is in use; choose"):
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


@pytest.mark.parametrize("how", ["latest", "datetime"])
def test_windows_that_begin_before_the_start_are_warming(tmp_path: Path, how: str) -> None:
    path = tmp_path / "store"
    with opened(path=path) as store:  # the topic has a past before the stream is opened
        store.push("clicks", [click(n) for n in range(5)], arrival=moment(BASE_US))
        store.settle()
        topic_id = store.log.topic("clicks").id
    begin_us = BASE_US + 5_000 * SECOND_US
    meta = json.loads((path / "headwater.json").read_text())
    assert meta["starts"]["clicks"]["topic_id"] == topic_id
    meta["starts"] = {}
    (path / "headwater.json").write_text(json.dumps(meta))
    for shard in (path / "state").iterdir():
        for file in shard.iterdir():
            file.unlink()
        shard.rmdir()

    start = "latest" if how == "latest" else moment(begin_us)
    now_us = [begin_us]
    with hw.local([clicks(start=start)], path=path, clock=lambda: now_us[0]) as store:
        store.push("clicks", [click(5_010)], arrival=moment(begin_us))
        store.settle()
        found = {}
        for second in (5_011, 5_021, 9_000, 50_000):
            at = moment(BASE_US + second * SECOND_US)
            answer = store.answer("clicks_of", user=["a"], page=[1], at=at)
            names = answer.values.columns
            found[second] = {
                name
                for name, status in zip(names, answer.statuses[:, 0].tolist(), strict=True)
                if status == Status.WARMING
            }
            assert answer.values["n_lifetime"].item() == 1
        lifetime = {"n_lifetime", "total_lifetime"}
        hour = {"n_1h", "total_1h", "hits_1h"}
        # The hour of 9,000 begins at 5,400 s after the base, that of 5,021 before the start.
        assert found == {
            5_011: lifetime | hour,
            5_021: lifetime | hour,
            9_000: lifetime,
            50_000: lifetime,
        }


def test_a_stream_that_starts_with_an_empty_topic_is_complete() -> None:
    with opened([clicks(start="latest")]) as store:
        store.push("clicks", [click(3_999)])
        store.settle()
        assert ask(store)["n_lifetime"] == 1
        answer = store.answer("clicks_of", user=["a"], page=[1], at=T)
        assert Status.WARMING not in answer.statuses


# --- Folders ---


def test_a_folder_is_reopened_as_it_was_left(tmp_path: Path, spine: pl.DataFrame) -> None:
    path = tmp_path / "new" / "store"
    kept = []
    for n in range(3):
        with opened(path=path, partitions=2) as store:
            if n:
                assert ask(store) == kept[-1]
                # No row was read again: the last checkpoint held everything.
                registry = store.worker.metrics.registry
                labels = {"view": "by_user", "outcome": "applied"}
                assert not registry.get_sample_value("headwater_view_rows_total", labels)
            store.push("clicks", [click(3_990 + n, x=2.0**n)])
            store.settle()
            kept.append(ask(store))
            made = store.training_set("clicks_of", spine, time="t").collect()
            assert made.row(0, named=True) == {**spine.row(0, named=True), **kept[-1]}
    assert [one["total_lifetime"] for one in kept] == [1.0, 3.0, 7.0]


def test_the_past_of_a_folder_comes_from_its_archive(tmp_path: Path, spine: pl.DataFrame) -> None:
    with opened(path=tmp_path / "s") as store:
        store.push("clicks", [click(3_990), click(3_991)])
        store.settle()
    with opened(path=tmp_path / "s") as store:
        archive = store.worker.archive
        assert archive is not None
        assert archive.position("clicks", store.log.topic("clicks").id, 0) == 1
        store.push("clicks", [click(3_992)])  # above the archive's frontier: from the log
        store.settle()
        made = store.training_set("clicks_of", spine, time="t").collect()
        assert made["n_10s"].to_list() == [3, 0, 0]


REFUSED: dict[str, tuple[Callable[[Path], Any], dict[str, Any], type, str]] = {
    "a file": (
        lambda path: path.write_text("x"), {}, StateError, "is a file; give a folder",
    ),
    "other files": (
        lambda path: (path.mkdir(), (path / "thesis.txt").write_text("x")),
        {}, StateError, "holds other files and no Headwater store",
    ),
    "another format": (
        lambda path: (path.mkdir(), (path / "headwater.json").write_text('{"format": 99}')),
        {}, StateError, "has store format 99, this version reads 1",
    ),
    "a broken file": (
        lambda path: (path.mkdir(), (path / "headwater.json").write_text('{"format": 1')),
        {}, StateError, "can't be read .*; restore it, or use a new folder",
    ),
    "no object": (
        lambda path: (path.mkdir(), (path / "headwater.json").write_text("[]")),
        {}, StateError, "can't be read",
    ),
    "other shards": (
        lambda path: opened(path=path).close(),
        {"settings": WorkerSettings(namespace="local", shards=8, read_back_us=None)},
        StateError, 'of namespace "local" with 4 shards, asked for "local" with 8',
    ),
    "other partitions": (
        lambda path: opened(path=path).close(),
        {"partitions": 3}, ConfigError, "exists with partitions=1.*asked for partitions=3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    prepare, more, kind, wanted = REFUSED[name]
    prepare(tmp_path / "folder")
    with pytest.raises(kind, match=wanted) as caught:
        opened(path=tmp_path / "folder", **more)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, HeadwaterError)
    assert caught.value.exit_code == 78


def test_a_folder_in_use_is_refused_and_free_when_closed(tmp_path: Path) -> None:
    with opened(path=tmp_path), pytest.raises(ConfigError, match="already in use") as caught:
        opened(path=tmp_path)
    assert "\n" not in str(caught.value)
    opened(path=tmp_path).close()


def test_changed_logic_is_refused_and_the_folder_stays_usable(tmp_path: Path) -> None:
    with opened(path=tmp_path) as store:
        store.push("clicks", [click(3_990)])
        store.settle()
    by_user, by_page = clicks().views
    features = (
        by_user.features.rows.filter(pl.col("x") > 0)
        .group_by(by_user.features.entity)
        .window("10s", "1h", "lifetime")
        .agg(n=hw.count(), total=hw.sum("x"))
    )
    changed = hw.service("clicks_of", [hw.view("by_user", features=features), by_page])
    wanted = 'view "by_user" version 1 has changed since .*; undo the change or .* version=2'
    with pytest.raises(StateError, match=wanted) as caught:
        opened([changed], path=tmp_path)
    assert "\n" not in str(caught.value)
    with opened(path=tmp_path) as store:
        assert ask(store)["n_lifetime"] == 1


def test_a_half_written_first_file_is_no_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "headwater.tmp").write_text('{"form')
    with opened(path=tmp_path) as store:
        assert ask(store) == EMPTY


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


def test_naive_and_aware_times_of_any_zone_are_one_moment(store: LocalStore) -> None:
    from zoneinfo import ZoneInfo

    zones = ["Europe/Berlin", "America/New_York", "Asia/Kathmandu"]
    rows = [
        store.online("clicks_of", user="a", page=1, at=T.astimezone(ZoneInfo(zone))).row(0)
        for zone in zones
    ]
    assert rows == [store.online("clicks_of", user="a", page=1, at=T.astimezone(UTC)).row(0)] * 3
