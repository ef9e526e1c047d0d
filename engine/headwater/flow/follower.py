"""The follower: what is applied while a worker runs reaches it without a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.errors import HeadwaterError, StateError
from headwater.flow.plans_topic import PlansTopic
from headwater.flow.running import Running
from headwater.logs import get_logger
from headwater_connectors.log.log import LogUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwater.flow.metrics import Metrics
    from headwater.flow.running import CurrentPlan
    from headwater.plan.plan import Plan
    from headwater_connectors.log.log import Log

__all__ = ["Follower", "check_same_logic"]

_log = get_logger(__name__)


class Follower:
    """Looks at the plans topic now and then, and offers a worker each plan that it can run.

    `prepare` does what must be done before a plan is offered, and refuses it with HeadwaterError;
    it may succeed when it is asked again. Whatever the topic says, a worker goes on with the plan
    that it has: `refused` says why, and so do a metric and the log.
    """

    def __init__(
        self,
        log: Log,
        namespace: str,
        current: CurrentPlan,
        metrics: Metrics,
        *,
        prepare: Callable[[PlansTopic, Plan], None],
        offer: Callable[[Running], None],
    ) -> None:
        self._log = log
        self._namespace = namespace
        self._current = current
        self._metrics = metrics
        self._prepare = prepare
        self._offer = offer
        self._topic: PlansTopic | None = None
        self._wanted = current.now
        self._offered = current.now
        self._unreadable: tuple[int, HeadwaterError] | None = None
        self.refused = ""
        metrics.plan_number.set(current.now.number)

    def look(self) -> None:
        """Look once; what can't be run, or asked for, is looked at again the next time."""
        try:
            self._look()
        except LogUnreachableError as error:
            # Nothing is wrong with the plan: whoever needs the log says that it is gone.
            _log.debug("plans_not_read", reason=str(error))
        except HeadwaterError as error:
            self._refuse(str(error))
        else:
            self._refuse("")
        self._metrics.plan_number.set(self._current.now.number)

    def _look(self) -> None:
        if self._topic is None:
            self._topic = PlansTopic(self._log, self._namespace)
        self._topic.read()
        if self._topic.number > self._wanted.number:
            self._wanted = self._read(self._topic)
        if self._wanted is not self._offered:
            # What was offered before may not be adopted yet.
            for before in (self._current.plan, self._offered.plan):
                check_same_logic(before, self._wanted.plan)
            self._prepare(self._topic, self._wanted.plan)
            self._offer(self._wanted)
            self._offered = self._wanted

    def _read(self, topic: PlansTopic) -> Running:
        """Compile the plan that counts; one that can't be is not tried twice."""
        if self._unreadable is not None and self._unreadable[0] == topic.number:
            raise self._unreadable[1]
        try:
            plan = topic.plan()
            assert plan is not None
            return Running.of(plan, topic.number)
        except HeadwaterError as error:
            self._unreadable = (topic.number, error)
            raise

    def _refuse(self, reason: str) -> None:
        if reason and reason != self.refused:
            _log.warning("plan_refused", running=self._current.now.number, reason=reason)
        self.refused = reason
        self._metrics.plan_refused.set(bool(reason))


def check_same_logic(before: Plan, after: Plan) -> None:
    """Raise StateError for a view version that means something else than what there is state of."""
    for view_id, view in after.views.items():
        known = before.views.get(view_id)
        if known is not None and known.fingerprint != view.fingerprint:
            msg = (
                f'view "{view.view.name}" version {view.view.version} of the applied plan has other'
                f" logic than the one that runs; give it version={view.view.version + 1}"
            )
            raise StateError(msg)
