"""What can go wrong in an archive."""

from __future__ import annotations

from headwater.errors import HeadwaterError

__all__ = [
    "AlreadyExistsError",
    "ArchiveConflictError",
    "ArchiveError",
    "MissingBlobError",
    "StoreUnavailableError",
]


class ArchiveError(HeadwaterError):
    """An archive that can't be read or written as it is."""

    exit_code = 78


class ArchiveConflictError(ArchiveError):
    """Another writer has extended the partition: go on from the archive's position."""


class AlreadyExistsError(ArchiveError):
    """A blob that was to be created is there already."""


class MissingBlobError(ArchiveError, LookupError):
    """A blob that is not there."""


class StoreUnavailableError(ArchiveError):
    """A store that fails or doesn't answer in time: what was asked may have happened or not."""

    exit_code = 1
