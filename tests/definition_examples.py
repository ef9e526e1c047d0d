"""What tests of definitions change one thing of: a stream, an entity and a view."""

from __future__ import annotations

from typing import Any

import polars as pl

import headwater as hw

__all__ = ["BY_USER", "COUNTED", "HOURLY", "ORDERS", "SCHEMA", "USER", "VIEW", "stream_of"]

SCHEMA = {
    "user": pl.String, "shop": pl.Int64, "x": pl.Float64, "note": pl.String,
    "when": pl.Datetime("ms", "UTC"), "at": pl.Int64,
}  # fmt: skip


def stream_of(**changes: Any) -> Any:
    chosen: dict[str, Any] = {"schema": SCHEMA, "event_time": hw.epoch("at", "ms")} | changes
    return hw.stream(chosen.pop("topic", "orders"), **chosen)


ORDERS = stream_of()
USER = hw.entity("user", key="user")
BY_USER = ORDERS.group_by(USER)
HOURLY = BY_USER.window("1h")
COUNTED = HOURLY.agg(n=hw.count())
VIEW = hw.view("spend", features=COUNTED)
