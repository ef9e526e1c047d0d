"""Where compiled kernels are cached when the folder of their sources can't be written to."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from numba.core.caching import InTreeCacheLocator

__all__ = ["KernelCacheLocator"]


class KernelCacheLocator(InTreeCacheLocator):
    """Finds kernels that were compiled ahead: the cache beside their sources, read-only or not.

    Numba itself passes over a cache that it can't write to, and compiles everything again. Name
    this class in NUMBA_CACHE_LOCATOR_CLASSES where the installation is read-only, as in an image.
    """

    @classmethod
    def from_function(cls, py_func: object, py_file: str) -> KernelCacheLocator | None:
        """Return the locator of a function's cache; None if nothing was compiled ahead."""
        # Numba's own code has no types.
        found: KernelCacheLocator | None = super().from_function(py_func, py_file)  # type: ignore[no-untyped-call]
        if found is not None:
            return found
        folder = Path(py_file).parent / "__pycache__"
        if next(folder.glob("*.nbi"), None) is None:
            return None
        found = cls(py_func, py_file)
        found._cache_path = str(_links_to(folder))
        return found


@functools.cache
def _links_to(folder: Path) -> Path:
    """Return a folder of this process that leads to the cached kernels and takes new ones.

    Without any folder that can be written to it is the cache itself, and a kernel that isn't in it
    can't be compiled.
    """
    try:
        links = Path(tempfile.mkdtemp(prefix="headwater-kernels-"))
    except FileNotFoundError:
        return folder
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    for cached in folder.glob("*.nb[ic]"):
        (links / cached.name).symlink_to(cached)
    return links
