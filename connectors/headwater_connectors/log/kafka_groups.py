"""Consumer groups as Kafka describes them: who is in one, who owns what, and what is committed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from headwater_connectors.log.kafka import KafkaLog

__all__ = [
    "Group",
    "GroupMember",
    "GroupState",
    "committed",
    "describe_group",
    "members",
    "owners_of",
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


def owners_of(log: KafkaLog, group: str, topic: str) -> dict[int, str] | None:
    """Return the client id of the member that owns each partition of a topic.

    None while the group is handing them out, or nobody is in it. Meant to be asked again and
    again, by a process that must go on whatever becomes of the broker.
    """
    if log.cluster.config.get("group.protocol") == "consumer":
        found = describe_group(log, group)
        named = [(each.client_id, each.partitions.get(topic, ())) for each in found.members]
        return _owners(named) if found.state == "stable" else None
    listed = log.cluster.list_group(group)
    if listed is None or listed.state != "Stable":
        return None
    return _owners([(each.client_id, _assigned(each.assignment, topic)) for each in listed.members])


def _owners(named: Iterable[tuple[str, Iterable[int]]]) -> dict[int, str]:
    return {partition: name for name, partitions in named for partition in partitions}


def _assigned(assignment: bytes, topic: str) -> list[int]:
    """Return the partitions of a topic in a member's assignment, as Kafka's clients encode it."""
    found: list[int] = []
    if not assignment:
        return found
    (topics,), at = struct.unpack_from(">i", assignment, 2), 6
    for _ in range(topics):
        (length,), at = struct.unpack_from(">h", assignment, at), at + 2
        name, at = assignment[at : at + length].decode(), at + length
        (count,), at = struct.unpack_from(">i", assignment, at), at + 4
        if name == topic:
            found += struct.unpack_from(f">{count}i", assignment, at)
        at += 4 * count
    return found


def committed(log: KafkaLog, group: str, topic: str) -> dict[int, int]:
    """Return a group's next offset in each partition it has committed.

    Offsets that were committed for an earlier topic of the same name don't count. NotFoundError
    if there is no such topic.
    """
    return log.cluster.committed(group, log.topic(topic))


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
