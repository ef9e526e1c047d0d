"""The closing table of the demo, for people and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from headwater.cli.demo.run import Figures

__all__ = ["VALUES_MIN", "closing_figures", "closing_table", "complaint"]

VALUES_MIN = 1_000_000


def closing_figures(found: Figures) -> dict[str, float]:
    """Return the figures that `--json` prints."""
    return {
        "events_per_s": round(found.events_per_s, 1),
        "vectors_per_s": round(found.vectors_per_s, 1),
        "values_compared": found.values_compared,
        "differences": found.differences,
        "auc": round(found.auc, 4),
        "seconds": round(found.seconds, 1),
    }


def closing_table(found: Figures) -> Table:
    """Return the closing table."""
    table = Table(title="Headwater: one definition, online and offline", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("")
    rows = (
        ("events/s", f"{found.events_per_s:,.0f}", f"{found.events:,} through every view"),
        ("vectors/s", f"{found.vectors_per_s:,.0f}", f"{found.vectors:,} over gRPC, settled"),
        ("fetched in between", f"{found.in_between:,}", "recomputed at their own offsets"),
        ("values compared", f"{found.values_compared:,}", "online with offline, bit for bit"),
        ("differences", f"{found.differences:,}", found.first_difference or "none"),
        ("model AUC", f"{found.auc:.3f}", f"{found.predictions:,} equal predictions"),
        ("seconds", f"{found.seconds:.1f}", "from nothing to here"),
    )
    for row in rows:
        table.add_row(*row)
    return table


def complaint(found: Figures, *, everything: bool) -> str:
    """Return why the demo has failed, or an empty string."""
    if found.differences:
        return f"{found.differences} values differ, the first at {found.first_difference}"
    if everything and found.values_compared < VALUES_MIN:
        return f"only {found.values_compared:,} values were compared, less than {VALUES_MIN:,}"
    return ""
