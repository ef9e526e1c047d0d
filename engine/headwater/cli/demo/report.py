"""The closing table of the demo, for people and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from headwater.cli.demo.act_two import ActTwo
    from headwater.cli.demo.place import Outage
    from headwater.cli.demo.run import Figures

__all__ = ["VALUES_MIN", "closing_figures", "closing_table", "complaint"]

VALUES_MIN = 1_000_000


def closing_figures(found: Figures) -> dict[str, object]:
    """Return the figures that `--json` prints."""
    act_two = found.act_two
    figures: dict[str, object] = {
        "events_per_s": round(found.events_per_s, 1),
        "vectors_per_s": round(found.vectors_per_s, 1),
        "values_compared": found.values_compared,
        "differences": found.differences,
        "auc": round(found.auc, 4),
        "seconds": round(found.seconds, 1),
        "act_two": {
            "loaded_events": act_two.loaded_events,
            "loaded_s": round(act_two.loaded_s, 1),
            "compared": act_two.versions.compared,
            "differing": act_two.versions.differing,
            "revision_changed": act_two.revision_changed,
        },
        "audited": found.audited.vectors,
        "audited_values": found.audited.compared,
        "audit_differences": found.audited.differing,
    }
    if found.outage is not None:
        figures |= {
            "killed": found.outage.worker,
            "killed_after_events": found.outage.after_events,
            "taken_over_s": round(found.outage.taken_over_s, 1),
            "back_s": round(found.outage.back_s, 1),
            "stale_vectors": found.stale,
        }
    return figures


def closing_table(found: Figures) -> Table:
    """Return the closing table."""
    table = Table(title="Headwater: one definition, online and offline", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("")
    through = "through every view" if found.outage is None else "through every view, with an outage"
    audited = found.audited
    rows = [
        ("events/s", f"{found.events_per_s:,.0f}", f"{found.events:,} {through}"),
        ("vectors/s", f"{found.vectors_per_s:,.0f}", f"{found.vectors:,} over gRPC, settled"),
        ("fetched in between", f"{found.in_between:,}", "recomputed at their own offsets"),
        ("values compared", f"{found.values_compared:,}", "online with offline, bit for bit"),
        ("differences", f"{found.differences:,}", found.first_difference or "none"),
        ("audited", f"{audited.vectors:,}", f"vectors served, {audited.differing:,} values differ"),
        ("model AUC", f"{found.auc:.3f}", f"{found.predictions:,} equal predictions"),
        ("seconds", f"{found.seconds:.1f}", "from nothing to here"),
    ]
    rows += _act_two_rows(found.act_two)
    if found.outage is not None:
        rows += _outage_rows(found.outage, found.stale)
    for row in rows:
        table.add_row(*row)
    return table


def _act_two_rows(act_two: ActTwo) -> list[tuple[str, str, str]]:
    versions = act_two.versions
    built = f"built beside 1 from {act_two.loaded_events:,} events; {act_two.events:,} came then"
    return [
        ("version 2", f"{act_two.loaded_s:.1f} s", built),
        ("1 and 2 differ", f"{versions.differing:,}", f"of {versions.compared:,}; {versions.why}"),
        ("cut over", "yes" if act_two.revision_changed else "no", "for a client that was there"),
    ]


def _outage_rows(outage: Outage, stale: int) -> list[tuple[str, str, str]]:
    return [
        ("killed (kill -9)", outage.worker, f"with {outage.after_events:,} events read"),
        ("taken over", f"{outage.taken_over_s:.1f} s", "until its tasks ran elsewhere, caught up"),
        ("back", f"{outage.back_s:.1f} s", "from its new start until it had its share"),
        ("stale vectors", f"{stale:,}", "said so themselves; left out or fetched again"),
    ]


def complaint(found: Figures, *, everything: bool) -> str:
    """Return why the demo has failed, or an empty string."""
    if found.differences:
        return f"{found.differences} values differ, the first at {found.first_difference}"
    audited = found.audited
    if audited.differing:
        one = audited.differences[0]
        return (
            f"the audit found {audited.differing} differences, e.g. {one.feature} of {one.entity}"
        )
    if not audited.compared:
        return "nothing was audited"
    if not found.act_two.revision_changed:
        return "the service is still answered by version 1"
    if everything and found.values_compared < VALUES_MIN:
        return f"only {found.values_compared:,} values were compared, less than {VALUES_MIN:,}"
    return ""
