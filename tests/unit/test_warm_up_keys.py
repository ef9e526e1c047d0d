"""After a warm-up no key is left to compile for, of any type, and however many there are."""

from __future__ import annotations

import datetime as dt
import importlib
import pkgutil
import subprocess
import sys

import polars as pl
import pytest
from numba.core.registry import CPUDispatcher

import headwater as hw
import headwater.kernels
from headwater.flow.warm_up import warm_up
from headwater.plan.plan import compile_plan
from headwater.state.keys import canonical_keys

# More than an index of keys has room for at first.
_EVENTS = 3_000
_SCHEMA = {
    "text": pl.String,
    "number": pl.Int32,
    "day": pl.Date,
    "member": pl.Boolean,
    "ts": pl.Int64,
}
_STREAM = hw.stream("clicks", schema=_SCHEMA, event_time=hw.epoch("ts", "ms"))
_KEYS = ("text", "number", "day", "member")


def _service(*parts: str) -> hw.Service:
    entity = hw.entity("whom", key=list(parts))
    counts = hw.view("counts", features=_STREAM.group_by(entity).window("1h").agg(n=hw.count()))
    return hw.service("all", [counts])


def _events() -> pl.DataFrame:
    first = dt.date(2026, 1, 1)
    rows = [
        {
            "text": f"u{i}",
            "number": i,
            "day": first + dt.timedelta(days=i % 9),
            "member": i % 2 == 0,
            "ts": i,
        }
        for i in range(_EVENTS)
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)


def _signatures() -> set[str]:
    found = set()
    for info in pkgutil.iter_modules(headwater.kernels.__path__):
        for value in vars(importlib.import_module(f"headwater.kernels.{info.name}")).values():
            if isinstance(value, CPUDispatcher):
                name = f"{value.py_func.__module__}.{value.py_func.__name__}"
                found |= {f"{name}{signature}" for signature in value.signatures}
    return found


def _left_to_compile(parts: list[str]) -> set[str]:
    service, events = _service(*parts), _events()
    warm_up(compile_plan([service]))
    with hw.local([service]) as store:
        store.worker.reader.warm_up()
        before = _signatures()
        assert len(before) > 10
        store.push("clicks", events)
        store.settle()
        store.online("all", **events[:2].select(parts).to_dict())
        store.worker.checkpoints.make_room()
    canonical_keys(events, _KEYS)
    return _signatures() - before


@pytest.mark.parametrize("parts", [["text"], ["number"], ["number", "day", "member"]])
def test_keys_of_every_type_and_in_any_number_compile_nothing(parts) -> None:
    # In a process of its own: here other tests have compiled for us.
    ran = subprocess.run(
        [sys.executable, __file__, *parts], check=True, capture_output=True, text=True
    )
    assert ran.stdout.split("\n") == ["left to compile:", ""]


if __name__ == "__main__":
    sys.stdout.write("\n".join(["left to compile:", *sorted(_left_to_compile(sys.argv[1:])), ""]))
