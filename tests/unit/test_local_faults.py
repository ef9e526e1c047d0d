"""Faults of a local store: what has stopped, is closed or is ahead of its log says so."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from harness import BASE_US, SECOND_US, click, clicks, moment

import headwater as hw
from headwater.flow.settings import WorkerSettings
from headwater.flow.shard_task import ShardTask
from headwater_serving.client import connect

if TYPE_CHECKING:
    from pathlib import Path

AT = moment(BASE_US + 60 * SECOND_US)


def test_a_text_column_can_be_counted() -> None:
    notes = hw.stream(
        "notes", schema={"user": pl.String, "text": pl.String, "at": pl.Int64},
        event_time=hw.epoch("at", "us"),
    )  # fmt: skip
    features = notes.group_by(hw.entity("user", key="user")).window("1h")
    view = hw.view("written", features=features.agg(n=hw.count("text"), rows=hw.count()))
    with hw.local(hw.service("model", view)) as store:
        store.push("notes", [{"user": "a", "text": t, "at": BASE_US} for t in ("x", None, "")])
        store.settle()
        assert store.online("model", user="a", at=AT).row(0) == (2, 3)
        spine = {"user": ["a"], "when": [AT]}
        made = store.training_set("model", spine, time="when").collect()
        assert made.select("n_1h", "rows_1h").row(0) == (2, 3)


def test_a_store_whose_task_died_refuses_remote_reads_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_args: Any) -> None:
        msg = "the disk is on fire"
        raise RuntimeError(msg)

    with hw.local(clicks()) as store:
        store.push("clicks", [click(0)])
        store.settle()
        server = store.serve(0)
        with connect(server.target, timeout_s=20) as client:
            info = client.describe(client.services()[0])
            inputs = {"user": "a", "page": 1}
            given = {name: inputs[name] for name in info.join_keys}
            client.online(info.name, given, at=AT)
            monkeypatch.setattr(ShardTask, "_apply", fail)
            store.push("clicks", [click(1)])
            with pytest.raises(hw.HeadwaterError, match="the disk is on fire"):
                store.settle()
            with pytest.raises(hw.HeadwaterError, match="the store has stopped"):
                client.online(info.name, given, at=AT)


def test_a_closed_store_answers_nobody() -> None:
    store = hw.local(clicks())
    store.push("clicks", [click(0)])
    store.settle()
    reader = store.worker.reader
    info = reader.describe_features(["by_user.n_lifetime"])
    frame = pl.DataFrame({"user": ["a"]})
    assert reader.read(info, frame, BASE_US + SECOND_US).values.row(0) == (1,)
    store.close()
    reader.check = lambda: None  # as a call that was past the check when the store closed
    with pytest.raises(hw.HeadwaterError, match="closed"):
        reader.read(info, frame, BASE_US + SECOND_US)


def test_state_ahead_of_its_log_is_refused(tmp_path: Path) -> None:
    with hw.local(clicks(), path=tmp_path / "store") as store:
        store.push("clicks", [click(0)])
        store.settle()
    shutil.copytree(tmp_path / "store" / "log", tmp_path / "old-log")
    with hw.local(clicks(), path=tmp_path / "store") as store:
        store.push("clicks", [click(1)])
        store.settle()
    shutil.rmtree(tmp_path / "store" / "log")
    shutil.copytree(tmp_path / "old-log", tmp_path / "store" / "log")
    with pytest.raises(hw.StateError, match="is ahead of the log"):
        hw.local(clicks(), path=tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "state")
    shutil.rmtree(tmp_path / "store" / "archive")
    with hw.local(clicks(), path=tmp_path / "store") as store:
        store.settle()
        assert store.online(["by_user.n_lifetime"], user="a", at=AT).row(0) == (1,)


def test_a_folder_knows_its_number_of_shards(tmp_path: Path) -> None:
    settings = WorkerSettings(namespace="local", shards=2, read_back_us=None)
    with hw.local(clicks(), path=tmp_path / "store", settings=settings) as store:
        store.push("clicks", [click(0)])
    with hw.local(clicks(), path=tmp_path / "store") as store:
        store.settle()
        assert len(store.worker.shards) == 2


def test_tables_beside_the_arena_count_towards_the_budget() -> None:
    settings = WorkerSettings(
        namespace="local", shards=1, read_back_us=None, memory_budget_bytes=4 << 20
    )
    rows = [click(0, user=f"u{n}", page=n) for n in range(20_000)]
    with hw.local(clicks(), settings=settings) as store:
        for begin in range(0, len(rows), 2_000):
            store.push("clicks", rows[begin : begin + 2_000])
            store.settle()
        written = store.worker.metrics.registry.get_sample_value("headwater_checkpoint_bytes_total")
        deadline = time.monotonic() + 60
        while not written and time.monotonic() < deadline:
            time.sleep(0.01)
            sample = store.worker.metrics.registry.get_sample_value
            written = sample("headwater_checkpoint_bytes_total")
        assert written
        info = store.worker.reader.describe_features(["by_user.n_lifetime"])
        users = pl.DataFrame({"user": [f"u{n}" for n in range(20_000)]})
        answer = store.worker.reader.read(info, users, BASE_US + SECOND_US)
        assert answer.values.to_series().to_list() == [1] * 20_000
