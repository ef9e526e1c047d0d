"""Errors: what happened, where, and what to do about it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DefinitionError",
    "HeadwaterError",
    "NotFoundError",
    "StateError",
    "did_you_mean",
]


class HeadwaterError(Exception):
    """A failure a user can act on; its text is one line with the cause and the cure."""

    exit_code = 1


class DefinitionError(HeadwaterError, ValueError):
    """A definition that can't mean anything: refused where it is written."""

    exit_code = 2


class ConfigError(HeadwaterError):
    """A setting, a folder or a port that can't be used as configured."""

    exit_code = 78


class StateError(HeadwaterError):
    """State on disk that doesn't fit: another application, format or engine stamp."""

    exit_code = 78


class NotFoundError(HeadwaterError, LookupError):
    """A feature, view, entity or service that isn't registered here."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return a hint naming the closest option, or an empty string."""
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    return f' Did you mean "{close[0]}"?' if close else ""
