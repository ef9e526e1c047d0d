"""Care of the archive: now and then its small files are merged, and what is old is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.definitions.duration import DAY_US, HOUR_US, MINUTE_US
from headwater.logs import get_logger
from headwater_connectors.archive.compaction import Sizes, compact
from headwater_connectors.archive.errors import ArchiveConflictError, ArchiveError
from headwater_connectors.archive.retention import retain

if TYPE_CHECKING:
    from headwater.config import ArchiveConfig
    from headwater_connectors.archive.archive import Archive

__all__ = ["ArchiveCare", "CareSettings"]

_log = get_logger(__name__)

_EVERY_US = HOUR_US
# While there is more to merge.
_AGAIN_US = MINUTE_US
# What a visit may merge: a second or two of CPU.
_STEP_BYTES = 64 << 20
_FEW = 8


@dataclass(frozen=True, slots=True)
class CareSettings:
    """How large files become, and how long they are kept; `keep_us` None is for ever."""

    file_bytes: int = 128 << 20
    file_rows: int = 4_000_000
    keep_us: int | None = None
    grace_us: int = DAY_US

    @classmethod
    def of(cls, given: ArchiveConfig) -> CareSettings:
        """Return what the configuration says."""
        return cls(
            file_bytes=given.file_bytes,
            file_rows=given.file_rows,
            keep_us=given.keep_days * DAY_US or None,
            grace_us=given.grace_hours * HOUR_US,
        )


class ArchiveCare:
    """Visits the partitions that are here, one at a time; what fails is tried again later."""

    def __init__(self, archive: Archive, topic: str, topic_id: str, settings: CareSettings) -> None:
        self._archive = archive
        self._of = (topic, topic_id)
        self._settings = settings
        self._sizes = Sizes(settings.file_bytes, settings.file_rows, _STEP_BYTES, _FEW)
        self._due_us: dict[int, int] = {}

    def forget(self, partition: int) -> None:
        """Leave a partition to others."""
        self._due_us.pop(partition, None)

    def visit(self, partitions: list[int], now_us: int) -> int | None:
        """Visit at most one partition that is due; return which, None if none is."""
        for partition in partitions:
            # A clock that went back doesn't put a visit off for longer.
            due_us = self._due_us.get(partition, now_us + _AGAIN_US)
            self._due_us[partition] = min(due_us, now_us + _EVERY_US)
        due = [partition for partition in partitions if self._due_us[partition] <= now_us]
        if not due:
            return None
        partition = min(due, key=lambda one: self._due_us[one])
        self._due_us[partition] = now_us + _EVERY_US
        try:
            is_done = self._tend(partition, now_us)
        except ArchiveConflictError as error:
            _log.info("archive_tended_elsewhere", partition=partition, reason=str(error))
        except ArchiveError as error:
            # Events go on being archived; `headwater archive verify` says what is wrong.
            _log.warning("archive_not_tended", partition=partition, reason=str(error))
        else:
            if not is_done:
                self._due_us[partition] = now_us + _AGAIN_US
        return partition

    def _tend(self, partition: int, now_us: int) -> bool:
        given = self._settings
        merged = compact(self._archive, *self._of, partition, now_us=now_us, sizes=self._sizes)
        retained = retain(
            self._archive,
            *self._of,
            partition,
            before_us=None if given.keep_us is None else now_us - given.keep_us,
            grace_us=given.grace_us,
            now_us=now_us,
        )
        if merged or retained.dropped_files or retained.deleted_files:
            _log.info(
                "archive_tended",
                topic=self._of[0],
                partition=partition,
                merged=merged.files_before if merged else 0,
                dropped=retained.dropped_files,
                deleted=retained.deleted_files,
                begin=retained.begin,
            )
        return merged is None or merged.is_done
