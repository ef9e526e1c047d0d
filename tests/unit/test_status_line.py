from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from headwater.cli.run.log_lines import LogLines
from headwater.cli.run.status_line import (
    LiveLine,
    LoggedLine,
    Throughput,
    duration_text,
    summarise,
)
from headwater.flow.size_text import size_text
from headwater.flow.status import TaskStatus, WorkerStatus
from headwater.logs import get_logger


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def task(kind: str, partition: int, next_offset: int, **more) -> TaskStatus:
    values = {"topic": "flights", "state": "running", "end_offset": next_offset, **more}
    return TaskStatus(kind=kind, partition=partition, next_offset=next_offset, **values)


def worker_status(*tasks: TaskStatus, **more) -> WorkerStatus:
    values = {"state_bytes": 12_345_678, "backlog_rows": 0, "dead_letters": 3, **more}
    return WorkerStatus(
        worker="w-1", target="h:1", namespace="n", started_us=0, tasks=tasks, **values
    )


def test_a_status_in_one_line() -> None:
    found = worker_status(
        task("ingest", 0, 1_000, end_offset=3_500),
        task("ingest", 1, 10, end_offset=10),
        task("shard", 0, 5, freshness_ms=12),
        task("shard", 1, 5, freshness_ms=1_900, state="replaying"),
        task("archive", 0, 0, end_offset=99),
    )
    assert summarise(found, 20_480.4).text() == (
        "2 ingest 2 shard 1 archive (1 replaying) · 20,480 events/s · lag 2,500"
        " · freshness 1.9 s · 3 dead letters · state 12.3 MB"
    )


def test_a_worker_without_tasks_yet_has_a_line_too() -> None:
    line = summarise(worker_status(state_bytes=0, dead_letters=0), None).text()
    assert line == ("no tasks · – events/s · lag 0 · freshness – · 0 dead letters · state 0 B")


def test_one_task_that_nobody_knows_makes_the_whole_unknown() -> None:
    found = summarise(
        worker_status(
            task("ingest", 0, 5, end_offset=9),
            task("ingest", 1, 5, end_offset=None),
            task("shard", 0, 5, freshness_ms=12),
            task("shard", 1, 5, freshness_ms=None),
        ),
        None,
    )
    assert (found.lag, found.freshness_ms) == (None, None)


def test_throughput_is_of_tasks_that_stay() -> None:
    throughput = Throughput()
    assert (
        throughput.measure(worker_status(task("ingest", 0, 100), task("ingest", 1, 50)), 10.0)
        is None
    )
    # Partition 1 has gone, 2 is new with a long past, the shard's offsets are no events.
    rate = throughput.measure(
        worker_status(task("ingest", 0, 300), task("ingest", 2, 9_000), task("shard", 0, 777)), 12.0
    )
    assert rate == 100.0
    # It went back to where it was committed.
    assert throughput.measure(worker_status(task("ingest", 0, 200)), 13.0) == 0.0
    assert throughput.measure(worker_status(task("ingest", 0, 200)), 13.0) is None


def test_the_logged_line_comes_when_it_is_time(caplog) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    line = LoggedLine(clock, every_s=30)
    asked = []

    def ask() -> WorkerStatus:
        asked.append(clock.now_s)
        return worker_status(task("ingest", 0, int(clock.now_s) * 10))

    with line:
        for _ in range(61):
            line.show(ask)
            clock.now_s += 1
    assert asked == [130.0, 160.0]
    first, second = [record.getMessage() for record in caplog.records]
    assert "event=status" in first
    assert "events_per_s" not in first
    assert "ingest_tasks=1" in second
    assert "events_per_s=10" in second
    assert "state_bytes=12345678" in second


def test_the_live_line_is_renewed_every_second_and_leaves_nothing_behind() -> None:
    clock = Clock()
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200, color_system=None)
    asked = []

    def ask() -> WorkerStatus:
        asked.append(clock.now_s)
        return worker_status(task("ingest", 0, int(clock.now_s)))

    with LiveLine(console, clock) as line:
        for _ in range(21):
            line.show(ask)
            clock.now_s += 0.125
    assert asked == [100.0, 101.0, 102.0]
    assert "w-1  1 ingest · 1 events/s" in out.getvalue()
    # The line is taken away at the end.
    assert out.getvalue().rstrip("\r\n").endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("ms", "said"),
    [(None, "–"), (0, "0 ms"), (999, "999 ms"), (1_000, "1.0 s"), (65_400, "65.4 s")],
)
def test_durations(ms, said) -> None:
    assert duration_text(ms) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (5e8, "500.0 MB"), (12e15, "12,000.0 TB")],
)
def test_sizes(count, said) -> None:
    assert size_text(count) == said


# Log lines


def test_every_log_record_is_one_line_of_logfmt() -> None:
    lines: list[str] = []
    before = list(logging.getLogger().handlers)
    with LogLines(lines.append, "w-1"):
        get_logger("headwater.flow.x").info("shard_opened", shard=3, folder="a b")
        get_logger("headwater.flow.x").debug("not_shown")
        logging.getLogger("headwater.kafka").error('%s\nsaid "no"', "broker")
        logging.getLogger("somebody").info("not shown")
        error = ValueError("bad\nvalue")
        logging.getLogger("somebody").error("failed", exc_info=error)
    assert logging.getLogger().handlers == before
    ours, kafka, other = lines
    assert ours.startswith("time=20")
    assert ours.split("Z ", 1)[1] == (
        'worker=w-1 logger=headwater.flow.x event=shard_opened shard=3 folder="a b" level=info'
    )
    assert r'event="broker\nsaid \"no\""' in kafka
    assert "level=error" in kafka
    assert 'event="failed" level=error error="ValueError: bad\\nvalue"' in other
    assert not any("\n" in line for line in lines)


def test_a_closed_stderr_stops_nobody(capsys) -> None:
    def closed(_: str) -> None:
        raise BrokenPipeError

    with LogLines(closed, "w-1"):
        logging.getLogger("headwater").error("said to nobody")
