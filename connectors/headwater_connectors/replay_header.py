"""The header of a record that was sent again: for which namespace, and what it was before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from headwater_connectors.log.packed_column import PackedColumn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headwater_connectors.log.log import Headers

__all__ = ["REPLAY", "Origin", "elsewhere", "origin_of", "with_origin"]

REPLAY: Final = "__headwater.replay"
_BYTES = REPLAY.encode()


class Origin(NamedTuple):
    """A record, by the id of its topic, its partition and its offset."""

    topic_id: str
    partition: int
    offset: int


def with_origin(headers: Headers, namespace: str, origin: Origin) -> Headers:
    """Return headers for sending a record again: its own, and where it was."""
    own = tuple(pair for pair in headers if pair[0] != REPLAY)
    text = f"{namespace} {origin.topic_id} {origin.partition} {origin.offset}"
    return (*own, (REPLAY, text.encode()))


def origin_of(headers: Headers) -> tuple[str, Origin] | None:
    """Return (namespace, origin) of a record that was sent again; None for any other."""
    text = dict(headers).get(REPLAY)
    if text is None:
        return None
    try:
        namespace, topic_id, partition, offset = text.decode().split(" ")
        return namespace, Origin(topic_id, int(partition), int(offset))
    except ValueError:
        return None  # none of ours: somebody else's header of that name


def elsewhere(headers: Sequence[Headers], namespace: str) -> list[int]:
    """Return which records were sent again for another namespace than this one."""
    if isinstance(headers, PackedColumn):
        if _BYTES not in headers.lines():
            return []
    elif not any(headers):
        return []
    found = []
    for row, own in enumerate(headers):
        origin = origin_of(own) if own else None
        if origin is not None and origin[0] != namespace:
            found.append(row)
    return found
