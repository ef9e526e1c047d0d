"""Who may delete which blobs of the checkpoint store: every blob has one owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from headwater.errors import ConfigError, StateError
from headwater.flow.checkpoint_manifest import last_part

if TYPE_CHECKING:
    from collections.abc import Callable

    from headwater_connectors.archive.blobs import BlobStore

__all__ = ["Owner", "Owners"]

_WRITER_BYTES_MAX = 120  # with the rest of a file's name at most 255


@dataclass(slots=True)
class Owner:
    """A writer for as long as it shows itself, in one place; `shown_us` is when it last did."""

    name: str
    place: str
    shown_us: int


class Owners:
    """What this writer owns in each place, and how it shows others that it lives.

    It shows itself at least every half `grace_us`, or goes on as a new owner. So an owner that
    hasn't shown itself for `grace_us` writes nothing more, and anyone may delete what it left;
    writers' clocks and the store's must agree to a quarter of that.
    """

    def __init__(
        self,
        blobs: BlobStore,
        writer: str,
        grace_us: int,
        clock: Callable[[], int],
        epoch: Callable[[], str],
    ) -> None:
        self._writer = quote(writer, safe="")
        if not 0 < len(self._writer) <= _WRITER_BYTES_MAX:
            msg = (
                f'"{writer}" can\'t name who writes checkpoints: use a worker id of 1 to'
                f" {_WRITER_BYTES_MAX} letters"
            )
            raise ConfigError(msg)
        self._blobs = blobs
        self._grace_us = grace_us
        self._clock = clock
        self._epoch = epoch
        self._own: dict[str, Owner] = {}

    def begin(self, place: str) -> Owner:
        """Return the owner to write as; a new one, which is shown first, after a long pause."""
        owner = self._own.get(place)
        if owner is None or not self._lives(owner):
            owner = Owner(f"{self._writer}={self._epoch()}", place, self._clock())
            self._blobs.put(_marker(place, owner.name), b"")
            self._own[place] = owner
        return owner

    def renew(self, owner: Owner) -> None:
        """Check that nobody may have deleted its blobs, and see to it that nobody will soon.

        StateError after a pause that was too long.
        """
        now_us = self._clock()
        if not self._lives(owner):
            self._own.pop(owner.place, None)
            msg = (
                f"saving to {self._blobs.path(owner.place)} was held up for longer than"
                f" {self._grace_us // 2_000_000} s, and others may have removed its files; save"
                " again"
            )
            raise StateError(msg)
        if now_us - owner.shown_us > self._grace_us // 4:
            self._blobs.put(_marker(owner.place, owner.name), b"")
            owner.shown_us = now_us

    def shown(self, place: str) -> dict[str, int]:
        """Return the owners in a place, and when each last said that it lives, in µs."""
        return {last_part(i.name): i.modified_us for i in self._blobs.find(_marker(place, ""))}

    def may_delete(self, place: str, owner: str, shown_us: int) -> bool:
        """Whether this writer may delete an owner's blobs, if that was last shown then."""
        own = self._own.get(place)
        return (own is not None and own.name == owner) or self.is_gone(owner, shown_us)

    def is_gone(self, owner: str, shown_us: int) -> bool:
        """Whether an owner last shown then will never write again."""
        if any(owner == own.name for own in self._own.values()):
            return False
        return shown_us < self._clock() - self._grace_us

    def bury(self, place: str, owners: set[str]) -> None:
        """Forget owners that are gone and have left nothing."""
        self._blobs.delete([_marker(place, owner) for owner in sorted(owners)])

    def _lives(self, owner: Owner) -> bool:
        # A clock that went back doesn't say how long it really was.
        return 0 <= self._clock() - owner.shown_us <= self._grace_us // 2


def _marker(place: str, owner: str) -> str:
    return f"{place}/owners/{owner}"
