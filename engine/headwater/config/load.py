"""Read the settings from their sources, and say of a wrong one where it stands."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from headwater.config.mistakes import find, is_table, known_settings, mistake
from headwater.config.settings import Config
from headwater.config.toml_lines import line_of
from headwater.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CONFIG_FILE", "Flags", "load_config"]

CONFIG_FILE = "headwater.toml"

# By flag: the dotted setting it is for, and its value, None where it wasn't given.
Flags = Mapping[str, tuple[str, object]]
_Path = tuple[str, ...]

_PREFIX = "HEADWATER_"
_FILE_VARIABLE = "HEADWATER_CONFIG"
# Read by the Kafka client itself: how records are fetched, not what comes out.
_FETCH_VARIABLE = "HEADWATER_KAFKA_FETCH"
_CONFIG: _Path = ("kafka", "config")
# What Kubernetes and Docker set in every container for a service called headwater-something.
_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT_\d+_(TCP|UDP)(_|$)")
_LINK_VALUE = re.compile(r"(tcp|udp)://")


@dataclass(frozen=True, slots=True)
class _Source:
    values: dict[str, Any]
    place: Callable[[_Path], str]  # of a setting, for people


def load_config(
    file: Path | None = None,
    *,
    flags: Flags | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Return the settings of flags, variables, the file, and defaults, in that order.

    `file` (or HEADWATER_CONFIG) must exist; headwater.toml in this folder is read if it is there.
    Raises ConfigError, in one line with the place, at the first setting that can't be.
    """
    environ = os.environ if environ is None else environ
    sources = [_of_flags(flags or {}), _of_environ(environ)]
    if (path := _file(file, environ)) is not None:
        sources.append(_of_file(path))
    merged: dict[str, Any] = {}
    for source in reversed(sources):
        merged = _merge(merged, source.values)
    try:
        return Config(**merged)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    # Raised here: what pydantic says may hold a password.
    setting = tuple(str(part) for part in first["loc"])
    at = next((one for one in sources if find(one.values, setting) is not None), None)
    raise ConfigError(mistake(first, merged, "" if at is None else at.place(setting)))


def _of_flags(flags: Flags) -> _Source:
    values: dict[str, Any] = {}
    names: dict[_Path, str] = {}
    for flag, (key, value) in flags.items():
        if value is None:
            continue
        *parents, last = path = key.split(".")
        table = values
        for name in parents:
            table = table.setdefault(name, {})
        table[last] = value
        names[tuple(path)] = flag
    return _Source(values, lambda path: names.get(path, "the command line"))


def _of_environ(environ: Mapping[str, str]) -> _Source:
    ours = {name: value for name, value in environ.items() if name.startswith(_PREFIX)}
    ours = {name: value for name, value in ours.items() if not _is_foreign(name, value)}
    for name in ours:
        first = name.removeprefix(_PREFIX).split("__")[0].lower()
        if first not in Config.model_fields:
            # Without the prefix, which makes any two of them alike.
            known = [_variable(path).removeprefix(_PREFIX) for path in known_settings()]
            hint = did_you_mean(name.removeprefix(_PREFIX), known).replace('"', f'"{_PREFIX}', 1)
            msg = f"no setting for {name}.{hint or ' Remove it.'}"
            raise ConfigError(msg)
    try:
        values = _Environment(ours)()
    except SettingsError:
        values = None
    if values is None:
        raise ConfigError(_not_json(ours))
    kafka = values.get("kafka")
    if is_table(kafka) and is_table(config := kafka.get("config")):
        kafka["config"] = {_dotted(key): value for key, value in config.items()}
    _flatten_object_store(values)

    def place(path: _Path) -> str:
        names = [_variable(path[:length]) for length in range(len(path), 0, -1)]
        return next((name for name in names if name in ours), "the environment")

    return _Source(values, place)


class _Environment(EnvSettingsSource):
    """Pydantic's reading of variables, from those that are handed in."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Config)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


def _is_foreign(name: str, value: str) -> bool:
    """Tell whether a variable is no setting: read elsewhere, or a container's link."""
    if name in {_FILE_VARIABLE, _FETCH_VARIABLE} or _LINK.search(name):
        return True
    return name.endswith("_PORT") and _LINK_VALUE.match(value) is not None


def _not_json(variables: Mapping[str, str]) -> str:
    tables = {_variable(_CONFIG), *(_variable((name,)) for name in Config.model_fields)}
    for name in sorted(tables & set(variables)):
        try:
            json.loads(variables[name])
        except ValueError as error:
            return f"{name} is not JSON ({error}); give a JSON object in it"
    return f"a {_PREFIX}* variable can't be read; give tables as JSON objects"


def _file(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = file or (Path(environ[_FILE_VARIABLE]) if environ.get(_FILE_VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            by = "--config" if file else _FILE_VARIABLE
            msg = f"no file {named}, which {by} names; give a TOML file that is there"
            raise ConfigError(msg)
        return named
    usual = Path(CONFIG_FILE)
    return usual if usual.is_file() else None


def _of_file(path: Path) -> _Source:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        msg = f"{path} can't be read: {error.strerror}; check its rights"
        raise ConfigError(msg) from None
    except UnicodeDecodeError:
        msg = f"{path} is not UTF-8; save it as that"
        raise ConfigError(msg) from None
    except tomllib.TOMLDecodeError as error:
        # Without the text: it may hold a password.
        msg = f"{path} is not TOML: {error}; correct it"
        raise ConfigError(msg) from None
    kafka = values.get("kafka")
    if is_table(kafka) and is_table(config := kafka.get("config")):
        kafka["config"] = _flat(config)
    _flatten_object_store(values)

    def place(setting: _Path) -> str:
        line = line_of(text, setting)
        return f"{path}" if line is None else f"{path}, line {line}"

    return _Source(values, place)


def _flatten_object_store(values: dict[str, Any]) -> None:
    if is_table(options := values.get("object_store")):
        values["object_store"] = _flat(options)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the dotted keys that were written without quotes, and so became tables."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if is_table(value) else {prefix + key: value}
    return flat


def _dotted(key: str) -> str:
    """Return the librdkafka key that a variable such as …__SASL_PASSWORD is for."""
    return key if key == "log_level" else key.replace("_", ".")


def _variable(path: _Path) -> str:
    return _PREFIX + "__".join(path).upper().replace(".", "_")


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        both = is_table(value) and is_table(merged.get(key))
        merged[key] = _merge(merged[key], value) if both else value
    return merged
