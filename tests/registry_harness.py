"""Definitions that change, and what the commands do with them, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

import headwater as hw
from headwater.plan.plan import compile_plan
from headwater.registry.application import apply, in_step
from headwater.registry.proposal import propose, propose_removal

if TYPE_CHECKING:
    from headwater.flow.plans_topic import PlansTopic
    from headwater.plan.plan import Plan
    from headwater.registry.proposal import Proposal
    from headwater.registry.records import Registered
    from headwater.registry.registry import Registry

__all__ = ["applied", "known_of", "orders", "plan_of", "proposed", "removed", "service", "view"]

NAMESPACE = "shop"


def orders(**changes: Any) -> Any:
    schema = {"user": pl.String, "x": pl.Float64, "at": pl.Int64, **changes.pop("columns", {})}
    return hw.stream("orders", schema=schema, event_time=hw.epoch("at", "us"), **changes)


def view(version: int = 1, above: float = 0, name: str = "spend", **changes: Any) -> Any:
    stream = changes.pop("stream", orders())
    return hw.view(
        name,
        version=version,
        features=stream.filter(pl.col("x") > above)
        .group_by(hw.entity("user", key="user"))
        .window("1h", "7d")
        .agg(n=hw.count(), total=hw.sum("x")),
        **changes,
    )


def service(*views: Any, name: str = "spending", **changes: Any) -> Any:
    return hw.service(name, list(views or (view(),)), **changes)


def plan_of(*parts: Any) -> Plan:
    return compile_plan(parts or (service(),))


def known_of(registry: Registry, topic: PlansTopic, at_us: int = 1) -> Registered:
    """Return what is registered, brought into step with the topic as a command does it."""
    topic.read()
    step = in_step(registry.read(NAMESPACE), topic, at_us=at_us)
    step.write(registry, at_us=at_us)
    return step.found


def proposed(registry: Registry, topic: PlansTopic, plan: Plan) -> Proposal:
    return propose(known_of(registry, topic), plan)


def applied(
    registry: Registry, topic: PlansTopic, plan: Plan, author: str = "ann", at_us: int = 1
) -> int:
    proposal = propose(known_of(registry, topic, at_us), plan)
    return apply(registry, topic, proposal, author=author, at_us=at_us)


def removed(registry: Registry, topic: PlansTopic, name: str, version: int) -> int:
    proposal = propose_removal(known_of(registry, topic), name, version)
    return apply(registry, topic, proposal, author="ann", at_us=9)
