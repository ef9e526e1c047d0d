from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from serving_harness import AT, AT_US, request_of

from headwater.flow.answer import RequestError
from headwater_serving.client import Request, connect
from headwater_serving.codes import (
    OverloadError,
    RevisionError,
)
from headwater_serving.options import ServerOptions
from headwater_serving.server import Server


def test_a_stream_answers_in_order_each_at_its_own_time(client):
    requests = [
        Request({"plane": [f"N{k}"] * (k % 3)}, at=AT + timedelta(microseconds=k))
        for k in range(600)
    ]
    count = 0
    for k, vectors in enumerate(client.online_many("one", iter(requests))):
        assert vectors.t_us == AT_US + k
        assert vectors.to_dict() == {"n_24h": list(range(k % 3))}
        count += 1
    assert count == 600


def test_a_stream_equals_single_calls(client):
    planes = ["N1", "N2", "N3", "N9"]
    streamed = client.online_many("delay_model", (request_of((one,)) for one in planes))
    for one, vectors in zip(planes, streamed, strict=True):
        single = client.online("delay_model", **request_of((one,)))
        assert vectors.to_polars().equals(single.to_polars())
        assert vectors.statuses == single.statuses


def test_a_batched_stream_gives_each_request_its_own_rows(client, reader):
    sizes = [1, 0, 3, 2, 2, 7, 1, 1, 1, 0, 5]
    times = [None] * 5 + [AT] * 4 + [None] * 2
    requests = [
        Request(request_of([f"N{row}" for row in range(size)]), at)
        for size, at in zip(sizes, times, strict=True)
    ]
    answers = list(client.online_many("delay_model", requests, batch_rows=4))
    # Six, for the rows 1+0+3, 2+2 | 7, 1+1+1 at a time of their own | 0, 5.
    assert [len(inputs) for _, inputs, _ in reader.reads] == [4, 4, 7, 3, 0, 5]
    assert [len(one) for one in answers] == sizes
    for request, vectors in zip(requests, answers, strict=True):
        single = client.online("delay_model", request.inputs, at=request.at)
        got, expected = vectors.to_polars(), single.to_polars()
        # The fake numbers the rows of a read, which depends on the batch.
        assert got.drop("n_24h").equals(expected.drop("n_24h"))
        assert vectors.statuses == single.statuses
        assert vectors.status_codes().tolist() == single.status_codes().tolist()
        assert vectors.t_us == single.t_us


def test_matrices_of_one_batch_are_apart(client):
    requests = [{"plane": "N1"}, {"plane": ["N2", "N3"]}]
    first, second = client.online_many("one", requests, batch_rows=3)
    assert (first.to_numpy().tolist(), second.to_numpy().tolist()) == ([[0.0]], [[1.0], [2.0]])
    first.to_numpy()[:] = 9
    assert first.to_numpy().tolist() == [[0.0]]


def test_a_batch_of_no_rows_is_refused(client):
    with pytest.raises(RequestError, match="batch_rows is 0; it must be 1 or more"):
        next(client.online_many("one", [], batch_rows=0))


def test_a_stream_reads_no_further_ahead_than_its_bound(client, reader):
    drawn = []

    def requests():
        for k in range(5_000):
            drawn.append(k)
            yield {"plane": "N1"}

    answers = client.online_many("one", requests())
    for count, _ in enumerate(answers, start=1):
        assert len(drawn) <= count + 257
    assert count == 5_000


@pytest.mark.parametrize("batch_rows", [1, 100])
def test_a_bad_request_ends_a_stream_after_the_answers_before_it(client, batch_rows):
    requests = [{"plane": "N1"}, {"plain": "N2"}, {"plane": "N3"}]
    answers = client.online_many("one", requests, batch_rows=batch_rows)
    assert next(answers).to_dict() == {"n_24h": [0]}
    with pytest.raises(RequestError, match='Did you mean "plane"'):
        next(answers)


def test_a_failing_iterator_raises_its_own_error_to_the_caller(client):
    def requests():
        yield {"plane": "N1"}
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        list(client.online_many("one", requests()))


def test_an_error_of_the_server_ends_a_stream_as_the_same_class(client, reader):
    client.describe("one")
    reader.one = replace(reader.one, revision="s2")
    with pytest.raises(RevisionError, match="at revision s2, the request was made for s1"):
        list(client.online_many("one", [{"plane": "N1"}]))
    assert [len(one) for one in client.online_many("one", [{"plane": "N1"}])] == [1]


def test_open_streams_are_bounded_and_give_their_place_back(reader):
    options = ServerOptions(workers=3, streams_max=1)
    with Server(reader, options=options) as server, connect(server.target, timeout_s=20) as client:
        first = client.online_many("one", ({"plane": "N1"} for _ in range(10_000)))
        next(first)
        with pytest.raises(OverloadError, match="1 streams are open, which is the limit"):
            list(client.online_many("one", [{"plane": "N1"}]))
        assert client.services()
        first.close()
        for _ in range(1_000):
            try:
                assert len(list(client.online_many("one", [{"plane": "N1"}]))) == 1
            except OverloadError:
                continue
            break
        else:
            pytest.fail("the closed stream still holds its place")


def test_threads_share_a_client(client):
    def ask(k, found):
        for _ in range(20):
            found.append(client.online("one", plane=["N1"] * k).to_dict()["n_24h"])

    found = {k: [] for k in range(1, 5)}
    threads = [threading.Thread(target=ask, args=pair) for pair in found.items()]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert all(answers == [list(range(k))] * 20 for k, answers in found.items())
