"""Which rows of a partition are without a column, as its manifests tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from headwater_connectors.archive.chain import Chain
    from headwater_connectors.archive.manifest import Link, Manifest

__all__ = ["lacked_after", "lacked_until"]


def lacked_until(chain: Chain, manifest: Manifest) -> dict[str, int]:
    """Return the last offsets without a column, up to and with a manifest."""
    if manifest.lacked is not None:
        return manifest.lacked
    links = chain.up_to(manifest.number, chain.generations.newest())
    return _lacked_by(link.manifest for link in links)


def lacked_after(
    chain: Chain,
    tail: Link | None,
    columns: Mapping[str, str],
    types: Mapping[str, str],
    to_offset: int,
) -> dict[str, int]:
    """Return the last offsets without a column after rows with the columns `types` were added."""
    if tail is None:
        return {}
    before = tail.manifest
    found = dict(lacked_until(chain, before))
    if before.rows_total:
        found |= dict.fromkeys(columns.keys() - before.columns.keys(), before.to_offset)
    if types:
        found |= dict.fromkeys(before.columns.keys() - types.keys(), to_offset)
    return dict(sorted(found.items()))


def _lacked_by(manifests: Iterable[Manifest]) -> dict[str, int]:
    """Return `lacked` of a partition's manifests that were written before there was such a thing.

    A manifest has the columns of all before it, so one that has more than that tells of new ones.
    """
    found: dict[str, int] = {}
    before = None
    for manifest in manifests:
        if before:
            new = manifest.columns.keys() - before.columns.keys()
            found |= dict.fromkeys(new, before.to_offset)
        before = manifest
    return found
