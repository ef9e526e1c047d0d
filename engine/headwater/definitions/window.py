"""Windows: how far back a feature looks and in which steps its left edge moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headwater.definitions.duration import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    SECOND_US,
    duration_us,
    format_duration,
)
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["HOP_LADDER_US", "LIFETIME", "Window", "window"]

LIFETIME = "lifetime"

# Each rung divides the next, so that tiles of one rung merge exactly into the next.
HOP_LADDER_US = (
    SECOND_US,
    5 * SECOND_US,
    10 * SECOND_US,
    30 * SECOND_US,
    MINUTE_US,
    5 * MINUTE_US,
    15 * MINUTE_US,
    30 * MINUTE_US,
    HOUR_US,
    3 * HOUR_US,
    6 * HOUR_US,
    12 * HOUR_US,
    DAY_US,
)
_HOPS_PER_WINDOW = 48


@dataclass(frozen=True, slots=True)
class Window:
    """A window `[floor((t - width) / hop) * hop, t)`.

    `hop_us` 0 is exact, `width_us` None a lifetime.
    """

    width_us: int | None
    hop_us: int
    name: str

    @property
    def exact(self) -> bool:
        """Whether the left edge is exactly `t - width`."""
        return self.width_us is not None and self.hop_us == 0

    def __str__(self) -> str:
        """Describe the window for a person."""
        if self.width_us is None:
            return LIFETIME
        step = "exact" if self.exact else f"hop {format_duration(self.hop_us)}"
        return f"{format_duration(self.width_us)} ({step})"


def window(
    width: str | timedelta,
    *,
    hop: str | timedelta | None = None,
    exact: bool = False,
    name: str | None = None,
) -> Window:
    """Return a window; `hop` defaults to the largest rung at most `width / 48`, at least 1s.

    `exact=True` moves the left edge with every microsecond and keeps the window's single events.
    Raises DefinitionError for a hop that is not a rung or is longer than the window.
    """
    if width == LIFETIME:
        if hop is not None or exact:
            msg = (
                'window "lifetime": has no left edge, so hop= and exact= mean nothing; leave them'
                " out"
            )
            raise DefinitionError(msg)
        return Window(None, 0, name or LIFETIME)
    width_us = duration_us(width, "window")
    label = name or (width.strip() if isinstance(width, str) else format_duration(width_us))
    if exact:
        if hop is not None:
            msg = f'window "{label}": exact=True has no hop; give one of the two'
            raise DefinitionError(msg)
        return Window(width_us, 0, label)
    return Window(width_us, _hop_us(width_us, hop, label), label)


def _hop_us(width_us: int, hop: str | timedelta | None, label: str) -> int:
    if hop is None:
        fitting = [rung for rung in HOP_LADDER_US if rung * _HOPS_PER_WINDOW <= width_us]
        hop_us = fitting[-1] if fitting else SECOND_US
    else:
        hop_us = duration_us(hop, f'window "{label}", hop')
    if hop_us not in HOP_LADDER_US:
        rungs = ", ".join(format_duration(rung) for rung in HOP_LADDER_US)
        msg = f'window "{label}": hop {format_duration(hop_us)} is not one of {rungs}'
        raise DefinitionError(msg)
    if hop_us > width_us:
        msg = (
            f'window "{label}": shorter than its hop of {format_duration(hop_us)};'
            " widen the window, choose a smaller hop, or write exact=True"
        )
        raise DefinitionError(msg)
    return hop_us
