"""What the workers of compose.yaml compute; put your own definitions in its place."""

# ruff: noqa: INP001 - mounted into the containers, part of no package

from __future__ import annotations

import polars as pl

import headwater as hw

orders = hw.stream(
    "orders",
    schema={"customer": pl.String, "total": pl.Float64, "ordered_at": pl.Datetime("us", "UTC")},
    event_time="ordered_at",
)
customer = hw.entity("customer", key="customer")
order_habits = hw.view(
    "order_habits",
    description="How often a customer orders, and for how much.",
    features=orders.group_by(customer)
    .window("1h", "7d")
    .agg(n=hw.count(), mean=hw.mean("total"), most=hw.max("total")),
)
basket = hw.service("basket", [order_habits])
