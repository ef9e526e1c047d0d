"""Say in one line which setting is wrong, where it stands, and what it must be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeGuard

from pydantic import BaseModel

from headwater.config.settings import Config, is_secret
from headwater.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

__all__ = ["find", "is_table", "known_settings", "mistake"]

_SHOWN_CHARACTERS_MAX = 80
_WHOLE, _NUMBER, _TEXT, _TABLE = "a whole number", "a number", "a text", "a table"
_KINDS = {
    "int_parsing": _WHOLE,
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "string_type": _TEXT,
    "path_type": _TEXT,
    "model_type": _TABLE,
    "model_attributes_type": _TABLE,
    "mapping_type": _TABLE,
    "dict_type": _TABLE,
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_NAME = "must begin with a letter or a digit and hold only letters, digits, . _ and -"


def known_settings() -> list[tuple[str, ...]]:
    """Return the path of every setting there is."""
    known: list[tuple[str, ...]] = []
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            known += [(name, inner) for inner in section.model_fields]
        else:
            known.append((name,))
    return known


def is_table(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether a value is a table of settings."""
    return isinstance(value, dict)


def find(values: Mapping[str, Any], path: tuple[str, ...]) -> tuple[Any] | None:
    """Return the value of a setting, or the value that stands where its table should be."""
    found: Any = values
    for name in path:
        if not is_table(found):
            break
        if name not in found:
            return None
        found = found[name]
    return (found,)


def mistake(error: ErrorDetails, values: Mapping[str, Any], place: str) -> str:
    """Return the line for an error of pydantic's; secrets are not shown."""
    path = tuple(str(part) for part in error["loc"])
    where = f"{place}: " if place else ""
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = [".".join(each) for each in known_settings()]
        return f'{where}no setting "{key}".{did_you_mean(key, known) or " Remove it."}'
    must = _must(error)
    found = find(values, path)
    if found is None or is_table(found[0]):
        return f"{where}{key}: {must}"
    shown = json.dumps(found[0], default=str)
    if is_secret(key) or len(shown) > _SHOWN_CHARACTERS_MAX:
        return f"{where}{key} {must}"
    return f"{where}{key} is {shown}, {must}"


def _must(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}"
    if kind == "string_pattern_mismatch":
        return _NAME
    if kind == "literal_error":
        return f"must be {context['expected']}"
    for name, words in _BOUNDS.items():
        if name in context:
            return f"must be {words} {context[name]}"
    said = error["msg"].removeprefix("Value error, ")
    return said.replace("Input should be", "must be").replace("String should", "must")
