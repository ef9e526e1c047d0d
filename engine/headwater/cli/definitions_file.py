"""Definitions on the command line: a Python file or a module, and what it defines."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.definitions.service import Service
from headwater.definitions.view import View
from headwater.errors import DefinitionError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["load_definitions"]


def load_definitions(target: str) -> list[Service | View]:
    """Return every service and view that a file or a module defines at its top level.

    `target` is a path ending in .py, or a dotted name that can be imported from here. Raises
    DefinitionError where it can't be loaded or defines nothing.
    """
    module = _module(target)
    found: dict[int, Service | View] = {
        id(value): value for value in vars(module).values() if isinstance(value, Service | View)
    }
    if not found:
        msg = f"{target} defines no view and no service; assign hw.view(...) or hw.service(...)"
        raise DefinitionError(msg)
    return list(found.values())


def _module(target: str) -> ModuleType:
    is_file = target.endswith(".py") or os.sep in target
    path = Path(target).resolve()
    if is_file and not path.is_file():
        msg = (
            f"no file {target}; give a Python file or a module, such as features.py or my.features"
        )
        raise DefinitionError(msg)
    # Modules beside the file, or in this folder, can be imported, as when Python runs it.
    sys.path.insert(0, str(path.parent if is_file else Path.cwd()))
    try:
        return _execute(path) if is_file else importlib.import_module(target)
    except DefinitionError as error:
        msg = f"{target}: {error}"
        raise DefinitionError(msg) from error
    except (Exception, SystemExit) as error:
        # Whatever a user's file raises is about that file.
        msg = f"{target} can't be loaded: {type(error).__name__}: {error}"
        raise DefinitionError(msg) from error
    finally:
        sys.path.pop(0)


def _execute(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        msg = "is not a Python file; give one ending in .py"
        raise DefinitionError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
