"""The simulation finds faults: each rule that is broken on purpose is noticed."""

from __future__ import annotations

import pytest
from simulation.mutants import MUTANTS, mutated
from simulation.runs import first_failure
from simulation.simulation import run_seed

LIMIT = 500
# The search begins so many seeds before the one that is known to notice it.
NEAR = 50

# After how many seeds each was found when this was last written down; LIMIT from there is asserted.
FOUND_AFTER = {
    "apply_what_is_old": 1,
    "apply_overlaps_whole": 3,
    "ignore_holes": 1,
    "read_with_other_columns": 8,
    "rows_before_their_mark": 38,
    "mark_of_now": 4,
    "commit_before_told": 1,
    "commit_unacknowledged": 1,
    "forget_what_is_applied": 1,
    "forget_what_is_not_stored": 3,
    "new_views_without_their_past": 61,
    "new_views_past_their_seam": 12,
    "read_before_its_past_is_there": 61,
    "cursors_of_now": 54,
    "adopt_while_a_checkpoint_is_written": 819,
    "new_lanes_without_their_past": 1,
    "keep_lanes_that_left": 6,
    "keep_rows_that_left": 23,
    "remove_rows_before_their_mark": 142,
    "trust_what_a_crash_has_left": 142,
    "ingest_keeps_its_plan": 1,
    "ingest_from_the_end": 2,
    "go_on_where_committed": 2,
    "keep_lost_shards": 3,
    "silent_progress": 1,
    "horizon_from_memory": 1,
    "never_stale": 1,
    "end_as_of_its_record": 2,
    "silent_lanes": 7,
}


def test_every_mutant_is_written_down():
    assert FOUND_AFTER.keys() == MUTANTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_noticed_and_the_whole_one_holds(name):
    with mutated(name):
        first = max(0, FOUND_AFTER[name] - NEAR)
        found = first_failure(range(first, first + LIMIT))
    assert found is not None, f"{name}: not noticed within {LIMIT} seeds from {first} on"
    run_seed(found.seed)
