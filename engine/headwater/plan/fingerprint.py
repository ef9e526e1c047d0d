"""Fingerprints: a short hash of what a view means, from our own canonical text of it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from headwater.definitions.dtype_text import dtype_text
from headwater.plan.canonical import canonical_steps

if TYPE_CHECKING:
    from collections.abc import Collection

    from headwater.definitions.on_demand import OnDemand
    from headwater.definitions.stream import Stream
    from headwater.definitions.view import View

__all__ = ["canonical_on_demand", "canonical_stream", "canonical_view", "fingerprint"]


def fingerprint(text: str) -> str:
    """Return 16 hex digits of the SHA-256 of a canonical text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def canonical_stream(stream: Stream, columns: Collection[str]) -> str:
    """Return a stream's canonical text as far as these columns go, event time and skew with them.

    The order in which a stream names its columns means nothing.
    """
    read = sorted({*columns, stream.event_time.column})
    typed = " ".join(f"({json.dumps(name)} {dtype_text(stream.schema[name])})" for name in read)
    unit = stream.event_time.unit or "datetime"
    return (
        f"(stream {stream.topic} (columns {typed}) (time {json.dumps(stream.event_time.column)}"
        f" {unit})"
        f" (format {stream.format.canonical(read)}) (skew {stream.skew_us}))"
    )


def canonical_view(view: View) -> str:
    """Return the canonical text of a view's logic: not its name, version, owner or description.

    Of its stream it names what the view reads, so that a stream may gain other columns.
    """
    features = view.features
    rows = features.rows
    stream = canonical_stream(rows.stream, {*features.on, *features.columns})
    windows = " ".join(f"({json.dumps(w.name)} {w.width_us} {w.hop_us})" for w in features.windows)
    outputs = " ".join(
        f"({json.dumps(f.name)} {f.aggregate.kind} {json.dumps(f.aggregate.column)}"
        f" {getattr(f.aggregate, 'ddof', '')} {json.dumps(f.window.name)} {dtype_text(f.dtype)})"
        for f in features.features
    )
    return (
        f"(view {stream} (steps {canonical_steps(rows.steps)})"
        f" (entity {features.entity.name} {' '.join(json.dumps(column) for column in features.on)})"
        f" (windows {windows}) (features {outputs}))"
    )


def canonical_on_demand(on_demand: OnDemand) -> str:
    """Return the canonical text of an on-demand function."""
    views = " ".join(fingerprint(canonical_view(view)) for view in on_demand.views)
    request = " ".join(f"({one.name} {dtype_text(one.dtype)})" for one in on_demand.request)
    return f"(on-demand (views {views}) (request {request}) {on_demand.captured.canonical})"
