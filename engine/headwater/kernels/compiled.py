"""The one way a kernel is compiled: no GIL, cached on disk, IEEE semantics kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["inlined", "kernel"]

_F = TypeVar("_F", bound="Callable[..., object]")


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
