"""The boundary table: which events a window holds, to the microsecond, worked out by hand.

Every case is checked online and offline, with times written in five forms, while events are still
single and after they have become tiles.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

import headwater as hw
from headwater.flow.settings import WorkerSettings

if TYPE_CHECKING:
    from headwater.local_store import LocalStore

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Case:
    """A window at a time, the events it holds, and its neighbours that it doesn't."""

    window: str
    at: str
    inside: tuple[str, ...]
    outside: tuple[str, ...]

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.at)

    @property
    def events(self) -> list[str]:
        return [*self.inside, *self.outside]


CASES = {
    "1h, t inside a hop": Case(
        "1h",
        "2024-05-05T12:34:56.789012+00:00",
        (
            "2024-05-05T11:34:00+00:00",
            "2024-05-05T11:34:00.000001+00:00",
            "2024-05-05T11:34:59.999999+00:00",
            "2024-05-05T11:35:00+00:00",
            "2024-05-05T12:33:59.999999+00:00",
            "2024-05-05T12:34:00+00:00",
            "2024-05-05T12:34:56.789011+00:00",
        ),
        (
            "2024-05-05T11:33:59.999999+00:00",
            "2024-05-05T12:34:56.789012+00:00",
            "2024-05-05T12:34:56.789013+00:00",
            "2024-05-05T12:36:00+00:00",
        ),
    ),
    "1h, t on the edge of a hop": Case(
        "1h",
        "2024-05-06T12:34:00+00:00",
        ("2024-05-06T11:34:00+00:00", "2024-05-06T12:33:59.999999+00:00"),
        (
            "2024-05-06T11:33:59.999999+00:00",
            "2024-05-06T12:34:00+00:00",
            "2024-05-06T12:34:00.000001+00:00",
        ),
    ),
    "1h, t just before the edge of a hop": Case(
        "1h",
        "2024-05-07T12:33:59.999999+00:00",
        (
            "2024-05-07T11:33:00+00:00",
            "2024-05-07T11:33:59.999999+00:00",
            "2024-05-07T12:33:59.999998+00:00",
        ),
        (
            "2024-05-07T11:32:59.999999+00:00",
            "2024-05-07T12:33:59.999999+00:00",
            "2024-05-07T12:34:00+00:00",
        ),
    ),
    "1h, t just after the edge of a hop": Case(
        "1h",
        "2024-05-08T12:34:00.000001+00:00",
        ("2024-05-08T11:34:00+00:00", "2024-05-08T12:34:00+00:00"),
        (
            "2024-05-08T11:33:59.999999+00:00",
            "2024-05-08T12:34:00.000001+00:00",
            "2024-05-08T12:34:00.000002+00:00",
        ),
    ),
    "10s, hops of 1s": Case(
        "10s",
        "2024-06-01T12:00:00.500000+00:00",
        (
            "2024-06-01T11:59:50+00:00",
            "2024-06-01T11:59:50.499999+00:00",
            "2024-06-01T12:00:00.499999+00:00",
        ),
        ("2024-06-01T11:59:49.999999+00:00", "2024-06-01T12:00:00.500000+00:00"),
    ),
    "24h, hops of 30m": Case(
        "24h",
        "2024-06-05T12:34:56+00:00",
        (
            "2024-06-04T12:30:00+00:00",
            "2024-06-04T12:59:59.999999+00:00",
            "2024-06-05T12:29:59.999999+00:00",
            "2024-06-05T12:30:00+00:00",
        ),
        ("2024-06-04T12:29:59.999999+00:00", "2024-06-05T12:34:56+00:00"),
    ),
    "7d, hops of 3h": Case(
        "7d",
        "2024-07-05T12:34:56+00:00",
        ("2024-06-28T12:00:00+00:00", "2024-06-28T15:00:00+00:00", "2024-07-05T12:34:55+00:00"),
        ("2024-06-28T11:59:59.999999+00:00", "2024-07-05T12:34:56+00:00"),
    ),
    "90d over a leap day, hops of 1d": Case(
        "90d",
        "2024-05-05T12:34:56+00:00",
        ("2024-02-05T00:00:00+00:00", "2024-02-29T23:59:59.999999+00:00"),
        ("2024-02-04T23:59:59.999999+00:00", "2024-05-05T12:34:56+00:00"),
    ),
    "2m in hops of 1m": Case(
        "wide_hop",
        "2024-08-01T12:00:30+00:00",
        ("2024-08-01T11:58:00+00:00", "2024-08-01T12:00:29.999999+00:00"),
        ("2024-08-01T11:57:59.999999+00:00", "2024-08-01T12:00:30+00:00"),
    ),
    "exact": Case(
        "exact",
        "2024-08-02T12:00:00.500000+00:00",
        (
            "2024-08-02T11:59:00.500000+00:00",
            "2024-08-02T11:59:00.500001+00:00",
            "2024-08-02T12:00:00.499999+00:00",
        ),
        ("2024-08-02T11:59:00.499999+00:00", "2024-08-02T12:00:00.500000+00:00"),
    ),
    "lifetime": Case(
        "lifetime",
        "2024-08-03T12:00:00+00:00",
        (
            "1965-02-03T04:05:06.000007+00:00",
            "1970-01-01T00:00:00+00:00",
            "2024-08-03T11:59:59.999999+00:00",
        ),
        ("2024-08-03T12:00:00+00:00", "2024-08-03T12:00:00.000001+00:00"),
    ),
    "events of one moment": Case(
        "1h",
        "2024-09-01T12:00:01+00:00",
        ("2024-09-01T12:00:00+00:00",) * 3,
        ("2024-09-01T12:00:01+00:00",) * 2,
    ),
    "1970, over the epoch": Case(
        "1h",
        "1970-01-01T00:00:30+00:00",
        (
            "1969-12-31T23:00:00+00:00",
            "1969-12-31T23:59:59.999999+00:00",
            "1970-01-01T00:00:00+00:00",
            "1970-01-01T00:00:29.999999+00:00",
        ),
        ("1969-12-31T22:59:59.999999+00:00", "1970-01-01T00:00:30+00:00"),
    ),
    "1970, exactly the epoch": Case(
        "exact",
        "1970-01-01T00:00:00+00:00",
        ("1969-12-31T23:59:00+00:00", "1969-12-31T23:59:59.999999+00:00"),
        (
            "1969-12-31T23:58:59.999999+00:00",
            "1970-01-01T00:00:00+00:00",
            "1970-01-01T00:00:00.000001+00:00",
        ),
    ),
    "1969, the last microsecond": Case(
        "10s",
        "1969-12-31T23:59:59.999999+00:00",
        ("1969-12-31T23:59:49+00:00", "1969-12-31T23:59:59.999998+00:00"),
        ("1969-12-31T23:59:48.999999+00:00", "1969-12-31T23:59:59.999999+00:00"),
    ),
    "1969, a day": Case(
        "24h",
        "1969-07-20T20:17:40.500000+00:00",
        ("1969-07-19T20:00:00+00:00", "1969-07-20T20:17:40.499999+00:00"),
        ("1969-07-19T19:59:59.999999+00:00", "1969-07-20T20:17:40.500000+00:00"),
    ),
    "2100, which has no leap day": Case(
        "24h",
        "2100-03-01T00:00:00+00:00",
        ("2100-02-28T00:00:00+00:00", "2100-02-28T23:59:59.999999+00:00"),
        ("2100-02-27T23:59:59.999999+00:00", "2100-03-01T00:00:00+00:00"),
    ),
    "2100, a week": Case(
        "7d",
        "2100-03-02T00:00:00.000001+00:00",
        ("2100-02-23T00:00:00+00:00", "2100-03-02T00:00:00+00:00"),
        ("2100-02-22T23:59:59.999999+00:00", "2100-03-02T00:00:00.000001+00:00"),
    ),
    "Berlin, clocks go forward": Case(
        "1h",
        "2024-03-31T03:30:00+02:00",
        (
            "2024-03-31T01:30:00+01:00",
            "2024-03-31T01:59:59.999999+01:00",
            "2024-03-31T03:00:00+02:00",
            "2024-03-31T03:29:59.999999+02:00",
        ),
        ("2024-03-31T01:29:59.999999+01:00", "2024-03-31T03:30:00+02:00"),
    ),
    "Berlin, clocks go back": Case(
        "1h",
        "2024-10-27T02:30:00+01:00",
        (
            "2024-10-27T02:30:00+02:00",
            "2024-10-27T02:59:59.999999+02:00",
            "2024-10-27T02:00:00+01:00",
            "2024-10-27T02:29:59.999999+01:00",
        ),
        ("2024-10-27T02:29:59.999999+02:00", "2024-10-27T02:30:00+01:00"),
    ),
    "Berlin, a day of 25 hours": Case(
        "24h",
        "2024-10-27T12:00:00+01:00",
        ("2024-10-26T13:00:00+02:00", "2024-10-27T11:59:59.999999+01:00"),
        ("2024-10-26T12:59:59.999999+02:00", "2024-10-27T12:00:00+01:00"),
    ),
    "New York, clocks go forward": Case(
        "1h",
        "2024-03-10T03:30:00-04:00",
        ("2024-03-10T01:30:00-05:00", "2024-03-10T03:00:00-04:00"),
        ("2024-03-10T01:29:59.999999-05:00", "2024-03-10T03:30:00-04:00"),
    ),
    "New York, clocks go back": Case(
        "1h",
        "2024-11-03T01:30:00-05:00",
        ("2024-11-03T01:30:00-04:00", "2024-11-03T01:29:59.999999-05:00"),
        ("2024-11-03T01:29:59.999999-04:00", "2024-11-03T01:30:00-05:00"),
    ),
    "New York, a day of 23 hours": Case(
        "24h",
        "2024-03-10T12:00:00-04:00",
        ("2024-03-09T11:00:00-05:00", "2024-03-10T11:59:59.999999-04:00"),
        ("2024-03-09T10:59:59.999999-05:00", "2024-03-10T12:00:00-04:00"),
    ),
}
BY_TIME = sorted(CASES, key=lambda name: CASES[name].time)

WINDOWS = {
    "10s": hw.window("10s"),
    "1h": hw.window("1h"),
    "24h": hw.window("24h"),
    "7d": hw.window("7d"),
    "90d": hw.window("90d"),
    "wide_hop": hw.window("2m", hop="1m", name="wide_hop"),
    "exact": hw.window("1m", exact=True, name="exact"),
    "lifetime": hw.window("lifetime"),
}


def us_of(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def _zoned(zone: str) -> Any:
    return lambda texts: pl.Series(
        "when", [datetime.fromisoformat(text).astimezone(ZoneInfo("UTC")) for text in texts]
    ).cast(pl.Datetime("us", zone))


# How an event says when it happened: the type of its column, what names it, and its values.
FORMS: dict[str, tuple[Any, Any, Any]] = {
    "RFC 3339": (pl.String, "when", lambda texts: pl.Series("when", texts, pl.String)),
    "epoch": (
        pl.Int64,
        hw.epoch("when", "us"),
        lambda texts: pl.Series("when", [us_of(text) for text in texts], pl.Int64),
    ),
    "UTC": (pl.Datetime("us", "UTC"), "when", _zoned("UTC")),
    "Berlin": (pl.Datetime("us", "Europe/Berlin"), "when", _zoned("Europe/Berlin")),
    "New York": (pl.Datetime("us", "America/New_York"), "when", _zoned("America/New_York")),
}
ZONES_ONLINE = {
    "online, all events single": "UTC",
    "online, tiles at once": "Europe/Berlin",
    "online, tiles as they age": "America/New_York",
}
HOW = (
    *ZONES_ONLINE,
    "offline, UTC",
    "offline, Europe/Berlin",
    "offline, America/New_York",
    "offline, Asia/Kathmandu",
    "offline, long history",
)


def service_of(form: str) -> Any:
    """Return a service with a view for each window and one with all of them."""
    dtype, event_time, _ = FORMS[form]
    stream = hw.stream(
        "events", schema={"k": pl.String, "x": pl.Int64, "when": dtype}, event_time=event_time
    )
    grouped = stream.group_by(hw.entity("thing", key="k"))
    views = [
        hw.view(f"own_{name}", features=grouped.window(window).agg(own=hw.sum("x")))
        for name, window in WINDOWS.items()
    ]
    both = hw.view("both", features=grouped.window(*WINDOWS.values()).agg(all=hw.sum("x")))
    return hw.service("table", [*views, both])


def frame_of(form: str, key: str, texts: list[str], x: list[int | None]) -> pl.DataFrame:
    when = FORMS[form][2](texts)
    return pl.DataFrame({"k": [key] * len(texts), "x": pl.Series(x, dtype=pl.Int64), "when": when})


def events_of(form: str, name: str) -> pl.DataFrame:
    """Return a case's events; each has a bit of its own, so that a sum names them."""
    events = CASES[name].events
    return frame_of(form, name, events, [1 << n for n in range(len(events))])


class Clock:
    def __init__(self) -> None:
        self.us = us_of("1960-01-01T00:00:00+00:00")

    def __call__(self) -> int:
        return self.us


def opened(form: str, read_back_us: int | None, clock: Clock) -> LocalStore:
    settings = WorkerSettings(namespace="local", shards=1, read_back_us=read_back_us)
    return hw.local([service_of(form)], settings=settings, clock=clock)


def pick(name: str, row: dict[str, Any]) -> tuple[int, int]:
    window = CASES[name].window
    return row[f"own_{window}"], row[f"all_{window}"]


def online(form: str, how: str) -> dict[str, tuple[int, int]]:
    """Read each case in the order of its time, so that the horizon may follow."""
    found = {}
    clock = Clock()
    unlimited = how == "online, all events single"
    with opened(form, None if unlimited else 0, clock) as store:

        def push(name: str, frame: pl.DataFrame) -> None:
            store.push("events", frame, arrival=CASES[name].time + DAY)
            store.settle()

        for name in BY_TIME:
            at = CASES[name].at
            if how == "online, tiles as they age":
                push(name, events_of(form, name))
            clock.us = us_of(at)
            push(name, frame_of(form, "clock", [at], [None]))
            if how == "online, tiles as they age":
                push(name, frame_of(form, name, [at], [None]))
            else:
                push(name, events_of(form, name))
            horizon = store.worker.shards[0].horizon_us
            assert unlimited or horizon == us_of(at)
            asked = CASES[name].time.astimezone(ZoneInfo(ZONES_ONLINE[how]))
            row = store.online("table", thing=[name], at=asked)
            found[name] = pick(name, row.to_dicts()[0])
    return found


def offline(form: str, how: str) -> dict[str, tuple[int, int]]:
    long = how == "offline, long history"
    zone = "UTC" if long else how.partition(", ")[2]
    with opened(form, None, Clock()) as store:
        times, names = [], []
        for name in BY_TIME:
            case = CASES[name]
            # Without a value, so that they count nothing: they only make the history long.
            back = [(case.time - timedelta(seconds=n % 9)).isoformat() for n in range(1, 400)]
            filler = frame_of(form, name, back if long else [], [None] * (399 if long else 0))
            frame = pl.concat([events_of(form, name), filler])
            store.push("events", frame, arrival=case.time + DAY)
            asked = [case.time - timedelta(minutes=n) for n in range(9)] if long else [case.time]
            times += asked
            names += [name] * len(asked)
        when = pl.Series("t", [time.astimezone(UTC) for time in times]).cast(
            pl.Datetime("us", zone)
        )
        spine = pl.DataFrame({"k": names, "t": when})
        rows = store.training_set("table", spine, time="t").collect().to_dicts()
        # In UTC: Python finds two zones' times of an hour that comes twice never equal.
        at = {name: CASES[name].time.astimezone(UTC) for name in CASES}
        return {r["k"]: pick(r["k"], r) for r in rows if r["t"].astimezone(UTC) == at[r["k"]]}


@functools.cache
def answers(form: str, how: str) -> dict[str, tuple[int, int]]:
    return online(form, how) if how.startswith("online") else offline(form, how)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", CASES)
def test_a_window_holds_these_events_and_no_others(name: str, how: str, form: str) -> None:
    case = CASES[name]
    for total in answers(form, how)[name]:
        held = [event for n, event in enumerate(case.events) if total >> n & 1]
        assert held == list(case.inside)


@pytest.mark.parametrize("partitions", [1, 3])
def test_ties_go_by_partition_and_offset(partitions: int) -> None:
    stream = hw.stream(
        "ties", schema={"k": pl.String, "x": pl.Int64, "at": pl.String}, event_time="at"
    )
    view = hw.view(
        "ties",
        features=stream.group_by(hw.entity("thing", key="k"))
        .window("1h")
        .agg(first=hw.first("x"), last=hw.last("x")),
    )
    rows = pl.DataFrame(
        {"k": ["a"] * 6, "x": [1, 2, 3, 4, 5, 6], "at": ["2024-01-01T00:00:00Z"] * 6}
    )
    t = datetime(2024, 1, 1, 0, 0, 1, tzinfo=UTC)
    spine = pl.DataFrame({"k": ["a"], "t": [t]})
    with hw.local([hw.service("s", [view])], partitions=partitions) as store:
        store.push("ties", rows)  # spread over the partitions in runs
        store.settle()
        assert store.online("s", thing=["a"], at=t).row(0) == (1, 6)
        made = store.training_set("s", spine, time="t").collect()
        assert made.select("first_1h", "last_1h").row(0) == (1, 6)
