"""What every log refuses, in the same words."""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING

from headwater.errors import ConfigError, NotFoundError, did_you_mean
from headwater_connectors.log.log import NoTopicError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence, Sized

    from headwater_connectors.log.log import Topic

__all__ = [
    "check_columns",
    "check_commit",
    "check_deletable",
    "check_new_topic",
    "check_offset",
    "check_partition",
    "check_payloads",
    "check_records_max",
    "check_same",
    "no_topic",
]

# Kafka's rule, so that a topic can move there.
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_BYTES_OR_NONE = {bytes, type(None)}


def check_new_topic(name: str, partitions: int) -> None:
    """Refuse a topic that Kafka would not make."""
    if _NAME.fullmatch(name) is None or name in {".", ".."}:
        msg = f'topic "{name}": a name is 1 to 249 of the characters a-z A-Z 0-9 . _ -'
        raise ConfigError(msg)
    if partitions < 1:
        msg = f'topic "{name}": {partitions} partitions; ask for at least one'
        raise ConfigError(msg)


def check_same(topic: Topic, partitions: int, *, append_time: bool) -> Topic:
    """Return an existing topic that is asked for again; ConfigError if the settings differ."""
    if (topic.partitions, topic.append_time) != (partitions, append_time):
        msg = (
            f'topic "{topic.name}" exists with partitions={topic.partitions},'
            f" append_time={topic.append_time}; asked for partitions={partitions},"
            f" append_time={append_time}: use its settings, another name, or delete it first"
        )
        raise ConfigError(msg)
    return topic


def no_topic(name: str, names: Iterable[str]) -> NoTopicError:
    """Return the error for a topic that isn't among these."""
    return NoTopicError(name, did_you_mean(name, names) or " Create it with create_topic.")


def check_partition(topic: Topic, partition: int) -> None:
    """Refuse a partition that the topic does not have."""
    if not 0 <= partition < topic.partitions:
        last = topic.partitions - 1
        msg = f'topic "{topic.name}" has no partition {partition}; it has 0 to {last}'
        raise NotFoundError(msg)


def check_offset(topic: Topic, partition: int, offset: int) -> None:
    """Refuse a position that can't be assigned."""
    check_partition(topic, partition)
    if offset < 0:
        msg = f"{topic.name}[{partition}]: offset {offset} is negative; offsets start at 0"
        raise ConfigError(msg)


def check_commit(topic: Topic, offsets: Mapping[int, int]) -> None:
    """Refuse next offsets that can't be committed."""
    for partition, offset in offsets.items():
        check_partition(topic, partition)
        if offset < 0:
            msg = f"{topic.name}[{partition}]: can't commit the negative offset {offset}"
            raise ConfigError(msg)


def check_deletable(topic: Topic, partition: int, before: int, end: int) -> None:
    """Refuse to delete records that were not written yet."""
    if before > end:
        msg = (
            f"{topic.name}[{partition}]: can't delete records before {before}:"
            f" the log ends at {end}; give at most that"
        )
        raise ConfigError(msg)


def check_records_max(records_max: int) -> None:
    """Refuse a poll for nothing."""
    if records_max < 1:
        msg = f"records_max is {records_max}: ask for at least one record"
        raise ValueError(msg)


def check_payloads(*columns: Iterable[bytes | None]) -> None:
    """Refuse values and keys that are neither bytes nor None."""
    if not (kinds := set(map(type, chain.from_iterable(columns)))) <= _BYTES_OR_NONE:
        others = ", ".join(sorted(kind.__name__ for kind in kinds - _BYTES_OR_NONE))
        msg = f"a record's value and key are bytes or None, not {others}"
        raise TypeError(msg)


def check_columns(values: Sequence[bytes | None], **columns: Sized | None) -> None:
    """Refuse columns that are not as long as the values."""
    for name, column in columns.items():
        if column is not None and len(column) != len(values):
            msg = f"{len(values)} values but {len(column)} {name}: give one for each value"
            raise ValueError(msg)
