"""Poison among the records, and mistakes at the start: told with what, where and what to do."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any

import kafka_broker
import pytest
from cluster_features import SECOND_US
from cluster_harness import SHARDS
from cluster_process import run_headwater, wait_until
from watch import Watch

from headwater.flow.dead_letter_frame import dead_letter_frame

if TYPE_CHECKING:
    from cluster_harness import Cluster

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

ROW = {"user": "u1", "shop": 1, "x": 1.0, "i": 1, "at": 0}


def poison(now_us: int) -> list[tuple[bytes | None, str]]:
    """Return records that can't be rows, each with the reason."""

    def of(**changes: Any) -> bytes:
        return json.dumps({**ROW, "at": now_us, **changes}).encode()

    return [
        (None, "tombstone"),
        (b"", "empty"),
        (b" \n ", "empty"),
        (b"{", "not_json"),
        (b'{"user": "u1"', "not_json"),
        (of()[:-1] + b"}" + of(), "not_json"),
        (b"\x00\x01\x02", "not_json"),
        (b'{"user": "\xff"}', "not_utf8"),
        (b"null", "not_an_object"),
        (b"[1, 2]", "not_an_object"),
        (b"17", "not_an_object"),
        (b"[" * 100_000, "not_json"),
        (of(deep=0).replace(b'"deep": 0', b'"deep": ' + b"[" * 50_000 + b"]" * 50_000), "not_json"),
        (of(user=5), "wrong_type"),
        (of(shop="1"), "wrong_type"),
        (of(x="1.0"), "wrong_type"),
        (of(i=1.5), "wrong_type"),
        (of(i=2**63), "wrong_type"),
        (of(at=None), "no_event_time"),
        (of(at=10**18), "event_time_range"),
        (of(at=now_us + 3_600 * SECOND_US), "future_event_time"),
        (of(user="u" * 900_000), "oversized"),
    ]


def test_poison_goes_to_the_dead_letters_and_the_rest_counts(namespace) -> None:
    rng = random.Random(4)
    with namespace() as cluster:
        (worker,) = cluster.started("a")
        bad = 0
        with Watch(cluster, worker.target):
            for _ in range(4):
                mixed: list[tuple[bytes | None, dict[str, Any] | None]] = [
                    (json.dumps(row).encode(), row) for row in cluster.generator.rows(300)
                ]
                for value, _ in poison(time.time_ns() // 1_000):
                    mixed.insert(rng.randrange(len(mixed)), (value, None))
                    bad += 1
                cluster.push_values(mixed)
            cluster.assert_right(worker)
        assert_dead_letters(cluster)
        # Nothing was counted twice either: no worker has died.
        assert worker.counted("headwater_dead_letters_total") == bad
        good = len(cluster.account.sent) - bad
        assert worker.counted("headwater_rows_total", outcome="decoded") == good
        assert worker.stop() == 0
        cluster.assert_archived()


def assert_dead_letters(cluster: Cluster) -> None:
    """Every record that is no row is there once, whole, with its place and the reason."""
    sent = {
        (one.partition, one.offset): one.value for one in cluster.account.sent if one.row is None
    }
    reasons = dict(poison(0))
    wait_until(lambda: dead_letter_frame(cluster.log, cluster.topic).height >= len(sent), "letters")
    letters = dead_letter_frame(cluster.log, cluster.topic)
    found = {(p, offset): value for p, offset, value in letters[:, [0, 1, 5]].rows()}
    assert letters.height == len(found)
    assert found == sent
    for value, reason, message in letters.select("value", "reason", "message").rows():
        assert message
        if value in reasons:
            assert reason == reasons[value]


def start(folder: Any, servers: str, *more: str, topic: str = "there-is-none", **kafka: str) -> Any:
    """Run a worker that can't start, and return what it has said."""
    (folder / "definitions.py").write_text(
        f'from cluster_features import service_of\n\nservice = service_of("{topic}")\n',
        encoding="utf-8",
    )
    ports = ["--port", "0", "--metrics-port", "0"]
    return run_headwater(
        ["run", "definitions.py", "--bootstrap-servers", servers, *ports, *more],
        folder,
        {f"HEADWATER_KAFKA__CONFIG__{key}": value for key, value in kafka.items()},
    )


def assert_refused(done: Any, code: int, *parts: str) -> None:
    """One line at the end says what, where and what to do."""
    assert done.returncode == code, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("headwater: error: ")]
    assert len(told) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in told[0]


def test_an_unknown_topic_is_named_with_the_closest_there_is(broker, namespace, tmp_path) -> None:
    with namespace() as cluster:
        done = start(tmp_path, broker.bootstrap_servers, topic=cluster.topic[:-1] + "_")
        assert_refused(done, 1, cluster.topic[:-1] + "_", f'Did you mean "{cluster.topic}"?')


def test_a_broker_that_does_not_answer_is_a_wrong_setting(tmp_path) -> None:
    done = start(tmp_path, "127.0.0.1:1")
    assert_refused(done, 78, "127.0.0.1:1", "check the address")


@pytest.fixture
def secured(broker) -> dict[str, str]:
    if broker.secured_servers is None:
        pytest.skip("this broker has no listener with credentials")
    name, password = kafka_broker.BROKER_USER
    return {
        "SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "SASL_MECHANISM": "PLAIN",
        "SASL_USERNAME": name,
        "SASL_PASSWORD": password,
    }


def test_wrong_credentials_are_a_wrong_setting_and_not_shown(broker, secured, tmp_path) -> None:
    wrong = {**secured, "SASL_PASSWORD": "not-that-secret"}
    done = start(tmp_path, broker.secured_servers, **wrong)
    assert_refused(done, 78, broker.secured_servers, "refused the connection", "sasl")
    assert "not-that-secret" not in done.stderr + done.stdout


def test_missing_rights_are_told_with_what_to_grant(broker, secured, namespace, tmp_path) -> None:
    with namespace() as cluster:
        done = start(tmp_path, broker.secured_servers, topic=cluster.topic, **secured)
        assert_refused(done, 78, "denies it", "grant this user the right on the")


def test_a_namespace_with_other_shards_is_not_joined(broker, namespace, tmp_path) -> None:
    with namespace() as cluster:
        (worker,) = cluster.started("a")
        more = ["--namespace", cluster.namespace, "--shards", str(SHARDS * 2)]
        done = start(tmp_path, broker.bootstrap_servers, *more, topic=cluster.topic)
        assert_refused(done, 78, cluster.namespace, f"{SHARDS} shards", str(SHARDS * 2))
        assert worker.stop() == 0
