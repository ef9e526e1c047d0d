"""Reads between workers over real gRPC: any worker answers as one that has everything would."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import polars as pl
import pytest
from harness import BASE_US, SECOND_US, moment
from peer_harness import PATIENCE_S, Cluster, Member, background, cluster_of
from polars.testing import assert_frame_equal

import headwater as hw
from headwater.errors import HeadwaterError
from headwater.flow.answer import RequestError, Status, UnavailableError
from headwater.flow.peers import RowsRequest
from headwater.flow.settings import WorkerSettings
from headwater.flow.shard_reads import EntityRows, NotOwnerError
from headwater.state.keys import canonical_keys
from headwater_proto.v1 import peer_pb2, peer_pb2_grpc, serving_pb2, serving_pb2_grpc
from headwater_serving.client import connect
from headwater_serving.codes import UnreachableError
from headwater_serving.columns import encode_column
from headwater_serving.peer_client import PeerClient
from headwater_serving.routing import KafkaPeers
from headwater_serving.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwater.local_store import LocalStore

SHARDS = 8
NOW_US = BASE_US + 5_000 * SECOND_US

payments = hw.stream(
    "payments",
    schema={"user": pl.String, "shop": pl.Int64, "x": pl.Float64, "at": pl.Int64},
    event_time=hw.epoch("at", "us"),
)
user = hw.entity("user", key="user")
pair = hw.entity("pair", key=["user", "shop"])
shop = hw.entity("shop", key="shop")
by_user = hw.view(
    "by_user",
    features=payments.with_columns(big=pl.col("x") > 1.0)
    .group_by(user)
    .window("10s", "1h", "lifetime")
    .agg(n=hw.count(), total=hw.sum("x"), big=hw.sum("big"), last=hw.last("x")),
)
user_spread = hw.view(
    "user_spread",
    features=payments.group_by(user)
    .window(hw.window("1m", exact=True, name="exact"))
    .agg(spread=hw.var("x")),
)
by_pair = hw.view(
    "by_pair",
    features=payments.group_by(pair).window("1h").agg(n=hw.count("x"), top=hw.max("x")),
)
by_shop = hw.view("by_shop", features=payments.group_by(shop).window("1h").agg(shop_n=hw.count()))


@hw.on_demand(inputs=[by_user, hw.request("amount", pl.Float64)])
def against(row: pl.LazyFrame) -> pl.LazyFrame:
    return row.with_columns(
        over=pl.col("amount") - pl.col("total_1h"), seen=pl.col("n_lifetime").fill_null(0) > 0
    )


SERVICES = [
    hw.service("all", [by_user, user_spread, by_pair, by_shop, against]),
    hw.service("users", [by_user, user_spread]),
    hw.service("shops", [by_shop]),
]
FEATURES = ["by_pair.top_1h", "spread_exact", "shop_n_1h", "by_user.n_lifetime", "last_10s"]
USERS = [*(f"u{n}" for n in range(60)), "", "never", None]


@pytest.fixture(scope="module")
def store() -> Iterator[LocalStore]:
    settings = WorkerSettings(
        namespace="local", shards=SHARDS, read_back_us=1_000 * SECOND_US, keep_exchange=True
    )
    dice = random.Random(10)
    rows = [
        {
            "user": dice.choice(USERS[:61]),
            "shop": dice.randrange(9),
            "x": dice.choice([None, -0.0, 1 / 3, dice.uniform(-9, 9)]),
            "at": BASE_US + dice.randrange(4_000 * SECOND_US),
        }
        for _ in range(3_000)
    ]
    with hw.local(SERVICES, settings=settings, clock=lambda: NOW_US) as made:
        made.push("payments", rows)
        made.settle()
        made.worker.reader.warm_up()
        yield made


@pytest.fixture
def cluster(store: LocalStore) -> Iterator[Cluster]:
    with cluster_of(store) as made:
        yield made


def split(cluster: Cluster, workers: int = 2, **guard: Any) -> list[Member]:
    return [cluster.add(range(n, SHARDS, workers), **guard) for n in range(workers)]


def requests(seed: int, count: int) -> Iterator[tuple[Any, dict[str, list[Any]], int | None]]:
    """Yield (service or features, inputs, read time)."""
    dice = random.Random(seed)
    for _ in range(count):
        source = dice.choice([*(one.name for one in SERVICES), FEATURES])
        rows = dice.choice([0, 1, 1, 2, 30])
        inputs: dict[str, list[Any]] = {}
        if source != "shops":
            inputs["user"] = [dice.choice(USERS) for _ in range(rows)]
        if source != "users":
            inputs["shop"] = [dice.choice([None, *range(11)]) for _ in range(rows)]
        if source == "all":
            inputs["amount"] = [dice.choice([None, 1.5]) for _ in range(rows)]
        at_us = dice.choice(
            [None, NOW_US, BASE_US + 3_500 * SECOND_US, BASE_US + dice.randrange(5_000 * SECOND_US)]
        )
        yield source, inputs, at_us


class Expected:
    """What the reader that has every shard answers."""

    def __init__(self, store: LocalStore, source: Any, inputs: Any, at_us: int | None) -> None:
        at = None if at_us is None else moment(at_us)
        self.answer = store.answer(source, at=at, **inputs)

    def check(self, got: Any, *, may_be_stale: bool = False) -> int:
        """Compare an answer over the wire bit for bit; return how many values are stale."""
        answer = self.answer
        frame = got.to_polars()
        assert (got.t_us, got.t_from_request) == (answer.t_us, answer.t_from_request)
        codes = got.status_codes()
        stale = codes == Status.STALE
        assert may_be_stale or not stale.any()
        assert np.array_equal(codes[~stale], answer.statuses[~stale])
        assert set(got.exchange_offsets.items()) <= set(answer.exchange_offsets.items())
        assert may_be_stale or got.exchange_offsets == answer.exchange_offsets
        for name, mask in zip(frame.columns, stale, strict=True):
            fresh = pl.Series(~mask)
            assert_frame_equal(
                frame.select(name).filter(fresh), answer.values.select(name).filter(fresh),
                check_exact=True,
            )  # fmt: skip
            # Nobody was asked: no value, whatever a function makes of nulls.
            assert frame[name].filter(~fresh).null_count() == mask.sum()
        return int(stale.sum())


@pytest.mark.parametrize("workers", [2, 3])
def test_any_worker_answers_any_read_bit_for_bit(
    store: LocalStore, cluster: Cluster, workers: int
) -> None:
    members = split(cluster, workers)
    for source, inputs, at_us in requests(workers, 60):
        expected = Expected(store, source, inputs, at_us)
        for member in members:
            at = None if at_us is None else moment(at_us)
            expected.check(member.client.online(source, inputs, at=at))


def test_a_worker_without_shards_answers_too(store: LocalStore, cluster: Cluster) -> None:
    cluster.add(range(SHARDS))
    empty = cluster.add([])
    empty.reader.warm_up()
    for source, inputs, at_us in requests(7, 20):
        at = None if at_us is None else moment(at_us)
        expected = Expected(store, source, inputs, at_us)
        expected.check(empty.client.online(source, inputs, at=at))


def test_owners_may_change_under_way(store: LocalStore, cluster: Cluster) -> None:
    one, two = split(cluster)
    asked = [(*each, Expected(store, *each)) for each in requests(3, 25)]
    dice = random.Random(4)

    def step() -> None:
        number = dice.randrange(SHARDS)
        source, target = (one, two) if number in one.shards else (two, one)
        cluster.move(number, source, target, lambda: threading.Event().wait(0.002))

    values = 0
    with background(step) as raised:
        for _ in range(4):
            for source, inputs, at_us, expected in asked:
                for member in (one, two):
                    at = None if at_us is None else moment(at_us)
                    got = member.client.online(source, inputs, at=at)
                    stale = expected.check(got, may_be_stale=True)
                    values += expected.answer.statuses.size - stale
    assert not raised
    assert values
    for source, inputs, at_us, expected in asked:
        at = None if at_us is None else moment(at_us)
        expected.check(one.client.online(source, inputs, at=at))


def test_a_worker_that_dies_costs_its_rows_only_and_comes_back(
    store: LocalStore, cluster: Cluster
) -> None:
    one, two = split(cluster)
    source, inputs = "all", {"user": USERS[:40], "shop": [1] * 40, "amount": [1.0] * 40}
    expected = Expected(store, source, inputs, NOW_US)
    at = moment(NOW_US)
    expected.check(one.client.online(source, inputs, at=at))
    calls = []
    died = threading.Event()

    def step() -> None:
        calls.append(one.client.online(source, inputs, at=at))
        if len(calls) == 5:
            died.set()

    with background(step) as raised:
        assert died.wait(PATIENCE_S)
        two.server.stop(0)
        expected_stale = one.client.online(source, inputs, at=at)
    assert not raised
    for got in [*calls, expected_stale]:
        expected.check(got, may_be_stale=True)
    stale = expected.check(one.client.online(source, inputs, at=at), may_be_stale=True)
    assert 0 < stale < expected.answer.statuses.size
    for number in list(two.shards):
        cluster.move(number, two, one)
    expected.check(one.client.online(source, inputs, at=at))


@contextmanager
def standing_still() -> Iterator[str]:
    """Yield the address of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_worker_that_stands_still_costs_its_rows_only(
    store: LocalStore, cluster: Cluster
) -> None:
    one = cluster.add(range(0, SHARDS, 2))
    inputs = {"user": USERS[:40]}
    expected = Expected(store, "users", inputs, NOW_US)
    with standing_still() as target:
        cluster.owners.update(dict.fromkeys(range(1, SHARDS, 2), target))
        for _ in range(3):
            got = one.client.online("users", inputs, at=moment(NOW_US))
            stale = expected.check(got, may_be_stale=True)
            assert 0 < stale < expected.answer.statuses.size
            assert set(got.exchange_offsets) == set(one.shards) & set(
                expected.answer.exchange_offsets
            )


def zombie(cluster: Cluster, member: Member) -> None:
    """Let time pass, in which only one worker hears nothing."""
    cluster.now_us += 10 * SECOND_US
    cluster.freshen(*(one for one in cluster.members if one is not member))


def test_what_a_zombie_holds_is_stale_wherever_it_is_asked_for(
    store: LocalStore, cluster: Cluster
) -> None:
    one, two = split(cluster)
    inputs = {"user": USERS[:40]}
    answer = Expected(store, "users", inputs, NOW_US).answer
    zombie(cluster, two)
    for member in (one, two):
        got = member.client.online("users", inputs, at=moment(NOW_US))
        # Old values: as they were, and marked.
        assert_frame_equal(got.to_polars(), answer.values, check_exact=True)
        codes = got.status_codes()
        stale = (codes == Status.STALE).all(axis=0)
        assert 0 < stale.sum() < len(stale)
        assert np.array_equal(codes[:, ~stale], answer.statuses[:, ~stale])
        assert got.exchange_offsets == answer.exchange_offsets
    cluster.freshen(two)
    Expected(store, "users", inputs, NOW_US).check(
        one.client.online("users", inputs, at=moment(NOW_US))
    )


def test_a_lane_that_falls_silent_makes_its_readers_stale(
    store: LocalStore, cluster: Cluster
) -> None:
    one = cluster.add(range(SHARDS))
    cluster.now_us += 10 * SECOND_US
    ends = {number: shard.next_offset for number, shard in one.shards.items()}
    one.freshness.observe(cluster.now_us, ends)  # the exchange goes on; the lane does not
    got = one.client.online("shops", shop=[1, 2], at=moment(NOW_US))
    assert set(got.status_codes().ravel().tolist()) == {Status.STALE}
    cluster.freshen(one)
    got = one.client.online("shops", shop=[1, 2], at=moment(NOW_US))
    assert set(got.status_codes().ravel().tolist()) == {Status.PRESENT}


def test_who_would_rather_have_no_answer_gets_unavailable(
    store: LocalStore, cluster: Cluster
) -> None:
    one, two = split(cluster, on_stale="refuse")
    inputs = {"user": USERS[:40]}
    Expected(store, "users", inputs, NOW_US).check(
        one.client.online("users", inputs, at=moment(NOW_US))
    )
    zombie(cluster, two)
    for member in (one, two):
        with pytest.raises(UnavailableError, match=r"of 80 rows can't be read as fresh as"):
            member.client.online("users", inputs, at=moment(NOW_US))
    cluster.freshen(two)
    two.server.stop(0)
    with pytest.raises(UnavailableError, match="try again"):
        one.client.online("users", inputs, at=moment(NOW_US))
    with grpc.insecure_channel(one.target) as channel, pytest.raises(grpc.RpcError) as caught:
        serving_pb2_grpc.FeatureServiceStub(channel).GetOnlineFeatures(
            serving_pb2.GetOnlineFeaturesRequest(
                service="users", inputs=[encode_column(pl.Series("user", USERS[:40]))]
            ),
            timeout=PATIENCE_S,
        )
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_request_between_workers_is_never_passed_on(
    store: LocalStore, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = split(cluster)
    passed_on: list[str] = []
    monkeypatch.setattr(two.peers, "read", lambda target, *_: passed_on.append(target))
    view = store.plan.views["by_shop@1"]
    keys = canonical_keys(pl.DataFrame({"shop": list(range(9))}), ["shop"])
    request = RowsRequest(
        [EntityRows(keys, (view.id,))],
        NOW_US,
        {view.id: view.fingerprint},
        str(store.plan.stamp),
        SHARDS,
    )
    client = PeerClient(two.target)
    # The other has the rest, and would answer.
    assert two.client.online("shops", shop=[]).to_polars().height == 0
    with pytest.raises(NotOwnerError, match=r"shards \[.*\] aren't here"):
        client.read(request, PATIENCE_S)
    for number in list(one.shards):
        cluster.move(number, one, two)
    assert client.read(request, PATIENCE_S).views[view.id].values.found.all()
    assert not passed_on
    client.close()


def test_a_worker_that_has_stopped_answers_no_other(store: LocalStore, cluster: Cluster) -> None:
    one, two = split(cluster)

    def stopped() -> None:
        raise HeadwaterError("a task has stopped")

    two.reader.check = stopped
    got = one.client.online("users", user=USERS[:40], at=moment(NOW_US))
    assert Expected(store, "users", {"user": USERS[:40]}, NOW_US).check(got, may_be_stale=True)
    with pytest.raises(HeadwaterError, match="a task has stopped"):
        two.client.online("users", user=USERS[:40])


def test_workers_whose_threads_are_all_taken_still_answer_each_other(
    store: LocalStore, cluster: Cluster
) -> None:
    one, two = split(cluster)
    inputs = {"user": USERS[:40]}
    expected = Expected(store, "users", inputs, NOW_US)
    failures: list[BaseException] = []

    def ask(member: Member) -> None:
        try:
            with connect(member.target, timeout_s=PATIENCE_S) as client:
                for _ in range(5):
                    expected.check(client.online("users", inputs, at=moment(NOW_US)))
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            failures.append(error)

    # More callers than either has threads, each of whose calls needs the other worker.
    callers = [
        threading.Thread(target=ask, args=(member,)) for member in (one, two) for _ in range(12)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(3 * PATIENCE_S)
    assert not failures


def test_a_worker_says_how_it_is(cluster: Cluster) -> None:
    (one,) = split(cluster, 1)
    client = PeerClient(one.target)
    status = client.status()
    assert (status.target, status.dead_letters) == (one.target, 3)
    client.close()
    with pytest.raises(UnreachableError, match="was closed"):
        client.status()


def test_a_server_without_peers_has_no_such_service(store: LocalStore) -> None:
    server = Server(store.worker.reader)
    server.start()
    client = PeerClient(server.target)
    with pytest.raises(HeadwaterError, match="does not speak"):
        client.status()
    client.close()
    server.stop(0)


def test_a_request_from_a_peer_keeps_to_the_limits(store: LocalStore, cluster: Cluster) -> None:
    (one,) = split(cluster, 1)
    with grpc.insecure_channel(one.target) as channel:
        stub = peer_pb2_grpc.PeerServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ReadRows(
                peer_pb2.ReadRowsRequest(entities=[peer_pb2.EntityRows(lengths=bytes(4 * 10_001))]),
                timeout=PATIENCE_S,
            )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert ("headwater-error", RequestError.__name__) in caught.value.trailing_metadata()


def test_a_closed_worker_asks_nobody(cluster: Cluster) -> None:
    (one,) = split(cluster, 1)
    peers = KafkaPeers(lambda: {0: one.target}, own_target="me:1")
    peers.refresh(PATIENCE_S)
    peers.close()
    assert peers.owners() == {0: one.target}
