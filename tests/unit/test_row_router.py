"""The row router: rows to where their shards are, in bounded time, and never around in circles."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from harness import BASE_US, SECOND_US, click, clicks

import headwater as hw
from headwater.errors import HeadwaterError
from headwater.flow.answer import UnavailableError
from headwater.flow.peers import RowsRequest, check_same_plan
from headwater.flow.row_router import RowRouter
from headwater.flow.shard_reads import (
    EntityRows,
    NotOwnerError,
    RowFlag,
    RowsAnswer,
    ShardReads,
    shards_of,
)
from headwater.state.keys import canonical_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from headwater.local_store import LocalStore

T_US = BASE_US + 4_000 * SECOND_US
COUNT = 4
USERS = [f"u{n}" for n in range(40)]


@pytest.fixture(scope="module")
def store() -> Iterator[LocalStore]:
    with hw.local([clicks()]) as made:
        made.push("clicks", [click(n, user=f"u{n % 30}", page=n % 7, x=n / 3) for n in range(400)])
        made.settle()
        yield made


@pytest.fixture(scope="module")
def entities() -> list[EntityRows]:
    frame = pl.DataFrame({"user": USERS, "page": list(range(40))})
    return [
        EntityRows(canonical_keys(frame, ["user"]), ("by_user@1",)),
        EntityRows(canonical_keys(frame, ["page"]), ("by_page@1",)),
    ]


def reads_of(store: LocalStore, *numbers: int) -> ShardReads:
    worker = store.worker
    shards = {number: worker.shards[number] for number in numbers}
    return ShardReads(worker.current, shards, worker.memory, shard_count=COUNT)


class Others:
    """Workers of this process that have the rest, with faults on demand."""

    own_target = "me"

    def __init__(self, store: LocalStore, owners: Mapping[int, str]) -> None:
        self.plan = store.plan
        self.table = dict(owners)
        self.next_table: dict[int, str] | None = None
        self.has = {
            target: reads_of(store, *(n for n, one in owners.items() if one == target))
            for target in set(owners.values())
        }
        self.asked: list[tuple[str, int]] = []
        self.refreshes: list[bool] = []
        self.before: Callable[[str], Any] = lambda _: None

    def owners(self) -> Mapping[int, str]:
        return dict(self.table)

    def refresh(self, timeout_s: float, *, is_wrong: bool = False) -> Mapping[int, str]:
        self.refreshes.append(is_wrong)
        assert 0 <= timeout_s <= 2
        if self.next_table is not None:
            self.table = self.next_table
        return dict(self.table)

    def read(self, target: str, request: RowsRequest, timeout_s: float) -> RowsAnswer:
        assert target != self.own_target
        assert 0 <= timeout_s <= 2
        self.asked.append((target, sum(len(one.keys) for one in request.entities)))
        self.before(target)
        return self.has[target].read(
            self.plan, request.entities, request.t_us, with_provenance=request.with_provenance
        )


def equal(one: RowsAnswer, other: RowsAnswer) -> bool:
    return list(one.views) == list(other.views) and all(
        np.array_equal(one.views[name].values.bits, other.views[name].values.bits)
        and np.array_equal(one.views[name].values.valid, other.views[name].values.valid)
        and np.array_equal(one.views[name].values.found, other.views[name].values.found)
        and np.array_equal(one.views[name].flags, other.views[name].flags)
        for name in one.views
    )


def unread(answer: RowsAnswer, entities: list[EntityRows]) -> set[int]:
    """Return the shards whose rows nobody read; no row of them may have anything to say."""
    found = set()
    for entity in entities:
        shards = shards_of(entity.keys, COUNT)
        for view_id in entity.view_ids:
            one = answer.views[view_id]
            mine = (one.flags & RowFlag.UNREAD) != 0
            assert ((one.flags & RowFlag.STALE) != 0)[mine].all()
            assert not one.values.valid[mine].any()
            found |= set(shards[mine].tolist())
    return found


def test_rows_come_from_wherever_their_shards_are(
    store: LocalStore, entities: list[EntityRows]
) -> None:
    whole = reads_of(store, *range(COUNT)).read(store.plan, entities, T_US)
    for here in ([], [0], [1, 3], [0, 1, 2, 3]):
        elsewhere = {n: f"w{n % 2}" for n in range(COUNT) if n not in here}
        peers = Others(store, elsewhere)
        router = RowRouter(reads_of(store, *here), peers)
        answer = router.read(store.plan, entities, T_US)
        assert equal(answer, whole)
        assert dict(answer.offsets) == dict(whole.offsets)
        assert len(peers.asked) == len(set(elsewhere.values()))
        assert peers.refreshes == []
        router.close()


def test_all_views_of_a_key_are_read_by_one_call(
    store: LocalStore, entities: list[EntityRows]
) -> None:
    peers = Others(store, dict.fromkeys(range(COUNT), "w"))
    router = RowRouter(reads_of(store), peers)
    router.read(store.plan, entities, T_US)
    assert peers.asked == [("w", 2 * len(USERS))]
    router.close()


def test_without_peers_what_is_not_here_stays_unread(
    store: LocalStore, entities: list[EntityRows]
) -> None:
    answer = RowRouter(reads_of(store, 0, 2), None).read(store.plan, entities, T_US)
    assert unread(answer, entities) == {1, 3}
    assert set(answer.offsets) == {0, 2}


@pytest.mark.parametrize("error", [NotOwnerError("not mine"), UnavailableError("gone")])
def test_who_refuses_is_looked_up_anew_and_asked_once_more(
    store: LocalStore, entities: list[EntityRows], error: Exception
) -> None:
    whole = reads_of(store, *range(COUNT)).read(store.plan, entities, T_US)
    peers = Others(store, {0: "w0", 1: "w1", 2: "w2", 3: "w0"})
    peers.has["w9"] = reads_of(store, 1)
    peers.next_table = {**peers.table, 1: "w9"}

    def fail(target: str) -> None:
        if target == "w1":
            raise error

    peers.before = fail
    router = RowRouter(reads_of(store), peers)
    answer = router.read(store.plan, entities, T_US)
    assert equal(answer, whole)
    assert sorted(target for target, _ in peers.asked) == ["w0", "w1", "w2", "w9"]
    # A worker that is gone is no sign that the table is wrong; one that says "not mine" is.
    assert peers.refreshes == [isinstance(error, NotOwnerError)]
    router.close()


def test_after_the_second_refusal_rows_stay_unread_and_the_others_are_right(
    store: LocalStore, entities: list[EntityRows]
) -> None:
    peers = Others(store, {1: "w1", 2: "w2", 3: "w3"})

    def fail(target: str) -> None:
        if target == "w2":
            raise UnavailableError("gone")

    peers.before = fail
    router = RowRouter(reads_of(store, 0), peers)
    answer = router.read(store.plan, entities, T_US)
    assert unread(answer, entities) == {2}
    assert set(answer.offsets) == {0, 1, 3}
    assert [target for target, _ in peers.asked].count("w2") == 2
    router.close()


def test_a_shard_that_is_ours_by_the_table_and_not_here_is_not_asked_for_around_the_corner(
    store: LocalStore, entities: list[EntityRows]
) -> None:
    peers = Others(store, {1: "w1", 2: "w1", 3: "w1"})
    peers.table[0] = "me"
    router = RowRouter(reads_of(store), peers)
    answer = router.read(store.plan, entities, T_US)
    assert unread(answer, entities) == {0}
    assert {target for target, _ in peers.asked} == {"w1"}
    assert peers.refreshes == [True]
    router.close()


def test_a_shard_that_goes_while_it_is_read_is_found_at_its_new_owner(
    store: LocalStore, entities: list[EntityRows]
) -> None:
    whole = reads_of(store, *range(COUNT)).read(store.plan, entities, T_US)
    mine = reads_of(store, *range(COUNT))
    peers = Others(store, {2: "w"})

    class Going(dict):  # type: ignore[type-arg]
        looks = 0

        def __contains__(self, number: object) -> bool:
            # There when it is first looked for, gone when the rows are held.
            if number == 2:
                self.looks += 1
                return self.looks == 1
            return super().__contains__(number)

    mine.shards = Going(mine.shards)
    router = RowRouter(mine, peers)
    assert equal(router.read(store.plan, entities, T_US), whole)
    assert {target for target, _ in peers.asked} == {"w"}
    router.close()


def test_peers_are_asked_at_the_same_time(store: LocalStore, entities: list[EntityRows]) -> None:
    peers = Others(store, {n: f"w{n}" for n in range(COUNT)})
    together = threading.Barrier(COUNT)
    peers.before = lambda _: together.wait(20)
    router = RowRouter(reads_of(store), peers, timeout_s=40.0)
    peers.read = _lenient(peers)  # type: ignore[method-assign]
    assert not unread(router.read(store.plan, entities, T_US), entities)
    router.close()


def _lenient(peers: Others) -> Callable[..., RowsAnswer]:
    def read(target: str, request: RowsRequest, _timeout_s: float) -> RowsAnswer:
        peers.before(target)
        return peers.has[target].read(peers.plan, request.entities, request.t_us)

    return read


def test_a_peer_that_never_answers_costs_its_rows_and_no_more_than_the_time_allowed(
    store: LocalStore, entities: list[EntityRows]
) -> None:
    # Both break their word: `read` should end by itself in the time that it is given.
    peers = Others(store, {1: "w1", 2: "stuck", 3: "stuck too"})
    release = threading.Event()

    def hang(target: str) -> None:
        if target != "w1":
            release.wait(60)

    peers.before = hang
    router = RowRouter(reads_of(store, 0), peers, timeout_s=1.0)
    answer = router.read(store.plan, entities, T_US)
    assert not release.is_set()
    assert unread(answer, entities) == {2, 3}
    release.set()
    router.close()


def test_an_error_that_asking_again_does_not_cure_is_raised(
    store: LocalStore, entities: list[EntityRows]
) -> None:
    peers = Others(store, {1: "w1", 2: "w2", 3: "w2"})

    def refuse(target: str) -> None:
        if target == "w2":
            raise HeadwaterError("too many rows at once")

    peers.before = refuse
    router = RowRouter(reads_of(store, 0), peers)
    with pytest.raises(HeadwaterError, match="too many rows"):
        router.read(store.plan, entities, T_US)
    router.close()


def test_an_answer_of_another_shape_is_not_believed(
    store: LocalStore, entities: list[EntityRows]
) -> None:
    peers = Others(store, dict.fromkeys(range(COUNT), "w"))
    reads = peers.has["w"]

    class Wrong:
        def read(self, plan: Any, asked: list[EntityRows], t_us: int, **_: Any) -> RowsAnswer:
            answer = reads.read(plan, asked, t_us)
            return RowsAnswer({"by_user@1": answer.views["by_page@1"]}, answer.offsets)

    peers.has["w"] = Wrong()  # type: ignore[assignment]
    router = RowRouter(reads_of(store), peers)
    assert unread(router.read(store.plan, entities, T_US), entities) == set(range(COUNT))
    router.close()


def test_provenance_comes_from_wherever_its_shards_are_and_only_where_asked_for(
    store: LocalStore, entities: list[EntityRows]
) -> None:
    peers = Others(store, {0: "a", 1: "b", 2: "b"})
    router = RowRouter(reads_of(store, 3), peers)
    assert router.read(store.plan, entities, T_US).provenance == {}
    found = router.read(store.plan, entities, T_US, with_provenance=True)
    assert len(peers.asked) == 4
    assert found.provenance.keys() == found.offsets.keys() == {0, 1, 2, 3}
    for number, one in found.provenance.items():
        assert one.applied == store.worker.shards[number].applied
        assert len(one.applied) == 2, "a lane for each entity"
        assert one.loading == ()


def test_provenance_is_of_the_views_that_were_read(
    store: LocalStore, entities: list[EntityRows]
) -> None:
    reads = reads_of(store, 0, 1, 2, 3)
    found = reads.read(store.plan, entities[:1], T_US, with_provenance=True)
    for one in found.provenance.values():
        assert {lane.split("|")[1] for lane in one.applied} == {
            store.plan.views["by_user@1"].binding.id
        }


def test_no_rows_are_an_empty_answer(store: LocalStore, entities: list[EntityRows]) -> None:
    none = [one.take(np.empty(0, np.int64)) for one in entities]
    answer = RowRouter(reads_of(store), None).read(store.plan, none, T_US)
    assert dict(answer.offsets) == {}
    assert answer.views["by_user@1"].values.bits.shape[0] == 0


def test_only_a_worker_that_means_the_same_bits_answers(store: LocalStore) -> None:
    plan = store.plan
    known = plan.views["by_user@1"].fingerprint
    stamp = str(plan.stamp)
    check_same_plan(plan, COUNT, RowsRequest([], 0, {"by_user@1": known}, stamp, COUNT))
    for request, text in [
        (RowsRequest([], 0, {}, "another", COUNT), "engine"),
        (RowsRequest([], 0, {}, stamp, 2 * COUNT), "4 shards, the other 8"),
        (RowsRequest([], 0, {"by_user@1": "changed"}, stamp, COUNT), 'view "by_user@1"'),
        (RowsRequest([], 0, {"by_user@2": known}, stamp, COUNT), 'view "by_user@2"'),
    ]:
        with pytest.raises(UnavailableError, match=text):
            check_same_plan(plan, COUNT, request)
