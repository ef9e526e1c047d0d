"""Planted faults: whatever was served wrong, the audit names it, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import polars as pl
import pytest
from audit_harness import (
    ROWS,
    USERS,
    Taken,
    audited,
    changed,
    corrupt,
    names_of,
    opened,
    stream_and_ask,
)
from harness import BASE_US, SECOND_US, moment

from headwater.flow.answer import Status
from headwater.plan.ops import COUNT_ROWS, SUM_FLOAT

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def test_a_corrupted_tile_is_named_by_feature_and_entity() -> None:
    with opened() as store:
        stream_and_ask(store, chunks=4)
        corrupt(store, "u7", COUNT_ROWS, tile=0, word=0, change=lambda n: n + 1)
        taken = store.worker.reader.samples = Taken()
        store.answer("payers", at=moment(BASE_US + 3_000 * SECOND_US), **ROWS)
        found = audited(store, taken.blocks())
    assert names_of(found) == {("by_user.n_lifetime", "user=u7")}
    (one,) = found.differences
    assert int(one.served) == int(one.recomputed) + 1
    assert (one.service, one.what, one.worker) == ("payers", "value", "w")
    assert one.t_us == BASE_US + 3_000 * SECOND_US
    assert found.compared == 13 * len(USERS)


def test_a_corrupted_sum_is_found_in_all_that_is_made_of_it() -> None:
    with opened() as store:
        stream_and_ask(store, chunks=4)
        # The word in which a step is 1.0.
        corrupt(store, "u7", SUM_FLOAT, tile=-1, word=3, change=lambda word: word + 1)
        taken = store.worker.reader.samples = Taken()
        store.answer("payers", at=moment(BASE_US + 2_400 * SECOND_US), **ROWS)
        found = audited(store, taken.blocks())
    # Every feature of the sum whose window has that tile, and what is made of it; no count.
    totals = {"by_user.total_1h", "by_user.total_lifetime"}
    assert names_of(found) == {(name, "user=u7") for name in {*totals, "against.share"}}
    for one in found.differences:
        if one.feature in totals:
            assert float(one.served) == pytest.approx(float(one.recomputed) + 1.0)


@pytest.mark.parametrize(
    ("column", "value", "served"),
    [("n_1h", 77, "77"), ("total_1h", None, "null"), ("total_1h", -0.0, "-0.0")],
)
def test_one_value_that_was_served_wrong_is_named(
    store: LocalStore, blocks: list[Block], column: str, value: object, served: str
) -> None:
    whole = next(one for one in blocks if one.origin.service)
    row = 5
    assert whole.values[column][row] != value
    found = audited(store, [changed(whole, column, row, value)])
    assert names_of(found) == {(f"by_user.{column}", f"user={USERS[row]}")}
    assert [one.served for one in found.differences] == [served]


def test_a_zero_of_the_other_sign_and_a_nan_of_other_bits_are_differences(
    store: LocalStore, blocks: list[Block]
) -> None:
    whole = next(one for one in blocks if one.origin.service)
    shares = whole.values["product"].to_list()
    zero = next(i for i, one in enumerate(shares) if one == 0.0)
    nan = whole.values["share"].is_nan().to_list().index(True)
    flipped = changed(whole, "product", zero, -shares[zero])
    other = np.array([0x7FF8_0000_0000_BEEF], np.uint64).view(np.float64)
    bits = whole.values["share"].to_numpy().copy()
    mask = whole.values["share"].is_null()
    bits[nan] = other[0]
    share = pl.select(pl.when(~mask).then(pl.Series("share", bits))).to_series()
    flipped = replace(flipped, values=flipped.values.with_columns(share.alias("share")))
    found = audited(store, [flipped])
    assert found.differing == 2
    texts = {one.feature: (one.served, one.recomputed) for one in found.differences}
    assert set(texts["against.product"]) == {"0.0", "-0.0"}
    assert texts["against.share"][0] == "nan (0x7ff800000000beef)"


def test_a_status_that_does_not_fit_its_value_is_a_difference(
    store: LocalStore, blocks: list[Block]
) -> None:
    whole = next(one for one in blocks if one.origin.service)
    statuses = whole.statuses.copy()
    assert statuses[0, 4] == Status.PRESENT
    statuses[0, 4] = Status.NULL
    found = audited(store, [replace(whole, statuses=statuses)])
    (one,) = found.differences
    assert (one.feature, one.what, one.served, one.recomputed) == (
        "by_user.n_10m", "status", "NULL", "PRESENT",
    )  # fmt: skip


@pytest.mark.parametrize("by", [-1, 1])
def test_an_applied_offset_that_is_off_by_one_is_found(store: LocalStore, by: int) -> None:
    """Which it would be if it weren't taken in the same hold as the rows."""
    with opened() as store:
        taken = store.worker.reader.samples = Taken()  # type: ignore[assignment]
        for step in range(2):
            rows = [
                {"user": f"u{n % 20}", "shop": 1, "x": 1.0, "at": BASE_US + step} for n in range(60)
            ]
            store.push("payments", rows)
            store.settle()
            store.answer("payers", at=moment(BASE_US + 10 * SECOND_US), **ROWS)
        assert audited(store, taken.blocks()).differing == 0
        sample = taken.samples[0]
        shards = {
            number: msgspec.structs.replace(
                one, applied={lane: at + by for lane, at in one.applied.items()}
            )
            for number, one in sample.asked.shards.items()
        }
        wrong = Taken()
        asked = msgspec.structs.replace(sample.asked, shards=shards)
        wrong.samples = [replace(sample, asked=asked), taken.samples[1]]
        found = audited(store, wrong.blocks())
        assert 0 < found.differing < found.compared
        assert {one.served_us for one in found.differences} == {sample.asked.served_us}


def test_states_that_are_no_chain_take_a_pass_each(store: LocalStore, blocks: list[Block]) -> None:
    """As of a shard that was rebuilt, and had two lanes in another order than before."""
    taken = Taken()
    for sample in store.worker.reader.samples.samples[:4]:  # type: ignore[union-attr]
        shards = {}
        for number, one in sample.asked.shards.items():
            lanes = sorted(one.applied)
            swapped = dict(zip(lanes, (one.applied[lane] for lane in reversed(lanes)), strict=True))
            shards[number] = msgspec.structs.replace(one, applied=swapped)
        asked = msgspec.structs.replace(sample.asked, shards=shards)
        taken.samples += [replace(sample, asked=asked), sample]
    found = audited(store, taken.blocks())
    right = {one.asked.served_us for one in store.worker.reader.samples.samples}  # type: ignore[union-attr]
    assert found.compared == sum(one.values.height * one.values.width for one in taken.samples)
    # The true ones are still right, whatever stands beside them.
    alone = Taken()
    alone.samples = taken.samples[1::2]
    assert audited(store, alone.blocks()).differing == 0
    assert {one.served_us for one in found.differences} <= right
