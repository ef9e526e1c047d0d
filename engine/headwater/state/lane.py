"""Lanes: one source partition re-keyed by one entity; what is applied is told by lane."""

from __future__ import annotations

__all__ = ["lane_of", "parts_of"]


def lane_of(topic_id: str, binding: str, partition: int) -> str:
    """Return the name of a lane: source topic id, binding and source partition."""
    return f"{topic_id}|{binding}|{partition}"


def parts_of(lane: str) -> tuple[str, str, int]:
    """Return source topic id, binding and source partition of a lane."""
    topic_id, rest = lane.split("|", 1)
    binding, partition = rest.rsplit("|", 1)
    return topic_id, binding, int(partition)
