"""The audit that closes the demo: samples of what was served, computed again from history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.offline.audit import Audit
from headwater.offline.audited_view import History

if TYPE_CHECKING:
    from headwater.cli.demo.place import Place
    from headwater.offline.audited_columns import Audited

__all__ = ["audit_samples"]


def audit_samples(place: Place) -> Audited:
    """Return what an audit finds, by the plans that were run, the newest first."""
    files = place.samples()
    blocks = [block for name in files.names(None, None) for block in files.read(name)]
    # Every plan reads the same streams.
    history = History.of(place.plans[-1], place.archive, place.log, place.starts, place.namespace)
    return Audit(reversed(place.plans), blocks, lambda _plan: history, place.starts).run()
