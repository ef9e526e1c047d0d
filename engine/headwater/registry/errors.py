"""What can go wrong with the registry."""

from __future__ import annotations

from headwater.errors import HeadwaterError

__all__ = ["ConflictError", "RegistryUnreachableError"]


class ConflictError(HeadwaterError):
    """Somebody else applied at the same time, and was first."""


class RegistryUnreachableError(HeadwaterError):
    """The database is locked or doesn't answer now; the same call may go through later."""
