"""Workers that come and go: tasks are handed over, and state is found where it was left."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from cluster_process import wait_until
from watch import Watch

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]


def test_workers_hand_their_tasks_over_as_others_join_and_leave(namespace) -> None:
    with namespace() as cluster:
        cluster.push(2_000)
        first, second = cluster.started("first", "second")
        with ExitStack() as watched, cluster.feed():
            cluster.wait_shared([first.target, second.target])
            for worker in (first, second):
                watched.enter_context(Watch(cluster, worker.target))
            # A busy machine may let a session lapse: then nothing is written at the hand-over.
            cluster.wait_stored()
            third = cluster.worker("third")
            third.start()
            cluster.wait_shared([first.target, second.target, third.target])
            third.wait_ready()
            # There is nothing on its disk: what it has comes from where the others have left it.
            assert "event=restored" in third.said()
            watched.enter_context(Watch(cluster, third.target))
            cluster.wait_progress(100)
            assert first.stop() == 0
            cluster.wait_shared([second.target, third.target])
            cluster.wait_progress(100)
            # One that comes back at another address is looked for there.
            second.kill()
            second.move()
            second.start()
            second.wait_ready()
            cluster.wait_shared([second.target, third.target])
        cluster.assert_right(second, third)
        assert [second.stop(), third.stop()] == [0, 0]
        cluster.assert_archived()


def test_the_processes_of_a_host_share_the_work_and_end_together(namespace) -> None:
    with namespace() as cluster:
        cluster.push(2_000)
        host = cluster.worker("host", processes=2)
        host.start()
        host.wait_ready()
        with ExitStack() as watched, cluster.feed():
            cluster.wait_shared(host.targets)
            for target in host.targets:
                watched.enter_context(Watch(cluster, target))
            # One that dies is started again, and goes on where it was.
            before = host.children()
            host.kill_child(before[0])
            wait_until(lambda: len({*host.children()} - {*before}) == 1, "a new process")
            (other,) = cluster.started("other")
            cluster.wait_shared([*host.targets, other.target])
            host.wait_ready()
            cluster.wait_progress(100)
        cluster.assert_right(host, other)
        with cluster.feed():
            assert host.stop() == 0
            cluster.wait_shared([other.target])
            cluster.wait_progress(100)
        cluster.assert_right(other)
        assert other.stop() == 0
        cluster.assert_archived()
