"""A broker that goes away and comes back: the same processes go on, and tell what is old."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kafka_broker import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

GONE_S = 30.0


@pytest.fixture(autouse=True)
def broker_of_ours(broker):
    if not broker.disposable:
        pytest.skip("the broker isn't ours to stop")


@contextmanager
def gone(broker: Broker) -> Iterator[None]:
    """Be without a broker for a while."""
    broker.halt()
    try:
        yield
    finally:
        broker.resume()


def test_a_broker_that_restarts_is_waited_for(broker, namespace) -> None:
    with namespace() as cluster:
        cluster.push(1_000)
        workers = cluster.started("a", "b")
        pids = [worker.pid for worker in workers]
        with ExitStack() as watched, cluster.feed():
            cluster.wait_shared([worker.target for worker in workers])
            for worker in workers:
                watched.enter_context(Watch(cluster, worker.target))
            for _ in range(2):
                with gone(broker):
                    pass
                cluster.wait_progress(200)
        cluster.assert_right(*workers)
        assert [worker.pid for worker in workers] == pids
        assert [worker.stop() for worker in workers] == [0, 0]
        cluster.assert_archived()


def test_half_a_minute_without_a_broker_makes_answers_stale_and_nothing_wrong(
    broker, namespace
) -> None:
    with namespace() as cluster:
        cluster.push(1_000)
        marks = cluster.worker("marks")
        refuses = cluster.worker("refuses", HEADWATER_WORKER__ON_STALE="refuse")
        workers = [marks, refuses]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.wait_ready()
        pids = [worker.pid for worker in workers]
        with cluster.feed():
            cluster.wait_shared([worker.target for worker in workers])
            with (
                Watch(cluster, marks.target) as of_marks,
                Watch(cluster, refuses.target) as of_refuses,
            ):
                of_marks.wait_for("fresh")
                of_refuses.wait_for("fresh")
                with gone(broker):
                    gone_at = time.monotonic()
                    # They answer all the same: the one says that it is old, the other refuses.
                    of_marks.wait_for("STALE", 10)
                    of_refuses.wait_for("UnavailableError", 10)
                    time.sleep(max(0.0, gone_at + GONE_S - time.monotonic()))
                    assert not any(worker.is_ready() for worker in workers)
                of_marks.wait_for("fresh", 10)
                of_refuses.wait_for("fresh", 10)
            cluster.wait_progress(200)
        cluster.assert_right(*workers)
        assert [worker.pid for worker in workers] == pids
        assert [worker.stop() for worker in workers] == [0, 0]
        cluster.assert_archived()
