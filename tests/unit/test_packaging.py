"""The project as others meet it: its metadata, its wheel, its lock file, its first command."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import headwater

ROOT = Path(__file__).parents[2]
PACKAGES = {"headwater", "headwater_connectors", "headwater_proto", "headwater_serving"}
# Any of these costs more than the command line may take to say its version.
HEAVY = {"bytewax", "confluent_kafka", "grpc", "numba", "numpy", "pandas", "polars", "pyarrow"}


def read_toml(name: str) -> dict[str, Any]:
    """Return a TOML file of the root."""
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def declared() -> list[Requirement]:
    """Return the run-time requirements, those of every extra included."""
    project = read_toml("pyproject.toml")["project"]
    extras = [one for group in project["optional-dependencies"].values() for one in group]
    return [Requirement(one) for one in [*project["dependencies"], *extras]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and the source distribution, offline; return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_holds_four_typed_packages_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert not [name for name in names if name.endswith((".nbi", ".nbc", ".pyc"))]
    assert [name for name in names if name.endswith("/LICENSE")]


def test_every_module_is_in_the_wheel(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    kept = set(zipfile.ZipFile(wheel).namelist())
    roots = read_toml("pyproject.toml")["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    for root in map(ROOT.joinpath, roots):
        modules = {str(path.relative_to(root.parent)) for path in root.rglob("*.py")}
        assert modules - kept == set()


def test_the_source_distribution_can_be_tested(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"Makefile", "conftest.py", "pyproject.toml", "uv.lock", "tests/unit/test_tidy.py"}
    assert needed - names == set()


def test_the_version_is_stated_once() -> None:
    assert importlib.metadata.version("headwater") == headwater.__version__
    assert "version" in read_toml("pyproject.toml")["project"]["dynamic"]


def test_no_python_from_3_11_on_is_refused() -> None:
    requires = SpecifierSet(read_toml("pyproject.toml")["project"]["requires-python"])
    assert requires.contains("3.11.0")
    assert not requires.contains("3.10.99")
    assert requires.contains("3.99")


@pytest.mark.parametrize(("version", "wanted"), [("3.11", True), ("3.12", True), ("3.13", False)])
def test_bytewax_is_asked_for_only_where_it_has_wheels(version: str, *, wanted: bool) -> None:
    given = map(Requirement, read_toml("pyproject.toml")["project"]["dependencies"])
    (bytewax,) = [requirement for requirement in given if requirement.name == "bytewax"]
    assert bytewax.marker is not None
    assert bytewax.marker.evaluate({"python_version": version}) is wanted


def test_every_dependency_is_declared_with_a_floor() -> None:
    for requirement in declared():
        assert [one for one in requirement.specifier if one.operator == ">="], str(requirement)


def test_the_lock_file_matches_the_project() -> None:
    def shape(requirement: Requirement) -> tuple[str, str]:
        return requirement.name, str(requirement.specifier)

    project = read_toml("pyproject.toml")
    locked = {package["name"]: package for package in read_toml("uv.lock")["package"]}
    metadata = locked["headwater"]["metadata"]
    extras = [
        one for group in project["project"]["optional-dependencies"].values() for one in group
    ]
    given = map(Requirement, [*project["project"]["dependencies"], *extras])
    assert {shape(requirement) for requirement in given} == {
        (one["name"], str(SpecifierSet(one.get("specifier", ""))))
        for one in metadata["requires-dist"]
    }
    for group, members in project["dependency-groups"].items():
        wanted = {shape(Requirement(one)) for one in members if isinstance(one, str)}
        held = {
            (one["name"], str(SpecifierSet(one.get("specifier", ""))))
            for one in metadata["requires-dev"][group]
        }
        assert wanted <= held, f"group {group}: run uv lock"


def test_the_lock_file_names_only_the_public_index() -> None:
    hosts = set(re.findall(r"https?://([^/\"]+)", (ROOT / "uv.lock").read_text(encoding="utf-8")))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


@pytest.mark.parametrize("option", ["--version", "--help"])
@pytest.mark.parametrize(
    "start",
    ["runpy.run_module('headwater', run_name='__main__')", "headwater.cli.main()"],
    ids=["module", "script"],
)
def test_the_command_line_starts_without_heavy_imports(start: str, option: str) -> None:
    code = f"""
import json, runpy, sys
sys.argv = ["headwater", {option!r}]
try:
    if "cli" in {start!r}:
        import headwater.cli
    {start}
except SystemExit as exit:
    assert not exit.code, exit.code
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, _, modules = done.stdout.rstrip().rpartition("\n")
    assert HEAVY & set(json.loads(modules)) == set()
    assert headwater.__version__ in said or option == "--help"


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    listed = set(re.findall(r"^  ([a-z-]+) ", done.stdout, re.MULTILINE))
    assert set(phony.split()) - listed == {"proto-check"}


@pytest.mark.parametrize("python", ["", "false", "no-such-python"])
def test_make_says_in_one_line_that_no_python_will_do(tmp_path: Path, python: str) -> None:
    command = ["make", "install", f"VENV={tmp_path}/venv", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert "Python 3.11 or later" in said[0]
    assert not (tmp_path / "venv").exists()
