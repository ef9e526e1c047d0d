"""Seeds of the simulation: a fixed set, which meets every kind of fault, and fresh ones."""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest
from simulation.__main__ import main
from simulation.mutants import mutated
from simulation.runs import Run, results

FIXED = range(100)
FRESH = 30

FAULTS = {
    "several workers", "lossless",
    # processes and their threads
    "crash", "died", "batches lost", "thread halted", "stopped", "closed", "plan grown",
    # zombies
    "cut off", "replaced", "lost", "commit of a zombie", "FencedError",
    # plans that change while workers run
    "plan applied", "plan adopted", "view removed", "view came back", "warming rows",
    # the group
    "rebalance", "revoked", "session timed out", "partition added",
    # sends, acknowledgements, records
    "fail", "lost_ack", "duplicate", "redelivered", "lose", "early", "delay", "DeliveryError",
    "foreign",
    "outage", "unreachable",
    # disks, the checkpoint store, clocks
    "rollback", "new disk", "blob", "ArchiveError", "clock jump",
    # what came of it, and what was compared
    "holes", "rows read", "fresh rows", "stale rows", "unread rows", "offline",
}  # fmt: skip


def failures(runs: list[Run]) -> str:
    return "\n".join(run.failure for run in runs if run.failure)


@pytest.mark.slow
def test_fixed_seeds_hold_and_meet_every_fault():
    runs = list(results(FIXED))
    assert not failures(runs), failures(runs)
    counts = sum((run.counts for run in runs), Counter())
    assert not FAULTS - {what for what, count in counts.items() if count}


def test_fresh_seeds_hold():
    first = int.from_bytes(os.urandom(4), "little")
    runs = list(results(range(first, first + FRESH)))
    assert not failures(runs), failures(runs)


def test_a_seed_is_the_same_every_time_and_in_any_process():
    here = list(results([7, 8]))
    assert here == list(results([7, 8], jobs=2))


def test_the_command_prints_what_the_seeds_went_through(capsys):
    assert main(["--seeds", "2", "--first", "3", "--jobs", "1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["first"], said["seeds"], said["failures"]) == (3, 2, {})
    assert said["counts"]["rows read"] > 0


def test_a_seed_that_fails_comes_with_the_command_that_replays_it(capsys):
    with mutated("commit_before_told"):
        assert main(["--seeds", "1", "--first", "0", "--jobs", "1"]) == 1
    assert "make simulate FIRST=0 SEEDS=1" in capsys.readouterr().err
