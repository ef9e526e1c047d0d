"""Feature views: a named, versioned, owned set of features of one entity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.definitions.features import Features
from headwater.definitions.name import checked_name
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["View", "view"]


@dataclass(frozen=True, slots=True)
class View:
    """A feature view; the version pins its logic, the rest may change freely."""

    name: str
    features: Features
    version: int = 1
    owner: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The name of this version, and of its state."""
        return f"{self.name}@{self.version}"

    def __str__(self) -> str:
        """Name the view and its version."""
        return f"{self.name} v{self.version}"


def view(
    name: str,
    *,
    features: Features,
    version: int = 1,
    owner: str = "",
    description: str = "",
    tags: Sequence[str] = (),
) -> View:
    """Return a feature view; raise DefinitionError if its parts don't fit."""
    checked_name(name, "view")
    if not isinstance(features, Features):
        msg = f'view "{name}": features= must end in .agg(...), got {type(features).__name__}'
        raise DefinitionError(msg)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        msg = f'view "{name}": version {version!r} must be a whole number from 1 up'
        raise DefinitionError(msg)
    return View(name, features, version, owner, description, tuple(tags))
