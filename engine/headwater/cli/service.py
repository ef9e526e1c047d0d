"""`headwater service history | roll-back`: what a service was, and the way back to it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from headwater.cli.apply import agree_and_apply, registered_at
from headwater.cli.output import when_text, write_json, write_table
from headwater.cli.place import PlaceFlags
from headwater.errors import NotFoundError, did_you_mean

if TYPE_CHECKING:
    from headwater.registry.records import ServiceRecord
    from headwater.registry.registry import Registry

__all__ = ["history", "roll_back", "service"]

service = App(
    name="service", default_parameter=Parameter(negative=()), result_action="return_value"
)


@service.command
def history(
    name: str,
    /,
    *,
    json: bool = False,
    flags: Annotated[PlaceFlags | None, Parameter(name="*")] = None,
) -> int:
    """List what a service was after each change of it, with the view versions it used.

    Parameters
    ----------
    name
        The service.
    json
        Print one JSON document, for machines.
    """
    flags = flags or PlaceFlags()
    config = flags.settings()
    found = _history(flags.registry(config), flags.namespace_of(config), name)
    if json:
        write_json([asdict(one) for one in found])
        return 0
    rows = [
        (str(one.number), ", ".join(one.views), one.owner, when_text(one.added_us, one.added_by))
        for one in found
    ]
    write_table(["number", "views", "owner", "applied"], rows)
    return 0


@service.command
def roll_back(
    name: str,
    /,
    *,
    to: int | None = None,
    yes: bool = False,
    author: str | None = None,
    json: bool = False,
    flags: Annotated[PlaceFlags | None, Parameter(name="*")] = None,
) -> int:
    """Let a service answer as it did before, without the file it was applied from.

    Parameters
    ----------
    name
        The service.
    to
        The number in its history to go back to; the one before the last where nothing is given.
    yes
        Do it without asking.
    author
        Who does it; the user of this computer where nothing is given.
    json
        Print one JSON document, for machines; it needs --yes, or nothing is done.
    """
    from headwater.cli.proposed import Proposed
    from headwater.registry.proposal import propose_return

    with (flags or PlaceFlags()).opened() as place:
        known = registered_at(place)
        earlier = _earlier(_history(place.registry, known.namespace, name), to)
        document = place.registry.document(known.namespace, earlier.applied_in)
        assert document is not None
        proposal = propose_return(known, earlier, document)
        return agree_and_apply(place, Proposed(proposal), author, yes=yes, json=json)


def _history(registry: Registry, namespace: str, name: str) -> list[ServiceRecord]:
    found = registry.services(namespace, name)
    if not found:
        known = registry.read(namespace).services
        msg = (
            f'no service "{name}" was ever applied to namespace "{namespace}" with this registry.'
            f"{did_you_mean(name, known)}"
        )
        raise NotFoundError(msg)
    return found


def _earlier(found: list[ServiceRecord], to: int | None) -> ServiceRecord:
    number = found[-1].number - 1 if to is None else to
    for one in found:
        if one.number == number:
            return one
    numbers = ", ".join(str(one.number) for one in found)
    msg = f'service "{found[-1].name}" has no number {number} in its history; it has {numbers}'
    raise NotFoundError(msg)
