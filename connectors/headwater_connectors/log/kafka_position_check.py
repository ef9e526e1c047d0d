"""A look at where the positions of a consumer lie in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import KafkaException

from headwater_connectors.log.kafka_cluster import EARLIEST, LATEST, id_text, is_offset
from headwater_connectors.log.kafka_errors import KafkaFailureError
from headwater_connectors.log.log import OffsetLostError, TopicGoneError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater_connectors.log.kafka_cluster import KafkaCluster
    from headwater_connectors.log.log import Topic

__all__ = ["PositionCheck", "check_positions"]

_Key = tuple[str, int]  # topic name, partition
_Offsets = dict[str, dict[int, int]]  # by topic and partition


def check_positions(
    cluster: KafkaCluster, topics: Mapping[str, Topic], positions: Mapping[_Key, int]
) -> dict[_Key, int]:
    """Return how far each position is from the log's end; see PositionCheck for the errors.

    Waits for the answers; KafkaUnreachableError if none come in time.
    """
    names = {name for name, _ in positions}
    _check_ids(cluster, topics, names)
    starts: _Offsets = {}
    ends: _Offsets = {}
    for name in names:
        partitions = [partition for other, partition in positions if other == name]
        try:
            starts[name] = cluster.offsets(name, partitions, EARLIEST)
            ends[name] = cluster.offsets(name, partitions, LATEST)
        except KafkaFailureError:
            # It may have been deleted since we looked.
            _check_ids(cluster, topics, names)
            raise
    _check_bounds(positions, positions, starts, ends)
    return {(name, p): ends[name][p] - at for (name, p), at in positions.items()}


class PositionCheck:
    """The same look without waiting: ask, go on polling, judge when the answers are in."""

    def __init__(
        self, cluster: KafkaCluster, topics: Mapping[str, Topic], positions: Mapping[_Key, int]
    ) -> None:
        """Ask for the topics' ids and the partitions' starts and ends."""
        self._cluster = cluster
        self._topics = {name: topics[name] for name, _ in positions}
        self._asked = dict(positions)
        self._ids = cluster.describing(list(self._topics))
        self._starts = cluster.listing(self._asked, EARLIEST)
        self._ends = cluster.listing(self._asked, LATEST)

    def is_done(self) -> bool:
        """Tell whether every answer is in."""
        answers = (self._ids, self._starts, self._ends)
        return all(future.done() for futures in answers for future in futures.values())

    def judge(self, positions: Mapping[_Key, int]) -> bool:
        """Raise TopicGoneError or OffsetLostError; return False if an answer is missing.

        `positions` are those of now: they went on since we asked.
        """
        for name, future in self._ids.items():
            try:
                now = future.result()
            except KafkaException as error:
                if not self._cluster.is_unknown(error):
                    return False
                now = None
            topic, now_id = self._topics[name], None if now is None else id_text(now.topic_id)
            if now_id != topic.id:
                raise TopicGoneError(name, topic.id, now_id)
        starts: _Offsets = {}
        ends: _Offsets = {}
        for futures, offsets in ((self._starts, starts), (self._ends, ends)):
            for (name, partition), future in futures.items():
                try:
                    found = future.result().offset
                except KafkaException:
                    return False
                if not is_offset(found):
                    return False
                offsets.setdefault(name, {})[partition] = found
        _check_bounds(positions, self._asked, starts, ends)
        return True


def _check_ids(cluster: KafkaCluster, topics: Mapping[str, Topic], names: set[str]) -> None:
    found = cluster.find(sorted(names))
    for name in names:
        now = found.get(name)
        if now is None or now.id != topics[name].id:
            raise TopicGoneError(name, topics[name].id, None if now is None else now.id)


def _check_bounds(
    positions: Mapping[_Key, int], asked: Mapping[_Key, int], starts: _Offsets, ends: _Offsets
) -> None:
    """Raise for a position below the start; or above the end, if it was so when we asked."""
    for (name, partition), at_ask in asked.items():
        position = positions.get((name, partition), at_ask)
        start, end = starts[name][partition], ends[name][partition]
        if position < start or at_ask > end:
            raise OffsetLostError(name, partition, position, start, end)
