"""The rules of the house that a machine can check, over every file we keep."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "engine/headwater",
    "connectors/headwater_connectors",
    "serving/headwater_serving",
    "proto/headwater_proto",
)
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 80
VAGUE_NAMES = {"common", "helpers", "misc", "utils"}
FENCES = {"console", "json", "mermaid", "proto", "python", "sql", "text", "toml", "yaml"}

# In two halves, so that this file passes its own rules.
UNFINISHED = re.compile("TO" + r"DO\b|FIX" + r"ME\b")
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(?:" + "work|root|tmp" + r")/")


def _files(*patterns: str) -> list[Path]:
    """Return the files that people write, by pattern from the root; generated code is left out."""
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(path for path in found if "_pb2" not in path.name)


PACKAGE_MODULES = _files(*(f"{package}/**/*.py" for package in PACKAGES), "bench/**/*.py")
MODULES = [*PACKAGE_MODULES, *_files("tests/**/*.py", "conftest.py")]
PAGES = _files("*.md", "docs/**/*.md")
TEXTS = [
    *MODULES,
    *PAGES,
    *_files("proto/**/*.proto", "docker/**/*", "Makefile", ".ci/run", "pyproject.toml"),
]


def each(paths: list[Path]) -> pytest.MarkDecorator:
    """Run a test once for each file."""
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


def test_there_is_something_to_check() -> None:
    for package in PACKAGES:
        assert (ROOT / package / "__init__.py") in PACKAGE_MODULES
        assert (ROOT / package / "py.typed").exists()


@each(MODULES)
def test_a_module_is_short_and_has_a_telling_name(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES_MAX
    assert path.stem not in VAGUE_NAMES
    assert path.parent.name not in VAGUE_NAMES


@each(MODULES)
def test_a_function_fits_a_screen(path: Path) -> None:
    too_long = {
        node.name: lines
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert not too_long


@each(MODULES)
def test_annotations_are_never_evaluated_at_import(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_a_docstring = path.name == "__init__.py" and not any(
        isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AnnAssign) for node in tree.body
    )
    imported = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
        for alias in node.names
    }
    assert only_a_docstring or "annotations" in imported


@each(PACKAGE_MODULES)
def test_nothing_prints(path: Path) -> None:
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not calls, f"print on lines {calls}: write to a console or a log that is handed in"


@each([path for path in PACKAGE_MODULES if "bench" not in path.relative_to(ROOT).parts])
def test_a_public_module_says_what_is_public(path: Path) -> None:
    names = {
        target.id
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    private = path.stem.startswith("_") and path.stem != "__init__"
    empty = path.name == "__init__.py" and "import" not in re.sub(
        "from __future__ import annotations", "", path.read_text(encoding="utf-8")
    )
    assert private or empty or "__all__" in names


@each(TEXTS)
def test_a_text_is_finished_and_names_no_machine(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert not UNFINISHED.search(line), f"line {number}: finish it, or file an issue: {line}"
        if "docker" not in path.relative_to(ROOT).parts:
            assert not MACHINE_PATHS.search(line), f"line {number} names a machine's path: {line}"


def _links(page: Path) -> set[Path]:
    """Return what a page links to in this repository; a folder stands for the pages in it."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    targets = set()
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in link and not link.startswith("mailto:"):
            targets.add((page.parent / link).resolve())
    return targets


@each(PAGES)
def test_every_link_leads_somewhere(path: Path) -> None:
    missing = [str(target) for target in _links(path) if not target.exists()]
    assert not missing


def test_every_page_can_be_reached_from_the_readme() -> None:
    waiting, reached = [ROOT / "README.md"], set()
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in _links(page):
            waiting.extend(target.glob("*.md") if target.is_dir() else [target])
            waiting = [path for path in waiting if path.suffix == ".md" and path.exists()]
    lost = [path for path in PAGES if path not in reached and "docs" in path.parts]
    assert not [str(path.relative_to(ROOT)) for path in lost]


@each(PAGES)
def test_every_code_block_names_a_language_we_check(path: Path) -> None:
    fences = re.findall(r"^ *```+(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(fences) % 2 == 0, "a code block is not closed"
    assert not set(fences[::2]) - FENCES, f"use one of {sorted(FENCES)}"
    assert set(fences[1::2]) <= {""}


@each(_files("docs/decisions/[0-9]*.md"))
def test_a_decision_says_why_what_and_what_follows(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {int(path.name[:4])}. ")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == [
        "Context",
        "Decision",
        "Consequences",
    ]


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in _files("docs/decisions/[0-9]*.md")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_part_of_the_engine_has_its_place_in_the_import_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {one["id"]: one for one in project["tool"]["importlinter"]["contracts"]}
    layers = {
        name.strip(" ()") for row in contracts["layers"]["layers"] for name in re.split("[|:]", row)
    }
    engine = ROOT / "engine/headwater"
    parts = {path.stem for path in engine.glob("*.py")} - {"__init__", "__main__"}
    parts |= {path.parent.name for path in engine.glob("*/__init__.py")}
    assert {f"headwater.{part}" for part in parts} - layers == set()


def test_every_test_that_a_guarantee_names_exists() -> None:
    page = (ROOT / "docs/guarantees.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 20
    for file, test in named:
        path = ROOT / file
        assert path.is_file(), file
        assert not test or f"def {test}(" in path.read_text(), f"{file}::{test}"
