"""`headwater plan`: check definitions and print what they compile to."""

from __future__ import annotations

from headwater.cli.definitions_file import load_definitions
from headwater.cli.output import write_json, write_text
from headwater.plan.describe import plan_facts, plan_text
from headwater.plan.plan import compile_plan

__all__ = ["plan"]


def plan(file: str, /, *, show: bool = False, json: bool = False) -> int:
    """Check definitions and print the plan they compile to.

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
    if json:
        write_json(plan_facts(found))
    else:
        write_text(plan_text(found, details=show))
    return 0
