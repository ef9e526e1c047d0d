"""The end of a source: asked for now and then, so that progress can say who has reached it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater_connectors.log.log import LogUnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from headwater_connectors.log.log import Log

__all__ = ["SourceEnd"]


class SourceEnd:
    """Which partitions have been read up to where their topic ended, asked every `every_us`.

    What is known is from after the exchange had ended somewhere, which is asked for first. That
    stays true however late it is said: no clock is needed, of a process that may stand still or of
    a record that may be on its way for long.
    """

    def __init__(self, log: Log, topic: str, exchange: str, *, every_us: int) -> None:
        self._log = log
        self._topic = topic
        self._exchange = exchange
        self.every_us = every_us
        # Partition → the exchange's ends, and the partition's own after that; until it is reached.
        self._asked: dict[int, tuple[list[int], int]] = {}

    def ask(self, partitions: Mapping[int, int]) -> None:
        """Ask where the partitions end, but for those whose last known end isn't reached yet.

        Without an answer nothing changes: where it can't be asked nobody is known to be at the end.
        """
        wanted = partitions.keys() - self._asked.keys()
        if not wanted:
            return
        try:
            after = self._log.end_offsets(self._exchange)
            ends = self._log.end_offsets(self._topic)
        except LogUnreachableError:
            return
        self._asked.update({p: (after, ends[p]) for p in wanted if p < len(ends)})

    def reached(self, positions: Mapping[int, int]) -> Iterator[tuple[int, Sequence[int]]]:
        """Yield (partition, exchange ends before that) of those that have reached it, once."""
        for partition, (after, end) in list(self._asked.items()):
            if positions.get(partition, -1) >= end:
                del self._asked[partition]
                yield partition, after

    def drop(self, partition: int) -> None:
        """Forget a partition that was given up."""
        self._asked.pop(partition, None)
