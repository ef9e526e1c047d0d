"""Freshness against a model that knows when every record was appended: never fresher than true."""

from __future__ import annotations

from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from headwater.flow.freshness import Freshness

SHARDS = (0, 1)
LANES = ("x", "y", "z")


class Model:
    """The exchange as nobody sees it: times of appends; and workers' steps in any order."""

    def __init__(self) -> None:
        self.now_us = 1_000
        self.freshness = Freshness(lambda: self.now_us)
        # By shard: (append time, lane or None, when its source was asked and how long the log was).
        self.log: dict[int, list[tuple[int, str | None, int, int]]] = {n: [] for n in SHARDS}
        # What was asked of sources, by lane: (when, the log's lengths before that).
        self.asked: dict[str, list[tuple[int, dict[int, int]]]] = {lane: [] for lane in LANES}
        self.applied = dict.fromkeys(SHARDS, 0)
        self.heard: dict[int, dict[str, int]] = {n: {} for n in SHARDS}
        self.probes: list[tuple[int, dict[int, int] | None]] = []
        for number in SHARDS:
            self.freshness.opened(number)

    def source(self, lane: str, late_us: int) -> None:
        ends = {number: len(log) for number, log in self.log.items()}
        self.now_us += late_us
        self.asked[lane].append((self.now_us, ends))

    def append(self, shard: int, lane: str | None, back: int) -> None:
        """Append a record; what it says of its source may have been known for long."""
        asked_us, ends = self.now_us, {number: len(log) for number, log in self.log.items()}
        if lane is not None and self.asked[lane]:
            asked_us, ends = self.asked[lane][-1 - back % len(self.asked[lane])]
        self.log[shard].append((self.now_us, lane, asked_us, ends[shard]))

    def apply(self, shard: int, count: int) -> None:
        for _ in range(min(count, len(self.log[shard]) - self.applied[shard])):
            offset = self.applied[shard]
            _, lane, asked_us, after_offset = self.log[shard][offset]
            if lane is not None:
                self.freshness.at_end(shard, lane, after_offset)
                known = self.heard[shard].get(lane, -(10**9))
                self.heard[shard][lane] = max(known, asked_us)
            self.applied[shard] += 1

    def stamp(self) -> None:
        self.probes.append((self.now_us, None))

    def ask(self, which: int) -> None:
        if self.probes:
            which %= len(self.probes)
            stamp_us, ends = self.probes[which]
            if ends is None:
                self.probes[which] = (stamp_us, {n: len(log) for n, log in self.log.items()})

    def observe(self, which: int) -> None:
        answered = [probe for probe in self.probes if probe[1] is not None]
        if answered:
            probe = answered[which % len(answered)]
            self.probes.remove(probe)
            assert probe[1] is not None
            self.freshness.observe(probe[0], probe[1])

    def probe(self) -> None:
        ends = {number: len(log) for number, log in self.log.items()}
        self.freshness.observe(self.now_us, ends)

    def reopen(self, shard: int, back: int) -> None:
        self.freshness.closed(shard)
        self.freshness.opened(shard)
        self.applied[shard] = max(0, self.applied[shard] - back)
        self.heard[shard] = {}

    def truth_us(self, shard: int, lanes: tuple[str, ...]) -> int | None:
        """Return the moment as of which everything is in, or None: nothing is known of a lane."""
        log, done = self.log[shard], self.applied[shard]
        found = [log[done][0] if done < len(log) else self.now_us]
        for lane in lanes:
            if lane not in self.heard[shard]:
                return None
            found.append(self.heard[shard][lane])
        return min(found)

    def check(self) -> None:
        for shard in SHARDS:
            for lanes in ((), LANES[:1], LANES):
                age_us = self.freshness.age_us(shard, self.applied[shard], lanes, self.now_us)
                if age_us is None:
                    continue
                truth_us = self.truth_us(shard, lanes)
                assert truth_us is not None
                assert self.now_us - age_us <= truth_us
                event("an age is known" if lanes else "an age of a shard is known")


shards = st.sampled_from(SHARDS)
some = st.integers(0, 5)
ACTIONS = st.one_of(
    st.tuples(st.just("source"), st.sampled_from(LANES), some),
    st.tuples(st.just("append"), shards, st.sampled_from([None, *LANES]), some),
    st.tuples(st.just("apply"), shards, some),
    st.tuples(st.just("probe")),
    st.tuples(st.just("stamp")),
    st.tuples(st.just("ask"), some),
    st.tuples(st.just("observe"), some),
    st.tuples(st.just("reopen"), shards, some),
)


@given(st.lists(st.tuples(st.integers(1, 9), ACTIONS), max_size=120))
@settings(deadline=None)
def test_no_interleaving_makes_a_shard_look_fresher_than_it_is(
    steps: list[tuple[int, tuple[Any, ...]]],
) -> None:
    model = Model()
    for passed_us, (name, *arguments) in steps:
        model.now_us += passed_us
        getattr(model, name)(*arguments)
        model.check()
    # And whatever happened before, one undisturbed round makes it as fresh as its stamp.
    model.now_us += 1_000
    stamp_us = model.now_us
    model.stamp()
    model.ask(len(model.probes) - 1)
    model.probes = model.probes[-1:]
    model.observe(0)
    for shard in SHARDS:
        model.append(shard, None, 0)
    for lane in LANES:
        model.source(lane, 1)
    for shard in SHARDS:
        for lane in LANES:
            model.now_us += 1
            model.append(shard, lane, 0)
        model.apply(shard, len(model.log[shard]))
        age_us = model.freshness.age_us(shard, model.applied[shard], LANES, model.now_us)
        assert age_us == model.now_us - stamp_us
        model.check()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=200, max_size=500))
@settings(deadline=None, max_examples=25)
def test_a_shard_that_lags_for_long_looks_older_than_it_is_but_never_fresher(
    rounds: list[tuple[int, int]],
) -> None:
    model = Model()
    for appended, applied in rounds:
        model.now_us += 1_000_000
        model.stamp()
        model.ask(0)
        model.observe(0)
        for n in range(appended):
            model.now_us += 1
            model.append(0, LANES[n % 3], 0)
        model.apply(0, applied)
        model.check()
    model.apply(0, len(model.log[0]))
    age_us = model.freshness.age_us(0, model.applied[0], (), model.now_us)
    assert age_us is not None
    assert age_us < 1_000_000
