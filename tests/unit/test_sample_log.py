"""The sample log: which requests are taken, what is written of them, and what damage does."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl
import pytest
from harness import click, clicks

import headwater as hw
from headwater.errors import ConfigError
from headwater.flow.answer import Answer
from headwater.flow.local_folder import local_settings
from headwater.flow.metrics import Metrics
from headwater.flow.provenance import ShardProvenance
from headwater.flow.sample_files import SampleFiles
from headwater.flow.sample_log import SampleLog, SampleSettings
from headwater.flow.samples import Asked, Origin, Sample, ShardState, ViewRef, pack, unpack
from headwater_connectors.archive.blobs import FolderBlobs
from headwater_connectors.archive.errors import ArchiveError
from headwater_connectors.archive.sealed import seal

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = Origin("s", (), "r1", "stamp", 4, (ViewRef("v@1", "f", -5),))
# NaN with a payload, −0.0, infinity, the smallest number above nothing.
BITS = np.array([0x7FF8_0000_0000_BEEF, 1 << 63, 0x7FF0 << 48, 1], np.uint64)


def sample(rows: int = 4, at_us: int = 1_000, origin: Origin = ORIGIN) -> Sample:
    values = pl.DataFrame(
        {"x": np.resize(BITS, rows).view(np.float64), "n": [None, *range(rows - 1)]},
        schema={"x": pl.Float64, "n": pl.Int64},
    )
    shards = {3: ShardState(17, {"id|orders/c/c|0": 2**40}, ("v@1",))}
    return Sample(
        origin,
        Asked(at_us, at_us - 7, rows, shards),
        pl.DataFrame({"c": [f"c{i}" for i in range(rows)]}),
        values,
        np.arange(2 * rows, dtype=np.uint8).reshape(2, rows) % 6 + 1,
    )


# Files


def test_what_is_packed_comes_back_to_the_last_bit() -> None:
    other = Origin("", ("v@1.n",), "r2", "stamp", 4, ())
    blocks = unpack(pack("w", [sample(4), sample(2, 2_000, other), sample(3, 3_000)]), "here")
    assert [one.origin for one in blocks] == [ORIGIN, other]
    (first, second) = blocks
    assert first.worker == "w"
    assert [one.served_us for one in first.asked] == [1_000, 3_000]
    assert first.asked[0].shards == sample().asked.shards
    assert first.values["x"].to_numpy().view(np.uint64).tolist() == [*BITS, *BITS[:3]]
    assert first.values["n"].to_list() == [None, 0, 1, 2, None, 0, 1]
    assert first.inputs["c"].to_list() == ["c0", "c1", "c2", "c3", "c0", "c1", "c2"]
    assert np.array_equal(
        first.statuses, np.concatenate([sample(4).statuses, sample(3).statuses], axis=1)
    )
    assert second.values.height == 2


def test_any_byte_that_is_lost_or_changed_is_told() -> None:
    data = pack("w", [sample()])
    random = np.random.default_rng(5)
    for at in random.integers(0, len(data), 60).tolist():
        with pytest.raises(ArchiveError, match=r"^place "):
            unpack(data[:at], "place")
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(random.integers(0, 7))
        with pytest.raises(ArchiveError, match=r"^place "):
            unpack(bytes(flipped), "place")


class _Later(msgspec.Struct):
    format: int = 2
    vectors: str = "in another way"


def test_samples_of_another_version_are_told_apart_from_damage() -> None:
    data, _ = seal(_Later())
    with pytest.raises(ArchiveError, match="place holds samples of format 2, this version reads 1"):
        unpack(data, "place")


def test_counts_that_do_not_fit_are_refused() -> None:
    wrong = replace(sample(4), asked=Asked(1, 1, 5, {}))
    with pytest.raises(ArchiveError, match="place holds no samples"):
        unpack(pack("w", [wrong]), "place")


def test_files_are_found_by_when_they_were_served(tmp_path: Path) -> None:
    files = SampleFiles(FolderBlobs(tmp_path), "shop")
    files.write("w1", [sample(at_us=1_000), sample(at_us=2_000)])
    files.write("w2", [sample(at_us=5_000)])
    SampleFiles(FolderBlobs(tmp_path), "other").write("w1", [sample(at_us=1_500)])
    (tmp_path / "shop/w1/notes.txt").write_text("not ours")

    def found(since_us: int | None, until_us: int | None) -> list[str]:
        return [name.split("/")[1] for name in files.names(since_us, until_us)]

    assert found(None, None) == ["w2", "w1"], "the newest first"
    assert found(2_000, 5_000) == ["w1"]
    assert found(2_001, None) == ["w2"]
    assert found(None, 1_000) == []
    assert files.sweep(5_000) == 1
    assert found(None, None) == ["w2"]


# The log


class Timer:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def opened(
    folder: Path | FolderBlobs, *, seed: int = 7, timer: Timer | None = None, **given: Any
) -> Any:
    metrics = Metrics()
    blobs = folder if isinstance(folder, FolderBlobs) else FolderBlobs(folder)
    log = SampleLog(
        SampleFiles(blobs, "shop"),
        SampleSettings(**{"per_s": 2.0, **given}),
        metrics,
        worker="w",
        clock=lambda: 1_000_000,
        seed=seed,
        timer=timer or Timer(),
    )
    return log, metrics


def outcome(metrics: Metrics, name: str) -> float:
    return metrics.samples.labels(name)._value.get()


def put(log: SampleLog, rows: int = 4) -> None:
    one = sample(rows)
    answer = Answer(one.values, one.statuses, 993, True, {3: 17}, "r1")
    log.put(one.inputs, answer, ORIGIN, {3: ShardProvenance({"id|orders/c/c|0": 5}, ())})


def test_requests_are_taken_by_chance_and_at_the_rate_that_was_asked_for(tmp_path: Path) -> None:
    def taken(seed: int) -> list[int]:
        timer = Timer()
        log, _ = opened(tmp_path, seed=seed, timer=timer)
        found = []
        for i in range(100_000):  # a thousand seconds with a request every 10 ms
            timer.now_s += 0.01
            if log.is_due():
                found.append(i)
        log.close()
        return found

    first = taken(7)
    assert 1_800 < len(first) < 2_200
    assert first == taken(7)
    assert first != taken(8)


def test_what_was_taken_is_written_when_it_is_closed(tmp_path: Path) -> None:
    log, metrics = opened(tmp_path)
    put(log)
    put(log, 3)
    log.close()
    files = SampleFiles(FolderBlobs(tmp_path), "shop")
    (name,) = files.names(None, None)
    (block,) = files.read(name)
    assert [one.rows for one in block.asked] == [4, 3]
    assert block.asked[0].served_us == 1_000_000
    assert block.asked[0].t_us == 993
    assert block.asked[0].shards == {3: ShardState(17, {"id|orders/c/c|0": 5}, ())}
    assert outcome(metrics, "logged") == 7


def test_of_a_large_request_some_rows_are_taken_whole(tmp_path: Path) -> None:
    log, metrics = opened(tmp_path, request_rows=10)
    put(log, 1_000)
    log.close()
    files = SampleFiles(FolderBlobs(tmp_path), "shop")
    (block,) = files.read(files.names(None, None)[0])
    assert outcome(metrics, "logged") == block.asked[0].rows == block.inputs.height == 10
    rows = [int(one[1:]) for one in block.inputs["c"]]
    assert rows == sorted(set(rows))
    whole = sample(1_000)
    assert block.values["n"].to_list() == whole.values["n"][rows].to_list()
    assert np.array_equal(block.statuses, whole.statuses[:, rows])


def test_a_file_is_written_when_it_is_full(tmp_path: Path) -> None:
    log, metrics = opened(tmp_path, file_rows=8)
    for _ in range(2):
        put(log)
    files = SampleFiles(FolderBlobs(tmp_path), "shop")
    while outcome(metrics, "logged") < 8:
        time.sleep(0.005)
    assert len(files.names(None, None)) == 1
    log.close()


class Stuck(FolderBlobs):
    """A folder that takes nothing until it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun = threading.Event()
        self.go = threading.Event()

    def put(self, name: str, data: bytes | memoryview) -> None:
        self.begun.set()
        assert self.go.wait(60)
        super().put(name, data)


def test_while_the_store_hangs_samples_are_dropped_and_counted(tmp_path: Path) -> None:
    blobs = Stuck(tmp_path)
    log, metrics = opened(blobs, file_rows=1, queue_requests=3)
    put(log)
    assert blobs.begun.wait(60)
    for _ in range(5):
        put(log)
    assert outcome(metrics, "dropped") == 2 * 4
    blobs.go.set()
    log.close()
    assert outcome(metrics, "logged") == 4 * 4


class Full(FolderBlobs):
    """A folder whose disk is full at first."""

    left = 1

    def put(self, name: str, data: bytes | memoryview) -> None:
        self.left -= 1
        if self.left >= 0:
            raise ArchiveError("no space")
        super().put(name, data)


def test_what_cannot_be_written_is_counted_and_what_comes_later_is_written(tmp_path: Path) -> None:
    log, metrics = opened(Full(tmp_path), file_rows=1)
    put(log)
    put(log, 3)
    log.close()
    assert outcome(metrics, "failed") == 4
    assert outcome(metrics, "logged") == 3


def test_old_files_of_any_worker_are_deleted(tmp_path: Path) -> None:
    files = SampleFiles(FolderBlobs(tmp_path), "shop")
    files.write("gone", [sample(at_us=1_000_000 - 51)])
    files.write("gone", [sample(at_us=1_000_000 - 49)])
    log, _ = opened(tmp_path, keep_us=50)
    put(log)
    log.close()
    assert [name.split("/")[1] for name in files.names(None, None)] == ["w", "gone"]


def test_no_samples_want_no_log(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="samples_per_s is 0"):
        opened(tmp_path, per_s=0.0)
    settings = replace(local_settings(None), samples=SampleSettings(per_s=1.0))
    with pytest.raises(ConfigError, match="give path="):
        hw.local([clicks()], settings=settings)


# What a reader has written


def test_a_store_writes_down_what_its_answers_were_made_of(tmp_path: Path) -> None:
    settings = replace(local_settings(None), samples=SampleSettings(per_s=1e9))
    with hw.local([clicks()], path=tmp_path / "store", settings=settings, partitions=2) as store:
        store.push("clicks", [click(n, user=f"u{n % 30}", page=n % 7, x=n / 3) for n in range(400)])
        store.settle()
        answer = store.answer("clicks_of", user=["u1", "u2", None], page=[1, 2, 3])
        listed = store.answer(["by_user.n_1h"], user=["u9"])
        applied = {number: dict(one.applied) for number, one in store.worker.shards.items()}
        views = store.plan.views
    files = SampleFiles(FolderBlobs(tmp_path / "store/samples"), "local")
    blocks = [block for name in files.names(None, None) for block in files.read(name)]
    whole, short = sorted(blocks, key=lambda one: one.origin.service, reverse=True)
    assert whole.origin.service == "clicks_of"
    assert {one.id: one.fingerprint for one in whole.origin.views} == {
        name: view.fingerprint for name, view in views.items()
    }
    assert whole.origin.columns == ()
    assert short.origin.columns == ("by_user@1.n_1h",)
    assert [one.id for one in short.origin.views] == ["by_user@1"]
    for block, served in ((whole, answer), (short, listed)):
        (asked,) = block.asked
        assert block.origin.revision == served.revision
        assert asked.t_us == served.t_us
        assert block.values.equals(served.values)
        assert np.array_equal(block.statuses, served.statuses)
        assert {n: one.exchange_offset for n, one in asked.shards.items()} == dict(
            served.exchange_offsets
        )
        bindings = {views[one.id].binding.id for one in block.origin.views}
        for number, one in asked.shards.items():
            assert one.applied == {
                lane: at for lane, at in applied[number].items() if lane.split("|")[1] in bindings
            }
            assert all(at >= 0 for at in one.applied.values())
