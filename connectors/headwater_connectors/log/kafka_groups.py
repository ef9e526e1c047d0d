"""Consumer groups as Kafka describes them: who is in one, who owns what, and what is committed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headwater_connectors.log.kafka import KafkaLog

__all__ = [
    "Group",
    "GroupMember",
    "GroupState",
    "committed",
    "describe_group",
    "members",
    "topics_of",
]

GroupState = Literal["stable", "rebalancing", "empty"]

_STATES: Mapping[str, GroupState] = {
    "STABLE": "stable",
    "EMPTY": "empty",
    "DEAD": "empty",  # what Kafka calls a group that nobody has ever joined
}


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of a group: its names, and the partitions it owns, by topic and in order.

    `instance_id` is its `group.instance.id`, "" where it has none.
    """

    member_id: str
    client_id: str
    instance_id: str
    host: str
    partitions: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Group:
    """A group at one moment; one that was never joined is empty.

    While it is rebalancing Kafka may name no owners, although the members still work: keep what
    an earlier look found until the group is stable again.
    """

    name: str
    state: GroupState
    members: tuple[GroupMember, ...]


def describe_group(log: KafkaLog, group: str) -> Group:
    """Ask Kafka for a group; members come ordered by instance id, client id, member id."""
    found = log.cluster.describe_group(group)
    if found is None:
        return Group(group, "empty", ())
    described = sorted(
        (_member(each) for each in found.members),
        key=lambda member: (member.instance_id, member.client_id, member.member_id),
    )
    return Group(group, _STATES.get(found.state.name, "rebalancing"), tuple(described))


def members(log: KafkaLog, group: str) -> tuple[GroupMember, ...]:
    """Return the members of a group, none if nobody has joined it."""
    return describe_group(log, group).members


def committed(log: KafkaLog, group: str, topic: str) -> dict[int, int]:
    """Return a group's next offset in each partition it has committed.

    Offsets that were committed for an earlier topic of the same name don't count. NotFoundError
    if there is no such topic.
    """
    found = log.topic(topic)
    stored = log.cluster.committed(group, found)
    # Other tools, such as those that reset a group, leave no id.
    return {p: offset for p, (offset, id_) in stored.items() if id_ in {"", found.id}}


def topics_of(log: KafkaLog, group: str) -> tuple[str, ...]:
    """Return the topics that a group has committed offsets of, by name."""
    return log.cluster.committed_topics(group)


def _member(described: Any) -> GroupMember:  # noqa: ANN401 - the client has no types
    owned: dict[str, list[int]] = {}
    assignment = described.assignment
    for each in assignment.topic_partitions if assignment is not None else ():
        owned.setdefault(each.topic, []).append(each.partition)
    return GroupMember(
        member_id=described.member_id,
        client_id=described.client_id,
        instance_id=described.group_instance_id or "",
        host=described.host,
        partitions={topic: tuple(sorted(owned[topic])) for topic in sorted(owned)},
    )
