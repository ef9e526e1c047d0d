"""Orphans: partitions that a group has given to nobody, and how they get an owner.

A partition moves in two rounds: in the first the group takes it from one member, who then asks for
a second one that gives it to another. A member that is killed in between, and comes back as the
static member that it was, is given what it had, and asks for nothing: the group is stable, and the
partition is nobody's for good. Whoever joins makes a group hand out everything anew; so does one
who only wants another topic, and leaves at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from headwater.logs import get_logger
from headwater_connectors.log.kafka_groups import owners_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headwater_connectors.log.kafka import KafkaLog

__all__ = ["Orphans"]

_log = get_logger(__name__)

# A member that gives partitions up writes them out first; the second round comes after that.
_PATIENCE_S = 5.0
_JOIN_S = 15.0
_POLL_S = 0.2


class Orphans:
    """Looks for orphans of groups, and gets them an owner.

    `bystander` is a topic that nobody in these groups reads; `is_stopped` ends a wait.
    """

    def __init__(
        self,
        log: KafkaLog,
        bystander: str,
        *,
        is_stopped: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._bystander = bystander
        self._is_stopped = is_stopped
        self._clock = clock
        self._since: dict[tuple[str, str], float] = {}

    def look(self, watched: Sequence[tuple[str, str]]) -> None:
        """Look at every (group, topic) once; raises LogUnreachableError, which changes nothing."""
        for group, topic in watched:
            owners = owners_of(self._log, group, topic)
            now, key = self._clock(), (group, topic)
            if owners is None or len(owners) >= self._log.topic(topic).partitions:
                self._since.pop(key, None)
            elif now - self._since.setdefault(key, now) >= _PATIENCE_S:
                _log.warning("orphans", group=group, topic=topic, owned=sorted(owners))
                del self._since[key]
                self._disturb(group)

    def _disturb(self, group: str) -> None:
        """Join a group, and leave it when it has handed everything out."""
        given: list[int] = []

        def assigned(partitions: list[int]) -> dict[int, int]:
            given.extend(partitions)
            return dict.fromkeys(partitions, 0)

        def revoked(partitions: list[int], *, lost: bool) -> None:  # noqa: ARG001 - as it is called
            given.clear()

        consumer = self._log.consumer(group, config={"client.id": "headwater-bystander"})
        try:
            consumer.subscribe(self._bystander, assigned, revoked)
            until = self._clock() + _JOIN_S
            while not (given or self._is_stopped()) and self._clock() < until:
                consumer.poll(1, _POLL_S)
        finally:
            consumer.close()
