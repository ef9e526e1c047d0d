"""Workers that are killed, or stand still until others have taken over: nothing lost or doubled."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack

import pytest
from cluster_process import wait_until
from watch import Watch

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = 20


def test_workers_killed_twenty_times_in_mid_stream_lose_nothing_and_double_nothing(
    namespace,
) -> None:
    rng = random.Random(10)
    # The least memory there is: rows go to disk and come back all the time.
    with namespace(memory_budget_bytes=1 << 20) as cluster:
        cluster.push(2_000)
        workers = cluster.started("a", "b")
        written = 0.0
        with ExitStack() as watched, cluster.feed():
            for worker in workers:
                watched.enter_context(Watch(cluster, worker.target))
            for kill in range(KILLS):
                victim = workers[kill % 2]
                if kill % 5 != 4:
                    # Every fifth is killed while it starts, wherever it is.
                    victim.wait_ready()
                    cluster.wait_progress()
                    written += victim.counted("headwater_checkpoint_bytes_total")
                time.sleep(rng.random() * 0.5)
                victim.kill()
                victim.start()
            for worker in workers:
                worker.wait_ready()
            cluster.wait_shared([worker.target for worker in workers])
            cluster.wait_progress()
        assert written, "nothing was on disk when they were killed"
        cluster.assert_right(*workers)
        assert [worker.stop() for worker in workers] == [0, 0]
        cluster.assert_archived()


def test_a_worker_that_stood_still_never_passes_old_values_off_as_new(namespace) -> None:
    with namespace() as cluster:
        cluster.push(1_000)
        frozen, other = cluster.started("frozen", "other")
        cluster.wait_shared([frozen.target, other.target])
        with cluster.feed(), Watch(cluster, other.target) as of_other:
            with Watch(cluster, frozen.target) as of_frozen:
                of_frozen.wait_for("fresh")
            frozen.freeze()
            # The last of these are asked while it stands still and answered when it goes on.
            with Watch(cluster, frozen.target, threads=4, timeout_s=60) as of_frozen:
                cluster.wait_shared([other.target])
                taken_at = time.monotonic()
                wait_until(
                    lambda: of_other.fresh_at > taken_at, lambda: f"fresh: {of_other.answers}"
                )
                frozen.thaw()
                of_frozen.wait_for("fresh", 20)
                cluster.wait_shared([frozen.target, other.target])
                cluster.wait_progress(500)
        cluster.assert_right(frozen, other)
        assert [frozen.stop(), other.stop()] == [0, 0]
        cluster.assert_archived()
