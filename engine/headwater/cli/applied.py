"""What is applied to a namespace, to run where no file of definitions is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.errors import NotFoundError
from headwater.flow.plans_topic import PlansTopic

if TYPE_CHECKING:
    from headwater.plan.plan import Plan
    from headwater_connectors.log.log import Log

__all__ = ["applied_plan"]


def applied_plan(log: Log, namespace: str) -> tuple[int, Plan]:
    """Return the plan that counts, and its number.

    Raises NotFoundError where there is none, or an empty one.
    """
    topic = PlansTopic(log, namespace)
    plan = topic.plan()
    if plan is None or not plan.views:
        msg = (
            f'nothing is applied to namespace "{namespace}": apply definitions with headwater'
            " apply features.py, or give the file to run"
        )
        raise NotFoundError(msg)
    return topic.number, plan
