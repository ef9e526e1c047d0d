"""Stream reset: let a stream go on after its topic was made again, or lost offsets to retention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.errors import HeadwaterError, StateError
from headwater.flow.starts import Start
from headwater_connectors.log.log import NoTopicError, OffsetLostError, TopicGoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from headwater.flow.plans_topic import PlansTopic
    from headwater_connectors.log.log import Log

__all__ = ["StreamReset", "plan_reset", "with_cure"]

_DELETED = "was deleted; make it again"


@dataclass(frozen=True, slots=True)
class StreamReset:
    """What a reset does: nothing, where there is no cause for one.

    `lost` has the offsets [from, to) of each partition that were never read and are gone.
    """

    stream: str
    old_topic_id: str
    start: Start
    lost: dict[int, tuple[int, int]]

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to reset."""
        return bool(self.lost) or self.start.topic_id != self.old_topic_id

    def sentences(self) -> list[str]:
        """Say in plain words what will be."""
        if not self.is_needed:
            return [f'stream "{self.stream}" goes on where it is: there is nothing to reset']
        said = []
        if self.start.topic_id != self.old_topic_id:
            said.append(
                f'topic "{self.stream}" was made again (id {self.old_topic_id} is now'
                f" {self.start.topic_id}): it is read from its first offsets"
                f" {_listed(self.start.positions)}"
            )
            said.append("events of the old topic stay in the features and in the archive")
        said += [
            f"partition {partition}: offsets {first} to {end - 1} were never read and are gone;"
            f" reading goes on at {end}"
            for partition, (first, end) in self.lost.items()
        ]
        said.append("windows that begin before this moment say WARMING from now on")
        return said

    def apply(self, plans: PlansTopic) -> None:
        """Write the new start down; workers that start from now on go by it."""
        if not plans.restart(self.stream, self.start):
            msg = (
                f'stream "{self.stream}" was reset by somebody else at the same time; look again'
                " with headwater stream reset"
            )
            raise HeadwaterError(msg)


def with_cure(error: BaseException, streams: Container[str]) -> BaseException:
    """Return an error of the log; where a reset of a stream heals it, one that says so.

    `streams` are those that were begun: a topic that isn't there was deleted since.
    """
    if isinstance(error, NoTopicError) and error.topic in streams:
        told = f'topic "{error.topic}" {_DELETED}; to go on with the new one'
    elif isinstance(error, TopicGoneError) and error.topic in streams:
        what = (
            _DELETED
            if error.new_topic_id is None
            else f"was deleted and made again (id {error.topic_id} is now {error.new_topic_id}):"
            " its offsets start anew"
        )
        told = f'topic "{error.topic}" {what}; to go on with the new one'
    elif (
        isinstance(error, OffsetLostError) and error.topic in streams and error.offset < error.start
    ):
        told = (
            f"{error.topic}[{error.partition}]: offsets {error.offset} to {error.start - 1} were"
            " deleted (by the topic's retention?) before they were read; to go on without them"
        )
    else:
        return error
    return StateError(f"{told} run headwater stream reset {error.topic}")


def plan_reset(
    log: Log, plans: PlansTopic, namespace: str, stream: str, clock: Callable[[], int]
) -> StreamReset:
    """Find out what a stream has lost; nothing is changed.

    Raises NotFoundError where there is no such topic, HeadwaterError for a stream that was never
    begun.
    """
    topic = log.topic(stream)
    known = plans.starts.get(stream)
    if known is None:
        begun = ", ".join(sorted(plans.starts)) or "none"
        msg = f'stream "{stream}" was never begun in namespace "{namespace}" (begun: {begun})'
        raise HeadwaterError(msg)
    first = log.start_offsets(stream)
    lost: dict[int, tuple[int, int]] = {}
    if topic.id == known.start.topic_id:
        consumer = log.consumer(f"{namespace}.ingest")
        try:
            committed = consumer.committed(stream)
        finally:
            consumer.close()
        for partition, oldest in enumerate(first):
            wanted = max(committed.get(partition, 0), known.start.position(partition))
            if wanted < oldest:
                lost[partition] = (wanted, oldest)
    positions = {
        p: max(offset, _before(known.start, topic.id, p)) for p, offset in enumerate(first)
    }
    start = Start(topic.id, positions, max(known.start.complete_from_us, clock()))
    return StreamReset(stream, known.start.topic_id, start, lost)


def _before(start: Start, topic_id: str, partition: int) -> int:
    """Return where a partition of the same topic began: a reset never brings back what is older."""
    return start.position(partition) if start.topic_id == topic_id else 0


def _listed(positions: dict[int, int]) -> str:
    return ", ".join(f"{offset} (partition {p})" for p, offset in sorted(positions.items()))
