"""A source topic that is made again, loses records, or gains partitions: told, not guessed at."""

from __future__ import annotations

import pytest
from cluster_harness import PARTITIONS
from watch import Watch

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

# Since a reset something may be missing from every window that begins before it.
INCOMPLETE = frozenset({"WARMING"})


def test_a_topic_made_again_stops_workers_until_the_stream_is_reset(namespace) -> None:
    with namespace(read_back_s=600) as cluster:
        cluster.push(1_000)
        workers = cluster.started("a", "b")
        cluster.wait_shared([worker.target for worker in workers])
        cluster.assert_right(*workers)
        cluster.make_again()
        cluster.push(500)
        # Those that run notice, and so does one that starts.
        for worker in workers:
            assert worker.wait() != 0
            assert_told(worker.said(), f"headwater stream reset {cluster.topic}")
        late = cluster.worker("late")
        late.start()
        assert late.wait() == 78
        assert_told(late.said(), f"headwater stream reset {cluster.topic}")

        refused = cluster.headwater("stream", "reset", cluster.topic)
        assert refused.returncode == 78
        assert "--yes" in refused.stderr
        done = cluster.headwater("stream", "reset", cluster.topic, "--yes")
        assert done.returncode == 0, done.stderr
        assert "made again" in done.stdout
        for worker in workers:
            worker.start()
            worker.wait_ready()
        cluster.push(500)
        # What the old topic held counts on, beside what the new one holds.
        cluster.assert_right(*workers, statuses=INCOMPLETE)
        assert [worker.stop() for worker in workers] == [0, 0]
        cluster.assert_archived()


def test_a_deleted_topic_is_told_apart_from_a_name_that_is_wrong(namespace) -> None:
    with namespace() as cluster:
        cluster.push(100)
        (worker,) = cluster.started("a")
        cluster.assert_right(worker)
        cluster.log.delete_topic(cluster.topic)
        cure = (
            f"make it again; to go on with the new one run headwater stream reset {cluster.topic}"
        )
        assert worker.wait() == 78
        assert_told(worker.said(), f'topic "{cluster.topic}" was deleted', cure)
        late = cluster.worker("late")
        late.start()
        assert late.wait() == 78
        assert_told(late.said(), f'topic "{cluster.topic}" was deleted', cure)


def test_records_lost_to_retention_are_told_and_never_taken_for_no_data(namespace) -> None:
    with namespace(read_back_s=600) as cluster:
        cluster.push(1_000)
        (worker,) = cluster.started("a")
        cluster.assert_right(worker)
        assert worker.stop() == 0
        cluster.push(1_000)
        # Half of what nobody has read yet is deleted, in two of the partitions.
        lost = {0: 375, 1: 375}
        cluster.lose(lost)
        cluster.push(200)
        worker.start()
        assert worker.wait() != 0
        assert_told(worker.said(), f"headwater stream reset {cluster.topic}", "250")

        done = cluster.headwater("stream", "reset", cluster.topic, "--yes")
        assert done.returncode == 0, done.stderr
        assert "offsets 250 to 374 were never read and are gone" in done.stdout
        worker.start()
        worker.wait_ready()
        cluster.push(200)
        cluster.assert_right(worker, statuses=INCOMPLETE)
        assert worker.stop() == 0
        cluster.assert_archived()


def test_partitions_that_a_topic_gains_are_read_from_their_start(namespace) -> None:
    with namespace() as cluster:
        cluster.push(1_000)
        workers = cluster.started("a", "b")
        targets = [worker.target for worker in workers]
        with cluster.feed():
            cluster.wait_shared(targets)
            with Watch(cluster, targets[0]), Watch(cluster, targets[1]):
                cluster.grow(PARTITIONS + 2)
                cluster.wait_shared(targets)
                cluster.wait_progress(500)
        cluster.assert_right(*workers)
        assert all(cluster.account.ends[partition] for partition in range(PARTITIONS + 2))
        rows = sum(w.counted("headwater_rows_total", outcome="decoded") for w in workers)
        assert rows >= len(cluster.account.sent)
        assert [worker.stop() for worker in workers] == [0, 0]
        cluster.assert_archived()


def assert_told(said: str, *parts: str) -> None:
    """The last line says what is wrong and what to do, and is the only one of its kind."""
    lines = [line for line in said.splitlines() if line.startswith("headwater: error: ")]
    assert len(lines) == 1, said[-3_000:]
    for part in parts:
        assert part in lines[0]
