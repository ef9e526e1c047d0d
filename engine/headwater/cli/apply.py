"""`headwater apply`: register definitions, and hand them to the workers."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from headwater.cli.definitions_file import load_definitions
from headwater.cli.output import is_agreed, write_json, write_text
from headwater.cli.place import PlaceFlags, clock_us
from headwater.errors import DefinitionError
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from headwater.cli.place import Place
    from headwater.cli.proposed import Proposed
    from headwater.registry.records import Registered

__all__ = ["agree_and_apply", "apply", "registered_at"]


def apply(
    file: str,
    /,
    *,
    yes: bool = False,
    author: str | None = None,
    json: bool = False,
    flags: Annotated[PlaceFlags | None, Parameter(name="*")] = None,
) -> int:
    """Register definitions and hand them to the workers, after showing what that will do.

    What the file doesn't name stays as it is. To apply again is always right: it does what is left
    to do.

    Parameters
    ----------
    file
        A Python file, or a module such as my.features.
    yes
        Do it without asking.
    author
        Who applies; the user of this computer where nothing is given.
    json
        Print one JSON document, for machines; it needs --yes, or nothing is done.
    """
    from headwater.cli.proposed import Proposed
    from headwater.registry.proposal import propose

    found = compile_plan(load_definitions(file))
    with (flags or PlaceFlags()).opened() as place:
        proposed = Proposed.at(place, propose(registered_at(place), found))
        return agree_and_apply(place, proposed, author, yes=yes, json=json)


def registered_at(place: Place) -> Registered:
    """Return what is registered at a place, in step with its plans topic."""
    from headwater.registry.application import in_step

    at_us = clock_us()
    step = in_step(place.registry.read(place.topic.namespace), place.topic, at_us=at_us)
    step.write(place.registry, at_us=at_us)
    return step.found


def agree_and_apply(
    place: Place, proposed: Proposed, author: str | None, *, yes: bool, json: bool
) -> int:
    """Show what will change, ask, and do it; return the exit code.

    Raises DefinitionError where a change is refused: then nothing is done.
    """
    from headwater.registry.application import apply as apply_proposal

    proposal = proposed.proposal
    if not json:
        write_text("\n".join(proposed.lines()))
    number = None
    done = proposal.is_needed and not proposal.refused
    if done and (yes or (not json and is_agreed())):
        number = apply_proposal(
            place.registry, place.topic, proposal, author=_author(author), at_us=clock_us()
        )
    if json:
        write_json({**proposed.facts(), "applied": number})
    elif number is not None:
        write_text(f'applied: plan number {number} of namespace "{place.topic.namespace}"')
    if proposal.refused:
        more = len(proposal.refused) - 1
        others = f" (and {more} more)" if more else ""
        msg = f"nothing was applied: {proposal.refused[0]}{others}"
        raise DefinitionError(msg)
    return 0 if number is not None or not proposal.is_needed else 1


def _author(given: str | None) -> str:
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run as a user without a name.
        return ""
