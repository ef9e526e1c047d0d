"""The plain Python peer of ingest: a careful loop over events, and dicts of buckets.

Like ours it sets aside what is no event, keeps sums exact and forgets what no window holds. A user
has a dict of buckets for each window, as wide as that window's hop, so that a read folds at most
some sixty. Unlike ours it answers for times after the newest event only, and has nothing on disk.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Event", "Spending", "decode_json", "msgspec_decoder"]

# A user, an amount and a time in ms; None is a record that can't be one.
Event = tuple[str, float, int]

# Whole multiples of 2⁻¹²⁸, which Python's integers add without rounding.
_UNIT = float(1 << 128)
_SKEW_MS = 300_000

# A count, an exact sum, a minimum and a maximum.
_Bucket = list[Any]
_EMPTY = (0, None, None, None, None)


def decode_json(values: Iterable[bytes], arrival_ms: int) -> Iterator[Event | None]:
    """Yield events, by nothing but the standard library."""
    loads, latest_ms = json.loads, arrival_ms + _SKEW_MS
    for value in values:
        try:
            event = loads(value)
            user, amount, ts = event["user"], event["amount"], event["ts"]
        except (ValueError, TypeError, KeyError):
            yield None
            continue
        fits = type(user) is str and type(ts) is int and type(amount) in {float, int}
        yield (user, amount, ts) if fits and 0 <= ts <= latest_ms else None


def msgspec_decoder() -> Callable[[Iterable[bytes], int], Iterator[Event | None]]:
    """Return a decoder of the same with msgspec: it checks types, and skips what isn't needed."""
    import msgspec

    class Payment(msgspec.Struct):
        user: str
        amount: float
        ts: int

    decode = msgspec.json.Decoder(Payment).decode

    def decoded(values: Iterable[bytes], arrival_ms: int) -> Iterator[Event | None]:
        latest_ms = arrival_ms + _SKEW_MS
        for value in values:
            try:
                event = decode(value)
            except msgspec.MsgspecError:
                yield None
                continue
            ts = event.ts
            yield (event.user, event.amount, ts) if 0 <= ts <= latest_ms else None

    return decoded


class Spending:
    """Three windows of five aggregates by user; `windows` are (width, hop) pairs in ms."""

    def __init__(self, windows: Sequence[tuple[int, int]]) -> None:
        self._windows = list(windows)
        self._users: dict[str, list[dict[int, _Bucket]]] = {}
        self.dead_letters = 0

    def apply(self, events: Iterable[Event | None]) -> None:
        """Fold events in; count those that are none."""
        users, windows = self._users, self._windows
        for event in events:
            if event is None:
                self.dead_letters += 1
                continue
            user, amount, ts = event
            mine = users.get(user)
            if mine is None:
                mine = users[user] = [{} for _ in windows]
            exact = int(amount * _UNIT)
            for buckets, (width, hop) in zip(mine, windows, strict=True):
                at = ts // hop
                bucket = buckets.get(at)
                if bucket is None:
                    buckets[at] = [1, exact, amount, amount]
                    oldest = (ts - width) // hop
                    for gone in [at for at in buckets if at < oldest]:
                        del buckets[gone]
                else:
                    bucket[0] += 1
                    bucket[1] += exact
                    if amount < bucket[2]:
                        bucket[2] = amount
                    elif amount > bucket[3]:
                        bucket[3] = amount

    def read(self, user: str, t_ms: int) -> list[tuple[float | None, ...]]:
        """Return count, sum, mean, min and max of each window that ends at `t`."""
        found: list[tuple[float | None, ...]] = []
        mine = self._users.get(user) or [{}] * len(self._windows)
        for buckets, (width, hop) in zip(mine, self._windows, strict=True):
            oldest = (t_ms - width) // hop
            inside = [bucket for at, bucket in buckets.items() if at >= oldest]
            if not inside:
                found.append(_EMPTY)
                continue
            counts, sums, lows, highs = zip(*inside, strict=True)
            count, total = sum(counts), sum(sums)
            found.append((count, total / (1 << 128), total / (count << 128), min(lows), max(highs)))
        return found
