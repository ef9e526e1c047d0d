"""Kafka's membership as peers: connections, pauses and the errors that are passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from headwater.errors import HeadwaterError
from headwater.flow.answer import RequestError, UnavailableError
from headwater.flow.peers import RowsAnswer, RowsRequest
from headwater.flow.shard_reads import NotOwnerError
from headwater_serving.codes import DeadlineError, OverloadError, UnreachableError
from headwater_serving.routing import KafkaPeers

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST = RowsRequest([], 0, {}, "stamp", 4)
ANSWER = RowsAnswer({}, {})
PATIENCE_S = 20.0


class Net:
    """Clients that answer as told; time that passes when told."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.owners = {0: "own:1", 1: "other:1"}
        self.answers: dict[str, Exception | float] = {}
        self.asked: list[str] = []
        self.opened: list[str] = []
        self.closed: list[str] = []

    def connect(self, target: str) -> Any:
        net = self
        net.opened.append(target)

        class Client:
            def read(self, request: RowsRequest, timeout_s: float) -> RowsAnswer:
                net.asked.append(target)
                answer = net.answers.get(target)
                if isinstance(answer, DeadlineError):
                    net.now_s += timeout_s
                if isinstance(answer, Exception):
                    raise answer
                return ANSWER

            def close(self) -> None:
                net.closed.append(target)

        return Client()


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def peers(net: Net) -> Iterator[KafkaPeers]:
    made = KafkaPeers(
        lambda: net.owners, own_target="own:1", connect=net.connect, clock=lambda: net.now_s
    )
    made.refresh(PATIENCE_S)
    yield made
    made.close()


def test_this_worker_is_among_the_owners_and_not_asked(peers: KafkaPeers) -> None:
    assert peers.owners() == {0: "own:1", 1: "other:1"}
    with pytest.raises(AssertionError, match="itself"):
        peers.read("own:1", REQUEST, 1.0)


def test_one_connection_serves_all_reads(net: Net, peers: KafkaPeers) -> None:
    for _ in range(3):
        assert peers.read("other:1", REQUEST, 1.0) is ANSWER
    assert net.opened == ["other:1"]
    peers.close()
    assert net.closed == ["other:1"]


@pytest.mark.parametrize(
    ("raised", "passed_on"),
    [
        (NotOwnerError("x"), NotOwnerError),
        (UnavailableError("x"), UnavailableError),
        (OverloadError("x"), OverloadError),
        (RequestError("x"), RequestError),
        (UnreachableError("x"), UnavailableError),
        (DeadlineError("x"), UnavailableError),
        (HeadwaterError("the call failed with CANCELLED"), UnavailableError),
    ],
)
def test_what_may_pass_is_unavailable(
    net: Net, peers: KafkaPeers, raised: Exception, passed_on: type[Exception]
) -> None:
    net.answers["other:1"] = raised
    with pytest.raises(HeadwaterError, match=str(raised)) as caught:
        peers.read("other:1", REQUEST, 1.0)
    assert type(caught.value) is passed_on


def test_a_worker_that_stands_still_is_left_alone_and_tried_by_one_call(
    net: Net, peers: KafkaPeers
) -> None:
    net.answers["other:1"] = DeadlineError("no answer")
    with pytest.raises(UnavailableError, match="no answer"):
        peers.read("other:1", REQUEST, 1.0)
    with pytest.raises(UnavailableError, match="did not answer a moment ago"):
        peers.read("other:1", REQUEST, 1.0)
    assert len(net.asked) == 1
    net.now_s += 1.1
    with pytest.raises(UnavailableError, match="no answer"):
        peers.read("other:1", REQUEST, 0.2)
    with pytest.raises(UnavailableError, match="did not answer a moment ago"):
        peers.read("other:1", REQUEST, 1.0)
    assert len(net.asked) == 2
    net.now_s += 1.1
    del net.answers["other:1"]
    for _ in range(3):
        assert peers.read("other:1", REQUEST, 1.0) is ANSWER


def test_while_one_call_tries_the_others_do_not(net: Net, peers: KafkaPeers) -> None:
    net.answers["other:1"] = DeadlineError("no answer")
    with pytest.raises(UnavailableError):
        peers.read("other:1", REQUEST, 1.0)
    net.now_s += 1.1
    connection = peers._connection("other:1")  # as a call that is under way
    with pytest.raises(UnavailableError, match="a moment ago"):
        peers._connection("other:1")
    peers._answered(connection)
    peers._connection("other:1")


def test_one_slow_answer_among_others_is_not_silence(net: Net, peers: KafkaPeers) -> None:
    connection = peers._connection("other:1")
    began_at = net.now_s
    net.now_s += 0.5
    assert peers.read("other:1", REQUEST, 1.0) is ANSWER
    net.now_s += 0.5
    peers._silent(connection, began_at)
    assert peers.read("other:1", REQUEST, 1.0) is ANSWER


def test_a_refused_connection_is_tried_again_at_once(net: Net, peers: KafkaPeers) -> None:
    net.answers["other:1"] = UnreachableError("connection refused")
    for _ in range(3):
        with pytest.raises(UnavailableError, match="connection refused"):
            peers.read("other:1", REQUEST, 1.0)
    assert len(net.asked) == 3


def test_connections_to_workers_that_left_are_closed(net: Net, peers: KafkaPeers) -> None:
    peers.read("other:1", REQUEST, 1.0)
    net.owners = {0: "own:1", 1: "new:1"}
    net.now_s += 1.0
    peers.refresh(PATIENCE_S)
    peers.read("new:1", REQUEST, 1.0)
    assert net.closed == ["other:1"]


def test_connections_are_bounded_and_the_longest_unused_goes(net: Net, peers: KafkaPeers) -> None:
    net.owners = {n: f"w:{n}" for n in range(100)}
    net.now_s += 1.0
    peers.refresh(PATIENCE_S)
    for n in range(64):
        peers.read(f"w:{n}", REQUEST, 1.0)
    peers.read("w:0", REQUEST, 1.0)
    for n in range(64, 100):
        peers.read(f"w:{n}", REQUEST, 1.0)
    assert len(peers._connections) == 64
    assert net.closed == [f"w:{n}" for n in range(1, 37)]
