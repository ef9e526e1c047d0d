"""The audit: what was served is computed again to the last bit, or it says why not."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl
import pytest
from audit_harness import (
    ROWS,
    SHARDS,
    USERS,
    Taken,
    audited,
    by_shop,
    by_user,
    changed,
    history_of,
    names_of,
    opened,
    stream_and_ask,
)
from harness import BASE_US, SECOND_US, moment, records_of
from peer_harness import cluster_of

import headwater as hw
from headwater.errors import HeadwaterError
from headwater.flow.answer import Status
from headwater.flow.starts import Start
from headwater.plan.plan import compile_plan
from headwater_connectors.archive.retention import retain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headwater.flow.samples import Block
    from headwater.local_store import LocalStore


@pytest.fixture(scope="module")
def store() -> Iterator[LocalStore]:
    with opened() as made:
        stream_and_ask(made)
        yield made


@pytest.fixture
def blocks(store: LocalStore) -> list[Block]:
    return store.worker.reader.samples.blocks()  # type: ignore[union-attr]


# Right answers


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_what_was_served_in_mid_stream_is_computed_again(seed: int, partitions: int) -> None:
    with opened(partitions=partitions) as store:
        taken = stream_and_ask(store, seed=seed)
        found = audited(store, taken.blocks())
    assert found.differences == []
    assert found.vectors == sum(one.inputs.height for one in taken.samples) == 13 * len(USERS)
    assert found.compared == 7 * len(USERS) * 13 + 6 * len(USERS) * 2
    assert not found.not_compared


def test_events_that_came_after_an_answer_are_no_part_of_it() -> None:
    late = {"user": "u1", "shop": 1, "x": 5.0, "at": BASE_US}
    with opened() as store:
        taken = store.worker.reader.samples = Taken()  # type: ignore[assignment]
        counts = []
        for _ in range(3):
            at = moment(BASE_US + 10 * SECOND_US)
            answer = store.answer(["n_lifetime"], at=at, user=["u1"])
            counts.append(answer.values["n_lifetime"][0])
            store.push("payments", [late])
            store.settle()
        found = audited(store, taken.blocks())
    assert counts == [0, 1, 2]
    assert (found.compared, found.differing) == (3, 0)


def test_what_is_sent_to_the_shards_twice_counts_once_here_too() -> None:
    with opened() as store:
        stream_and_ask(store, chunks=2)
        exchange = store.worker.exchange
        producer = store.log.producer()
        for shard, values in records_of(store.log, exchange).items():  # type: ignore[arg-type]
            producer.send_many(exchange, shard, values)
        producer.flush()
        ends = store.log.end_offsets(exchange)
        while [store.worker.shards[n].next_offset for n in range(SHARDS)] != ends:
            time.sleep(0.002)
        taken = stream_and_ask(store, seed=9, chunks=2)
        found = audited(store, taken.blocks())
    assert found.differing == 0
    assert found.compared > 0


def test_a_store_that_was_opened_again_goes_on_from_its_archive(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        first = stream_and_ask(store, chunks=2)
    with opened(tmp_path / "store") as store:
        assert store.worker.archive is not None
        assert store.worker.archive.position("payments", store.log.topic("payments").id, 0)
        again = stream_and_ask(store, seed=9, chunks=2)
        found = audited(store, [*first.blocks(), *again.blocks()])
    assert found.differing == 0
    assert found.compared > 0


def test_rows_of_other_workers_are_audited_like_those_of_ones_own(store: LocalStore) -> None:
    taken = Taken()
    with cluster_of(store) as cluster:
        cluster.add([0, 2])
        asked = cluster.add([1])
        cluster.add([3])
        asked.reader.samples = taken  # type: ignore[assignment]
        inputs = pl.DataFrame(
            {**ROWS, "user": USERS},
            schema={"user": pl.String, "shop": pl.Int64, "amount": pl.Float64},
        )
        asked.reader.read(asked.reader.describe("payers"), inputs, BASE_US + 5_000 * SECOND_US)
    (sample,) = taken.samples
    assert set(sample.asked.shards) == {0, 1, 2, 3}
    found = audited(store, taken.blocks())
    assert (found.differing, found.compared) == (0, 13 * len(USERS))


# What can't be compared


def test_another_engine_is_not_compared(store: LocalStore, blocks: list[Block]) -> None:
    origin = msgspec.structs.replace(blocks[0].origin, stamp="format=0 polars=1.20 machine=other")
    found = audited(store, [replace(blocks[0], origin=origin)])
    assert found.compared == 0
    ((reason, cells),) = found.not_compared.items()
    assert reason.startswith("served by another engine (format=0 polars=1.20")
    assert cells == blocks[0].values.height * blocks[0].values.width


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([by_shop], "view by_user@1 is not applied any more"),
        ([by_user, by_shop], 'service "payers" is not applied any more'),
        ([hw.service("payers", [by_user, by_shop])], '"payers" was at another revision'),
        (
            [hw.view("by_user", features=by_shop.features), by_shop],
            "view by_user@1 was another one when it was served",
        ),
    ],
)
def test_what_is_not_applied_any_more_is_not_compared(
    store: LocalStore, blocks: list[Block], parts: list[Any], text: str
) -> None:
    whole = next(one for one in blocks if one.origin.service)
    found = audited(store, [whole], plan=compile_plan(parts))
    assert found.compared == found.differing == 0
    assert text in " ".join(found.not_compared)


def test_a_list_of_features_needs_their_views_and_no_service(
    store: LocalStore, blocks: list[Block]
) -> None:
    short = next(one for one in blocks if not one.origin.service)
    found = audited(store, [short], plan=compile_plan([by_user, by_shop]))
    assert found.differing == 0
    assert found.compared == short.values.height * 2


def test_a_stream_that_begins_elsewhere_since_is_not_compared(
    store: LocalStore, blocks: list[Block]
) -> None:
    start = store.worker.starts["payments"]
    moved = {"payments": Start(start.topic_id, start.positions, BASE_US)}
    found = audited(store, blocks, starts=moved)
    assert found.compared == 0
    assert list(found.not_compared) == ['stream "payments" begins elsewhere since']


def test_a_topic_that_was_made_again_is_not_compared(
    store: LocalStore, blocks: list[Block]
) -> None:
    history = replace(history_of(store), topic_ids={"payments": "another"})
    found = audited(store, blocks, history=history)
    assert found.compared == 0
    assert list(found.not_compared) == ['stream "payments" was made again since']


def test_history_that_cannot_be_read_is_a_reason_and_no_crash(
    store: LocalStore, blocks: list[Block]
) -> None:
    class Gone:
        def rows(self, stream: Any) -> int:
            return 1

        def scan(self, *_: Any) -> Iterator[Any]:
            raise HeadwaterError("payments[0]: offset 0 is gone")
            yield

    history = replace(history_of(store), source=Gone())
    found = audited(store, blocks, history=history)
    assert (found.compared, found.differing) == (0, 0)
    assert list(found.not_compared) == ["payments[0]: offset 0 is gone"]


def test_windows_that_begin_before_what_is_kept_are_not_compared(
    store: LocalStore, blocks: list[Block]
) -> None:
    whole = next(one for one in blocks if one.origin.service)
    last_t_us = max(one.t_us for one in whole.asked)
    # All but ten minutes before the last read.
    forgotten = {"payments": last_t_us - 700 * SECOND_US}
    history = replace(history_of(store), forgotten_us=forgotten)
    found = audited(store, [whole], history=history)
    assert found.differing == 0
    last = sum(one.rows for one in whole.asked if one.t_us == last_t_us)
    assert found.compared == 3 * last, "the windows of ten minutes"
    assert "does not reach back" in next(iter(found.not_compared))


def test_rows_that_nobody_could_be_asked_for_are_not_compared(store: LocalStore) -> None:
    taken = Taken()
    with cluster_of(store) as cluster:
        alone = cluster.add([1])
        alone.reader.samples = taken  # type: ignore[assignment]
        inputs = pl.DataFrame({"user": USERS}, schema={"user": pl.String})
        alone.reader.read(
            alone.reader.describe_features(["n_1h"]), inputs, BASE_US + 5_000 * SECOND_US
        )
    found = audited(store, taken.blocks())
    assert found.differing == 0
    assert 0 < found.compared < len(USERS)
    assert found.not_compared == {
        "nobody could be asked for the row, so it has no value": len(USERS) - found.compared
    }
    # A value that came from nowhere is a difference all the same.
    (block,) = taken.blocks()
    row = int(np.flatnonzero(block.values["n_1h"].is_null().to_numpy())[0])
    found = audited(store, [changed(block, "n_1h", row, 1)])
    assert names_of(found) == {("by_user.n_1h", f"user={USERS[row]}")}


def test_reads_before_the_horizon_are_not_compared(store: LocalStore) -> None:
    taken = Taken()
    before, store.worker.reader.samples = store.worker.reader.samples, taken  # type: ignore[assignment]
    try:
        answer = store.answer("payers", at=moment(BASE_US), **ROWS)
    finally:
        store.worker.reader.samples = before
    late = int(np.count_nonzero(answer.statuses == Status.OUT_OF_RANGE))
    assert late
    found = audited(store, taken.blocks())
    assert found.differing == 0
    assert found.not_compared["the read time was before the horizon, so there is no value"] == late


def test_a_view_whose_past_was_on_its_way_is_not_compared(
    store: LocalStore, blocks: list[Block]
) -> None:
    short = next(one for one in blocks if not one.origin.service)
    asked = tuple(
        msgspec.structs.replace(
            one,
            shards={
                number: msgspec.structs.replace(state, loading=("by_user@1",))
                for number, state in one.shards.items()
            },
        )
        for one in short.asked
    )
    values = short.values.with_columns(n_10m=pl.lit(None, pl.Int64))
    found = audited(store, [replace(short, asked=asked, values=values)])
    assert found.differing == 0
    assert found.compared == short.values.height, "the other view's"
    assert found.not_compared == {
        "the view's past was still on its way, so it has no value": short.values.height
    }


def test_no_samples_are_nothing_compared(store: LocalStore) -> None:
    found = audited(store, [])
    assert (found.vectors, found.compared, found.differing) == (0, 0, 0)


def test_what_neither_topic_nor_archive_has_is_not_compared() -> None:
    with opened(partitions=1) as store:
        taken = stream_and_ask(store, chunks=2)
        assert store.worker.archive is None
        store.log.delete_records("payments", {0: 100})
        found = audited(store, taken.blocks())
    assert (found.compared, found.differing) == (0, 0)
    (reason,) = found.not_compared
    assert "payments" in reason
    assert "0" in reason


def test_of_a_history_that_was_trimmed_the_windows_within_are_compared(tmp_path: Path) -> None:
    hour_us = 3_600 * SECOND_US
    for hour in (0, 10):
        with opened(tmp_path / "store", partitions=1) as store:
            at_us = BASE_US + hour * hour_us
            row = {"user": "u1", "shop": 1, "x": 1.0, "at": at_us}
            store.push("payments", [row], arrival=moment(at_us))
            store.settle()
    with opened(tmp_path / "store", partitions=1) as store:
        archive, topic_id = store.worker.archive, store.log.topic("payments").id
        assert archive is not None
        late_us = BASE_US + 10 * hour_us
        for now_us in (late_us, late_us + hour_us):
            retain(
                archive, "payments", topic_id, 0,
                before_us=late_us - hour_us, grace_us=1, now_us=now_us,
            )  # fmt: skip
        taken = store.worker.reader.samples = Taken()  # type: ignore[assignment]
        answer = store.answer("payers", at=moment(late_us + SECOND_US), **ROWS)
        assert answer.values["n_lifetime"][1] == 2
        assert archive.rows("payments", topic_id) == 1
        found = audited(store, taken.blocks())
    assert found.differing == 0
    # Not the three lifetime features, nor what is made of their view.
    assert found.compared == 8 * len(USERS)
    assert list(found.not_compared) == [
        'history of stream "payments" does not reach back to the beginning of the window any more'
    ]
