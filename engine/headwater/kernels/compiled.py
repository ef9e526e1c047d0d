"""The one way a kernel is compiled: no GIL, cached on disk, IEEE semantics kept."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from numba import njit

from headwater.plan import layout, ops

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["inlined", "kernel"]

_F = TypeVar("_F", bound="Callable[..., object]")


def _forget_stale_cache() -> None:
    """Remove cached kernels older than any kernel's source.

    Numba checks only the file of the outermost kernel, so that a change in one it calls would go
    unnoticed, and with it a change of bits. A cache that can't be written is left as it is.
    """
    folder = Path(__file__).parent
    sources = [*folder.glob("*.py"), *(Path(module.__file__ or "") for module in (layout, ops))]
    newest = max(source.stat().st_mtime for source in sources)
    for cached in (folder / "__pycache__").glob("*.nb[ic]"):
        with contextlib.suppress(OSError):
            if cached.stat().st_mtime < newest:
                cached.unlink()


_forget_stale_cache()


def kernel(function: _F) -> _F:
    """Compile `function` without the GIL, cached on disk, with NumPy's error model."""
    compiled: _F = njit(cache=True, nogil=True, error_model="numpy")(function)
    return compiled


def inlined(function: _F) -> _F:
    """Compile a part of other kernels, put in line where it is called.

    A call passes every array as seven words and counts a reference to it: more than a small part
    costs itself.
    """
    compiled: _F = njit(cache=True, nogil=True, error_model="numpy", forceinline=True)(function)
    return compiled
