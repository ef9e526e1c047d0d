"""`headwater features`: find what there is by words, owner and tag."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from headwater.cli.output import write_json, write_table
from headwater.cli.place import PlaceFlags, clock_us
from headwater.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headwater.registry.records import Registered

__all__ = ["features", "registered"]


@dataclass(frozen=True, slots=True)
class _Row:
    feature: str
    source: str  # the view version, or the service that computes it on demand
    what: str
    entity: str
    owner: str
    tags: tuple[str, ...]
    services: tuple[str, ...]
    description: str

    def fits(self, words: tuple[str, ...], owner: str, tag: str) -> bool:
        """Whether every word is somewhere in it, and owner and tag are its own."""
        text = " ".join(
            (
                self.feature, self.source, self.what, self.entity, self.owner, *self.tags,
                *self.services, self.description,
            )
        ).casefold()  # fmt: skip
        return (
            all(word.casefold() in text for word in words)
            and owner.casefold() in self.owner.casefold()
            and (not tag or tag.casefold() in [one.casefold() for one in self.tags])
        )


def features(
    *words: str,
    owner: str = "",
    tag: str = "",
    json: bool = False,
    flags: Annotated[PlaceFlags | None, Parameter(name="*")] = None,
) -> int:
    """Find features by words in their names, views, owners, tags and descriptions.

    The exit code is 1 where nothing is found.

    Parameters
    ----------
    words
        Each of them must be there.
    owner
        Only those of this owner, or of one whose name has this in it.
    tag
        Only those with this tag.
    json
        Print one JSON document, for machines.
    """
    known = registered(flags or PlaceFlags())
    found = [row for row in _rows(known) if row.fits(words, owner, tag)]
    if json:
        write_json([asdict(row) for row in found])
    else:
        write_table(
            ["feature", "from", "what", "entity", "owner", "tags", "services"],
            [
                (
                    row.feature,
                    row.source,
                    row.what,
                    row.entity,
                    row.owner,
                    ", ".join(row.tags),
                    ", ".join(row.services),
                )
                for row in found
            ],
        )
    return 0 if found else 1


def registered(flags: PlaceFlags) -> Registered:
    """Return what is registered; where there is no registry, what the plans topic says.

    Raises NotFoundError where nothing was ever applied.
    """
    from headwater.registry.application import in_step

    config = flags.settings()
    namespace = flags.namespace_of(config)
    known = flags.registry(config).read(namespace)
    if known.revision == 0 and (flags.folder is None or flags.has_store):
        with flags.opened() as place:
            known = in_step(known, place.topic, at_us=clock_us()).found
    if known.revision == 0:
        where = f" in {flags.folder}" if flags.folder else ""
        msg = f'nothing is applied to namespace "{namespace}"{where}: headwater apply features.py'
        raise NotFoundError(msg)
    return known


def _rows(known: Registered) -> Iterator[_Row]:
    for view in known.active_views.values():
        users = known.users(view.id)
        for name, what in view.features.items():
            yield _Row(
                name, view.id, what, view.entity, view.owner, view.tags, users, view.description
            )
    for service in known.active_services.values():
        for name, what in service.features.items():
            yield _Row(
                name, service.name, what, "", service.owner, (), (service.name,),
                service.description,
            )  # fmt: skip
