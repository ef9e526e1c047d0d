"""Compile every kernel into the cache beside its source: a step of the image's build.

Kernels are compiled by the types they are called with, not by the definitions that are run, so one
small set of definitions is enough for all. With --check it fails if anything had to be compiled.
"""

# ruff: noqa: INP001 - a script, part of no package

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

import polars as pl
from numba.core.registry import CPUDispatcher

import headwater as hw
import headwater.kernels
from headwater.flow.warm_up import warm_up
from headwater.plan.plan import compile_plan
from headwater_connectors.log import kafka_columnar_kernels, kafka_columnar_library

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVENTS = 5_000  # each with a key of its own: tables of keys have to grow

clicks = hw.stream(
    "clicks",
    schema={
        "user": pl.String,
        "place": pl.Int64,
        "day": pl.Date,
        "member": pl.Boolean,
        "amount": pl.Float64,
        "ts": pl.Int64,
    },
    event_time=hw.epoch("ts", "ms"),
)
by_user = hw.view(
    "by_user",
    features=clicks.group_by(hw.entity("user", key="user"))
    .window(hw.window("1h"), hw.window("5m", exact=True), hw.window("lifetime"))
    .agg(
        n=hw.count(),
        total=hw.sum("amount"),
        mean=hw.mean("amount"),
        variance=hw.var("amount"),
        deviation=hw.std("amount"),
        least=hw.min("amount"),
        most=hw.max("amount"),
        earliest=hw.first("amount"),
        latest=hw.last("amount"),
        places=hw.sum("place"),
    ),
)
# Parts of a key are written by their width: 8, 4 and 1 bytes, and any length.
by_parts = hw.view(
    "by_parts",
    features=clicks.filter(pl.col("amount") > 1)
    .group_by(hw.entity("parts", key=["user", "place", "day", "member"]))
    .window("7d")
    .agg(parts_n=hw.count()),
)
both = hw.service("both", [by_user, by_parts])


def main() -> int:
    """Run everything once; return 1 if --check finds that a kernel was compiled."""
    warm_up(compile_plan([both]))
    kafka_columnar_library.load()
    # A folder, so that state goes through files and comes back.
    with tempfile.TemporaryDirectory() as folder:
        _run(folder)
        _run(folder)
    kernels = list(_kernels())
    compiled = sorted(
        f"{kernel.py_func.__module__}.{kernel.py_func.__name__}{signature}"
        for kernel in kernels
        for signature, count in kernel.stats.cache_misses.items()
        if count
    )
    cached = sum(len(kernel.stats.cache_hits) for kernel in kernels)
    sys.stdout.write(f"kernels: {len(compiled)} compiled, {cached} from the cache\n")
    if "--check" in sys.argv[1:] and (compiled or not cached):
        sys.stderr.write("not from the cache: " + ", ".join(compiled) + "\n")
        return 1
    return 0


def _run(folder: str) -> None:
    """Send events through a store and read them back, online and offline."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    began_ms = int(at.timestamp() * 1_000) - _EVENTS
    with hw.local([both], path=folder, clock=lambda: int(at.timestamp() * 1_000_000)) as store:
        keys = [
            {"user": f"u{i}", "place": i % 3, "day": at.date(), "member": i % 2 == 0}
            for i in range(_EVENTS)
        ]
        store.push(
            "clicks",
            pl.DataFrame(keys).with_columns(
                amount=pl.int_range(_EVENTS) / 2, ts=began_ms + pl.int_range(_EVENTS)
            ),
        )
        store.settle()
        store.worker.checkpoints.make_room()
        spine = pl.DataFrame(keys[:2])
        store.online("both", **spine.to_dict(), at=at)
        store.training_set("both", spine.with_columns(at=pl.lit(at)), time="at").collect()


def _kernels() -> Iterator[CPUDispatcher]:
    modules = [
        import_module(f"headwater.kernels.{info.name}")
        for info in iter_modules(headwater.kernels.__path__)
    ]
    for module in (*modules, kafka_columnar_kernels):
        for value in vars(module).values():
            # Others' kernels that a module imports are counted where they are.
            if isinstance(value, CPUDispatcher) and value.py_func.__module__ == module.__name__:
                yield value


if __name__ == "__main__":
    sys.exit(main())
