"""The end of a source: asked for now and then, so that progress can say who has reached it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater_connectors.log.log import LogUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from headwater_connectors.log.log import Log

__all__ = ["SourceEnd"]


class SourceEnd:
    """Which partitions have been read up to where their topic ended, asked every `every_us`.

    `boot_clock` runs while the process is stopped: an answer from before a pause is not passed off
    as a fresh one.
    """

    def __init__(
        self, log: Log, topic: str, boot_clock: Callable[[], int], *, every_us: int
    ) -> None:
        self._log = log
        self._topic = topic
        self._boot_clock = boot_clock
        self.every_us = every_us
        # Partition → when the end was asked for, and what it was; until it is reached.
        self._asked: dict[int, tuple[int, int]] = {}

    def ask(self, partitions: Mapping[int, int]) -> None:
        """Ask where the partitions end, but for those whose last known end isn't reached yet.

        Without an answer nothing changes: where it can't be asked nobody is known to be at the end.
        """
        wanted = partitions.keys() - self._asked.keys()
        if not wanted:
            return
        asked_us = self._boot_clock()
        try:
            ends = self._log.end_offsets(self._topic)
        except LogUnreachableError:
            return
        self._asked.update({p: (asked_us, ends[p]) for p in wanted if p < len(ends)})

    def reached(self, positions: Mapping[int, int]) -> Iterator[tuple[int, int]]:
        """Yield (partition, µs since it was asked) of those that have reached their end, once."""
        for partition, (asked_us, end) in list(self._asked.items()):
            if positions.get(partition, -1) >= end:
                del self._asked[partition]
                yield partition, self._boot_clock() - asked_us

    def drop(self, partition: int) -> None:
        """Forget a partition that was given up."""
        self._asked.pop(partition, None)
