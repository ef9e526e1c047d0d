"""`headwater view list | compare | remove`: the versions of views, and the end of one."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from headwater.cli.apply import agree_and_apply, registered_at
from headwater.cli.output import when_text, write_json, write_table
from headwater.cli.place import PlaceFlags

__all__ = ["list_views", "remove", "view"]

view = App(name="view", default_parameter=Parameter(negative=()), result_action="return_value")
view.command(
    "headwater.cli.compare:compare",
    name="compare",
    help="Compute two versions for the same rows; say where values differ, and why.",
)


@view.command(name="list")
def list_views(
    *,
    all: bool = False,  # noqa: A002 - the word users look for
    json: bool = False,
    flags: Annotated[PlaceFlags | None, Parameter(name="*")] = None,
) -> int:
    """List the view versions that are applied: owner, services that use them, who and when.

    Parameters
    ----------
    all
        Versions that were removed as well.
    json
        Print one JSON document, for machines.
    """
    from headwater.cli.catalog import registered

    known = registered(flags or PlaceFlags())
    shown = known.views if all else known.active_views
    if json:
        write_json(
            [
                {
                    "view": one.name,
                    "version": one.version,
                    "fingerprint": one.fingerprint,
                    "stream": one.stream,
                    "entity": one.entity,
                    "owner": one.owner,
                    "description": one.description,
                    "tags": list(one.tags),
                    "services": list(known.users(one.id)),
                    "added_us": one.added_us,
                    "added_by": one.added_by,
                    "removed_us": one.removed_us,
                    "removed_by": one.removed_by,
                }
                for one in shown.values()
            ]
        )
        return 0
    rows = [
        (
            one.id,
            one.owner,
            f"{len(one.features)} of {one.entity} from {one.stream}",
            ", ".join(known.users(one.id)),
            when_text(one.added_us, one.added_by),
            *([when_text(one.removed_us, one.removed_by)] if all else []),
        )
        for one in shown.values()
    ]
    columns = ["view", "owner", "features", "services", "added", *(["removed"] if all else [])]
    write_table(columns, rows)
    return 0


@view.command
def remove(
    name: str,
    version: int,
    /,
    *,
    yes: bool = False,
    author: str | None = None,
    json: bool = False,
    flags: Annotated[PlaceFlags | None, Parameter(name="*")] = None,
) -> int:
    """Remove a version of a view that no service uses, and free its state.

    Its record stays: the number of a removed version is not used for other logic.

    Parameters
    ----------
    name
        The view.
    version
        The version to remove.
    yes
        Do it without asking.
    author
        Who removes it; the user of this computer where nothing is given.
    json
        Print one JSON document, for machines; it needs --yes, or nothing is done.
    """
    from headwater.cli.proposed import Proposed
    from headwater.registry.proposal import propose_removal

    with (flags or PlaceFlags()).opened() as place:
        proposal = propose_removal(registered_at(place), name, version)
        return agree_and_apply(place, Proposed(proposal), author, yes=yes, json=json)
