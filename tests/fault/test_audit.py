"""Audits of workers on a real broker: right while workers die, and a fault on disk is named."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from audit_harness import corrupt_on_disk
from cluster_features import AMOUNT, LAST_US, SERVICE, USERS, moment, service_of
from cluster_harness import SHARDS
from cluster_process import wait_until

import headwater as hw
from headwater.plan.plan import compile_plan
from headwater.state.store import Stores

if TYPE_CHECKING:
    from cluster_harness import Cluster
    from cluster_process import WorkerProcess

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

SAMPLED = {"HEADWATER_AUDIT__SAMPLES_PER_S": "50"}
_READ_S = 3.0


def read_on(cluster: Cluster, worker: WorkerProcess, *, until_s: float) -> None:
    """Ask a worker for the rows of every user, its own and others', again and again."""
    with hw.connect(worker.target, timeout_s=20.0) as store:
        while time.monotonic() < until_s:
            shops = [n % 3 for n in range(len(USERS))]
            inputs = {"user": USERS, "shop": shops, "amount": [AMOUNT] * len(USERS)}
            for t_us in (cluster.generator.newest_us, LAST_US):
                store.answer(SERVICE, at=moment(t_us), **inputs)
            store.answer(["by_user.n_10m"], user=USERS[:7])


def audit(cluster: Cluster, *, code: int) -> Any:
    ended = cluster.headwater("audit", "definitions.py", "--json")
    assert ended.returncode == code, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


def test_what_workers_served_while_one_died_is_audited_and_a_fault_on_disk_is_named(
    namespace: Any,
) -> None:
    with namespace() as cluster:
        cluster.push(2_000)
        first, second = (cluster.worker(name, **SAMPLED) for name in ("first", "second"))
        for worker in (first, second):
            worker.start()
        for worker in (first, second):
            worker.wait_ready()
        folder = cluster.folder / "headwater-samples" / cluster.namespace
        with cluster.feed():
            cluster.wait_shared([first.target, second.target])
            for worker in (first, second):
                read_on(cluster, worker, until_s=time.monotonic() + _READ_S)
            wait_until(lambda: list(folder.glob("second/*.json")), "samples of the second")
            second.kill()
            cluster.wait_shared([first.target])
            first.wait_ready()
            read_on(cluster, first, until_s=time.monotonic() + _READ_S)
        cluster.assert_right(first)
        assert first.stop() == 0
        found = audit(cluster, code=0)
        assert found["differences"] == found["skipped"] == []
        assert found["compared"] > 13 * len(USERS)
        assert found["files"] >= 3

        view = compile_plan([service_of(cluster.topic)]).views["by_user@1"]
        stores = Stores(cluster.folder / "state" / "first")
        corrupt_on_disk(stores, SHARDS, view, USERS[3])
        stores.close()
        began = time.time()
        first.start()
        first.wait_ready()
        read_on(cluster, first, until_s=time.monotonic() + _READ_S)
        assert first.stop() == 0
        since = moment(int(began * 1e6)).isoformat()
        ended = cluster.headwater("audit", "definitions.py", "--json", "--since", since)
        assert ended.returncode == 1, ended.stderr
        differences = json.loads(ended.stdout)["differences"]
        named = {(one["feature"], one["entity"]) for one in differences}
        assert {entity for _, entity in named} == {f"user={USERS[3]}"}
        assert ("by_user.n_lifetime", f"user={USERS[3]}") in named
        assert all(int(one["served"]) == int(one["recomputed"]) + 1 for one in differences)
