"""Names of streams, entities, views, services and features."""

from __future__ import annotations

import re

from headwater.errors import DefinitionError

__all__ = ["checked_name"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,248}")


def checked_name(name: str, what: str, *, topic: bool = False) -> str:
    """Return `name` if it fits; topics follow Kafka's rule, everything else Python's."""
    pattern = _TOPIC if topic else _NAME
    if not isinstance(name, str) or not pattern.fullmatch(name):
        allowed = (
            "letters, digits, '.', '_' and '-'"
            if topic
            else "letters, digits and '_', a letter first"
        )
        msg = f"{what} name {name!r} can't be used; it may have {allowed}"
        raise DefinitionError(msg)
    return name
