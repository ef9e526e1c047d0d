"""`hw.local` with a folder: reopened as it was left, or refused in one line."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from harness import BASE_US, SECOND_US, click, clicks, moment

import headwater as hw
from headwater.errors import ConfigError, HeadwaterError, StateError
from headwater.flow.answer import Status
from headwater.flow.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
def spine() -> pl.DataFrame:
    return pl.DataFrame({"user": ["a", "b", "a"], "page": [1, 1, 9], "t": [T, T, T - HOUR]})


def ask(store: LocalStore, user: str | None = "a", page: int | None = 1) -> dict[str, Any]:
    return store.online("clicks_of", user=[user], page=[page], at=T).row(0, named=True)


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
