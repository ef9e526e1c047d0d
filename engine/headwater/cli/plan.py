"""`headwater plan`: check definitions, print what they compile to and what they would change."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from headwater.cli.definitions_file import load_definitions
from headwater.cli.output import write_json, write_text
from headwater.cli.place import PlaceFlags, clock_us
from headwater.errors import ConfigError
from headwater.plan.describe import plan_facts, plan_text
from headwater.plan.plan import compile_plan

if TYPE_CHECKING:
    from headwater.cli.proposed import Proposed
    from headwater.plan.plan import Plan

__all__ = ["plan"]

_REFUSED = 2


def plan(
    file: str,
    /,
    *,
    show: bool = False,
    json: bool = False,
    flags: Annotated[PlaceFlags | None, Parameter(name="*")] = None,
) -> int:
    """Check definitions and print the plan they compile to.

    Where there is a registry, it also says what applying them would do; nothing is changed. The
    exit code is 2 where a change would be refused.

    Parameters
    ----------
    file
        A Python file, or a module such as my.features.
    show
        Show everything: steps, windows, features and their types.
    json
        Print one JSON document, for machines.
    """
    found = compile_plan(load_definitions(file))
    if not json:
        write_text(plan_text(found, details=show))
    proposed = _proposed(found, flags or PlaceFlags())
    if json:
        more = {} if proposed is None else {"applying": proposed.facts()}
        write_json({**plan_facts(found), **more})
    elif proposed is not None:
        write_text("\n".join(["", *proposed.lines()]))
    return _REFUSED if proposed is not None and proposed.proposal.refused else 0


def _proposed(found: Plan, flags: PlaceFlags) -> Proposed | None:
    from headwater.cli.proposed import Proposed
    from headwater.registry.application import in_step
    from headwater.registry.proposal import propose
    from headwater_connectors.log.log import LogUnreachableError

    config = flags.settings()
    registry = flags.registry(config)
    if flags.folder is None and not registry.is_there:
        return None
    known = registry.read(flags.namespace_of(config))
    if flags.folder is not None and not flags.has_store:
        note = f"there is no store in {flags.folder} yet: headwater apply makes it"
        return Proposed(propose(known, found), note=note)
    with ExitStack() as stack:
        try:
            place = stack.enter_context(flags.opened())
        except (ConfigError, LogUnreachableError) as error:
            note = f"the log can't be asked what new views are built from: {error}"
            return Proposed(propose(known, found), note=note)
        step = in_step(known, place.topic, at_us=clock_us())
        return Proposed.at(place, propose(step.found, found))
