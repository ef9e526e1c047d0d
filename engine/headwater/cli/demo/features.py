"""What the demo computes: streams, entities, views, on-demand features and a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

import headwater as hw

if TYPE_CHECKING:
    from headwater.definitions.service import Service
    from headwater.definitions.view import View

__all__ = [
    "LATE_MINUTES",
    "delay_model",
    "delay_model_2",
    "flights",
    "plane_delays",
    "plane_delays_2",
    "weather",
]

# The usual definition of a late flight.
LATE_MINUTES = 15
_VERY_LATE_MINUTES = 30

flights = hw.stream(
    "flights",
    schema={
        "tailnum": pl.String,
        "carrier": pl.String,
        "origin": pl.String,
        "dest": pl.String,
        "dep_delay": pl.Float64,  # minutes; null for a cancelled flight
        "ts": pl.Int64,  # when it left, or should have
    },
    event_time=hw.epoch("ts", "us"),
)
weather = hw.stream(
    "weather",
    schema={
        "origin": pl.String,
        "temp": pl.Float64,
        "wind_speed": pl.Float64,
        "precip": pl.Float64,
        "visib": pl.Float64,
        "ts": pl.Int64,
    },
    event_time=hw.epoch("ts", "us"),
)

plane = hw.entity("plane", key="tailnum", dtype=pl.String)
route = hw.entity("route", key=["origin", "dest"])
airport = hw.entity("airport", key="origin", dtype=pl.String)

plane_delays = hw.view(
    "plane_delays",
    owner="demo@example.com",
    description="How a plane has been doing lately, and ever.",
    features=(
        flights.filter(pl.col("dep_delay").is_not_null())
        .with_columns(late=pl.col("dep_delay") > LATE_MINUTES)
        .group_by(plane)
        .window("24h", "lifetime")
        .agg(
            plane_n=hw.count(),
            plane_mean=hw.mean("dep_delay"),
            plane_worst=hw.max("dep_delay"),
            plane_last=hw.last("dep_delay"),
            plane_late=hw.sum("late"),
        )
    ),
)
plane_delays_2 = hw.view(
    "plane_delays",
    version=2,
    owner="demo@example.com",
    description="The same, with half an hour to be late, and how steady a plane is.",
    features=(
        flights.filter(pl.col("dep_delay").is_not_null())
        .with_columns(late=pl.col("dep_delay") > _VERY_LATE_MINUTES)
        .group_by(plane)
        .window("24h", "lifetime")
        .agg(
            plane_n=hw.count(),
            plane_mean=hw.mean("dep_delay"),
            plane_worst=hw.max("dep_delay"),
            plane_last=hw.last("dep_delay"),
            plane_late=hw.sum("late"),
            plane_std=hw.std("dep_delay"),
        )
    ),
)
route_delays = hw.view(
    "route_delays",
    owner="demo@example.com",
    description="What is usual on a route.",
    features=(
        flights.with_columns(
            late=pl.col("dep_delay") > LATE_MINUTES, cancelled=pl.col("dep_delay").is_null()
        )
        .group_by(route)
        .window("7d", "30d")
        .agg(
            route_n=hw.count(),
            route_mean=hw.mean("dep_delay"),
            route_std=hw.std("dep_delay"),
            route_late=hw.sum("late"),
            route_cancelled=hw.sum("cancelled"),
        )
    ),
)
airport_delays = hw.view(
    "airport_delays",
    owner="demo@example.com",
    description="How an airport is doing right now.",
    features=(
        flights.with_columns(
            late=pl.col("dep_delay") > LATE_MINUTES, cancelled=pl.col("dep_delay").is_null()
        )
        .group_by(airport)
        .window("1h", "3h", "24h")
        .agg(
            airport_n=hw.count(),
            airport_mean=hw.mean("dep_delay"),
            airport_worst=hw.max("dep_delay"),
            airport_late=hw.sum("late"),
            airport_cancelled=hw.sum("cancelled"),
        )
    ),
)
airport_weather = hw.view(
    "airport_weather",
    owner="demo@example.com",
    description="The weather at an airport, from a topic of its own.",
    features=(
        weather.group_by(airport)
        .window("3h", "24h")
        .agg(
            temp=hw.mean("temp"),
            wind=hw.max("wind_speed"),
            rain=hw.sum("precip"),
            fog=hw.min("visib"),
        )
    ),
)


def _model_on(planes: View) -> Service:
    """Return the service, with one of the versions of the view of planes."""

    @hw.on_demand(
        inputs=[
            planes,
            route_delays,
            airport_delays,
            hw.request("distance", pl.Float64),
            hw.request("hour", pl.Int64),
        ]
    )
    def comparisons(row: pl.LazyFrame) -> pl.LazyFrame:
        """Compare what was asked with what is usual."""
        return row.with_columns(
            plane_vs_route=pl.col("plane_mean_24h") - pl.col("route_mean_30d"),
            route_late_share=pl.col("route_late_30d") / pl.col("route_n_30d"),
            airport_trend=pl.col("airport_mean_1h") - pl.col("airport_mean_24h"),
            slack=pl.col("distance") - 8.0 * pl.col("plane_last_24h"),
            evening=pl.col("hour") >= 17,
        )

    return hw.service(
        "delay_model",
        [planes, route_delays, airport_delays, airport_weather, comparisons],
        owner="demo@example.com",
        description="Will this flight leave more than a quarter of an hour late?",
    )


delay_model = _model_on(plane_delays)
delay_model_2 = _model_on(plane_delays_2)
