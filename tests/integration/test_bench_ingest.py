"""The ingest benchmark, tiny, on a real broker: its parts fit and its answers are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import kafka_broker
import pytest

from bench.ingest import PEERS
from headwater_connectors.log.kafka import KafkaLog

if TYPE_CHECKING:
    from kafka_broker import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
# Installing a peer takes the network: it is run where that has been done.
IS_THERE = {"quix_tumbling": (ROOT / ".venv-quix" / ".installed").exists()}
IS_THERE["bytewax_tumbling"] = sys.version_info < (3, 13)


def topics(broker: Broker) -> set[str]:
    log = KafkaLog(broker.bootstrap_servers)
    found = {topic.name for topic in log.topics()}
    log.close()
    return found


@pytest.fixture(scope="module")
def topics_before(broker) -> set[str]:
    return topics(broker)


@pytest.fixture(scope="module")
def result(broker, topics_before) -> dict[str, object]:
    peers = [name for name in PEERS if IS_THERE[name]]
    command = ["bench.ingest", "--quick", "--json", "--parts", "kafka", "freshness", "restart"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--peers", *peers],
        cwd=ROOT,
        env={**os.environ, kafka_broker.BOOTSTRAP_VARIABLE: broker.bootstrap_servers},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_everyone_finds_the_oracles_totals(result) -> None:
    assert result["agrees"] is True
    assert result["absent"] == {}
    for name, is_there in IS_THERE.items():
        assert (name in result["contestants"]) is is_there
        assert (result["ratios"][name] is not None) is is_there


def test_a_worker_is_timed_and_its_time_is_told_by_stage(result) -> None:
    ours = result["contestants"]["headwater"]
    assert ours["events_per_s"] == result["events_per_s"]["headwater"] > 0
    assert ours["archived_after_s"] > ours["seconds"]
    stages = result["cpu_s_per_m"]["stages"]
    # Of so few events the first fetch brings all, and the clock starts after it.
    assert {"ingest.fetch", "librdkafka", "polars"} <= stages.keys()
    for stage in ("ingest.decode", "ingest.key_and_split", "shards.fetch", "shards.evaluate"):
        assert stages[stage] > 0
    for stage in ("shards.update", "shards.checkpoint"):
        assert stages[stage] > 0
    # The archive's thread may have been through with so few before the clock began, or after it.
    assert result["freshness_ms"]["cpu_s_per_m"]["stages"]["archive.decode"] > 0


def test_every_probe_is_read(result) -> None:
    freshness = result["freshness_ms"]
    assert 0 < freshness["p50"] <= freshness["p99"] <= freshness["max"]
    assert freshness["probes"] > 0


def test_a_restart_is_told_by_its_parts(result) -> None:
    restart = result["restart_s"]
    parts = ("interpreter", "imports", "start", "open", "replay", "fresh")
    assert restart["total"] == pytest.approx(sum(restart[part] for part in parts))
    assert restart["entities"] == result["workload"]["entities"]
    assert restart["replayed_events"] > 0


def test_a_cluster_that_is_not_ours_is_left_as_it_was(result, broker, topics_before) -> None:
    assert topics(broker) == topics_before
