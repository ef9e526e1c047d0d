"""Freshness: how old a read of a shard may be, by a clock that runs while the process is stopped.

Every second a worker takes a stamp from its boot clock and then asks where the exchange ends. What
was appended before the stamp lies below that end, so a shard that has applied the exchange up to
there is as fresh as the stamp. No two machines' clocks are ever compared.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from headwater.errors import ConfigError
from headwater.flow.boot_clock import boot_clock_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from headwater.plan.plan import ViewPlan

__all__ = ["Freshness", "Guard", "boot_clock_us"]

_MAX_STALENESS_US = 5_000_000
# About two minutes at one a second; beyond it the older half is thinned out.
_STAMPS_MAX = 128


@dataclass(slots=True)
class _Lane:
    """When its source was last known to have nothing more: after the exchange had ended here."""

    after_offset: int
    fresh_us: int | None = None


@dataclass(slots=True)
class _Shard:
    """Stamps and the exchange ends asked after them, both ascending; and the lanes heard of."""

    stamps_us: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    lanes: dict[str, _Lane] = field(default_factory=dict)

    def newest(self, offset: int) -> int | None:
        """Return the newest stamp that was followed by an end of at most `offset`."""
        at = bisect_right(self.ends, offset)
        return self.stamps_us[at - 1] if at else None

    def add(self, stamp_us: int, end: int) -> None:
        if self.stamps_us and stamp_us <= self.stamps_us[-1]:
            return  # an answer that was overtaken
        if self.ends and end < self.ends[-1]:
            # The exchange has lost its end: its offsets aren't those we have noted.
            self.stamps_us.clear()
            self.ends.clear()
            self.lanes.clear()
        if self.ends and end == self.ends[-1]:
            self.stamps_us[-1] = stamp_us
        else:
            self.stamps_us.append(stamp_us)
            self.ends.append(end)
        if len(self.ends) > _STAMPS_MAX:
            # A shard far behind looks a little older than it is, never fresher.
            half = _STAMPS_MAX // 2
            del self.stamps_us[1:half:2]
            del self.ends[1:half:2]
        for lane in self.lanes.values():
            if lane.after_offset > end:
                self.note(lane)

    def note(self, lane: _Lane) -> None:
        # An end below ours was asked for before ours was, and its stamp taken before that.
        lane.fresh_us = self.newest(lane.after_offset - 1)


class Freshness:
    """What a worker knows of how fresh its shards are; may be shared by threads.

    A *lane* is one source partition re-keyed by one entity. A record that has reached the source's
    end says where the exchange had ended before the source was asked. The lane is as fresh as the
    newest stamp that was followed by a lower end: stamp, that end, the record's, and then the
    source's were asked for in this order. So it doesn't matter how long a record is on its way, or
    how often it comes. All times are µs of `boot_clock`.
    """

    def __init__(self, boot_clock: Callable[[], int] = boot_clock_us) -> None:
        self.now_us = boot_clock
        self._shards: dict[int, _Shard] = {}
        self._lock = threading.Lock()

    def opened(self, shard: int) -> None:
        """Begin to know a shard, whose state says nothing yet of how fresh it is."""
        with self._lock:
            self._shards[shard] = _Shard()

    def closed(self, shard: int) -> None:
        """Forget a shard."""
        with self._lock:
            self._shards.pop(shard, None)

    def observe(self, stamp_us: int, ends: Mapping[int, int]) -> None:
        """Note the exchange's end offsets by shard, asked for after `stamp_us` was taken.

        Shards that aren't open are passed over. An older stamp than the last one is of no use.
        """
        with self._lock:
            for number, end in ends.items():
                shard = self._shards.get(number)
                if shard is not None:
                    shard.add(stamp_us, end)

    def at_end(self, shard: int, lane: str, after_offset: int) -> None:
        """Note an applied record that said its lane had reached the source's end.

        `after_offset` is where the shard's exchange had ended before the source was asked.
        """
        with self._lock:
            found = self._shards.get(shard)
            if found is None:
                return
            known = found.lanes.get(lane)
            if known is None:
                known = found.lanes[lane] = _Lane(after_offset)
            known.after_offset = max(known.after_offset, after_offset)
            found.note(known)

    def age_us(self, shard: int, next_offset: int, lanes: Iterable[str], now_us: int) -> int | None:
        """Return how old a read of a shard is at most, over some lanes; None if not known yet.

        `next_offset` is what the state that is read has applied of the exchange. A lane that
        nothing was heard of since the shard was opened isn't known.
        """
        with self._lock:
            found = self._shards.get(shard)
            oldest = None if found is None else found.newest(next_offset)
            if found is None or oldest is None:
                return None
            for name in lanes:
                lane = found.lanes.get(name)
                if lane is None or lane.fresh_us is None:
                    return None
                oldest = min(oldest, lane.fresh_us)
        return now_us - oldest


@dataclass(frozen=True, slots=True)
class Guard:
    """When a read is too old, and what becomes of it.

    `lanes` returns every lane of a view's stream, heard of or not; it is called for each request,
    so it should be a look-up. `on_stale` "mark" answers with the old values and `STALE`, and with
    null and `STALE` where there is nobody to read from; "refuse" fails the whole request.
    """

    freshness: Freshness
    lanes: Callable[[ViewPlan], Iterable[str]]
    max_staleness_us: int = _MAX_STALENESS_US
    on_stale: Literal["mark", "refuse"] = "mark"

    def __post_init__(self) -> None:
        """Refuse what can't be kept to."""
        if self.max_staleness_us < 1:
            msg = f"max_staleness is {self.max_staleness_us} µs; it must be more than 0"
            raise ConfigError(msg)
        if self.on_stale not in {"mark", "refuse"}:
            msg = f'on_stale is "{self.on_stale}"; write "mark" or "refuse"'
            raise ConfigError(msg)

    def is_stale(self, shard: int, next_offset: int, view: ViewPlan) -> bool:
        """Whether a read of a view in a shard, made just now, may be older than is allowed."""
        freshness = self.freshness
        age_us = freshness.age_us(shard, next_offset, self.lanes(view), freshness.now_us())
        return age_us is None or age_us > self.max_staleness_us
