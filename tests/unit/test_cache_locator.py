"""Kernels that were compiled ahead are found where nothing can be written."""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numba
import pytest
from numba.core.caching import InTreeCacheLocator

from headwater.kernels import cache_locator
from headwater.kernels.cache_locator import KernelCacheLocator

if TYPE_CHECKING:
    from types import ModuleType

SOURCE = """
from __future__ import annotations
from numba import njit

@njit(cache=True)
def twice(x):
    return x + x
"""
NAMES = (f"kernels_{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def located(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{KernelCacheLocator.__module__}.{KernelCacheLocator.__name__}"
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", name)
    cache_locator._links_to.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "kernels.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def load(source: Path) -> ModuleType:
    """Import a file as a process does that has not seen it before."""
    spec = importlib.util.spec_from_file_location(next(NAMES), source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hits(module: ModuleType) -> int:
    return sum(module.twice.stats.cache_hits.values())


def misses(module: ModuleType) -> int:
    return sum(module.twice.stats.cache_misses.values())


def listed(source: Path) -> list[str]:
    return sorted(path.name for path in (source.parent / "__pycache__").glob("*.nb*"))


def seal(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the folder read-only, as the superuser sees it on a read-only file system."""
    ensure = InTreeCacheLocator.ensure_cache_path

    def ensure_unless_sealed(self: InTreeCacheLocator) -> None:
        if Path(self.get_cache_path()).is_relative_to(source.parent):
            raise OSError(30, "Read-only file system")
        ensure(self)

    monkeypatch.setattr(InTreeCacheLocator, "ensure_cache_path", ensure_unless_sealed)


def test_where_it_can_be_written_the_cache_is_beside_the_source(source) -> None:
    assert load(source).twice(3) == 6
    assert len(listed(source)) == 2
    again = load(source)
    assert again.twice(3) == 6
    assert (hits(again), misses(again)) == (1, 0)


def test_a_read_only_cache_is_read_and_new_kernels_go_elsewhere(source, monkeypatch) -> None:
    load(source).twice(3)
    before = listed(source)
    seal(source, monkeypatch)
    sealed = load(source)
    assert sealed.twice(3) == 6
    assert (hits(sealed), misses(sealed)) == (1, 0)
    assert sealed.twice(1.5) == 3.0
    assert (hits(sealed), misses(sealed)) == (1, 1)
    assert listed(source) == before
    # In this process the new one is cached, too, and the old one still is.
    again = load(source)
    assert (again.twice(3), again.twice(1.5)) == (6, 3.0)
    assert (hits(again), misses(again)) == (2, 0)


def test_where_nothing_at_all_can_be_written_the_cache_is_read(source, monkeypatch) -> None:
    load(source).twice(3)
    seal(source, monkeypatch)

    def refuse(**_: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    sealed = load(source)
    assert sealed.twice(3) == 6
    assert (hits(sealed), misses(sealed)) == (1, 0)


def test_without_kernels_compiled_ahead_the_next_locator_is_asked(
    source, monkeypatch, tmp_path
) -> None:
    seal(source, monkeypatch)
    with pytest.raises(RuntimeError, match="no locator available"):
        load(source)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path.parent / "elsewhere"))
    chain = f"{numba.config.CACHE_LOCATOR_CLASSES},UserProvidedCacheLocator"
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", chain)
    assert load(source).twice(3) == 6
