"""Shared test wiring: Hypothesis profiles, broker tests that may not skip, examples in the docs.

Every example in README.md, CONTRIBUTING.md and docs is a test. The examples of one page run in
order, in one namespace and one temporary folder:

- A `python` block runs. When its first line is a file name (`# features.py`) it is also saved
  under that name, so that later blocks and commands can use it; a `# test_*.py` block is saved
  and run by pytest, as a reader would.
- In a `console` block, each line that begins with `$ ` must be a real command: a make target that
  exists, a `headwater` command whose arguments parse, a module that can be found.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from sybil import Example

ROOT = Path(__file__).parent
# What every reader's shell has: taken as it stands.
SHELL_COMMANDS = frozenset(
    ("cat", "cd", "curl", "echo", "export", "git", "head", "ls", "mkdir", "pip", "source", "tail")
)

# Wall-clock deadlines fail on a busy machine and in a kernel's first, compiling call.
hypothesis.settings.register_profile("full", deadline=None, print_blob=True)
hypothesis.settings.register_profile("fast", deadline=None, print_blob=True, max_examples=20)
hypothesis.settings.load_profile("full")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that continuous integration passes."""
    parser.addoption(
        "--no-kafka-skips",
        action="store_true",
        help="fail a test marked kafka that is skipped, instead of passing over it",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a broker test into a failure where skips are not allowed."""
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and item.get_closest_marker("kafka")
        and item.config.getoption("--no-kafka-skips")
    ):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} needs a broker and was skipped: {reason}"
    return report


def _enter_folder(namespace: dict[str, Any]) -> None:
    """Run a page in a temporary folder from which its saved files can be imported."""
    stack = namespace["_page"] = contextlib.ExitStack()
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    stack.callback(os.chdir, Path.cwd())
    os.chdir(folder)
    sys.path.insert(0, folder)
    stack.callback(sys.path.remove, folder)

    def forget() -> None:
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(folder):
                del sys.modules[name]

    stack.callback(forget)


def _leave_folder(namespace: dict[str, Any]) -> None:
    namespace.pop("_page").close()


def _run_python(example: Example) -> str | None:
    """Run a block; save one that names its file; give a test file to pytest."""
    named = re.match(r"# (\w+\.py)\n", example.parsed)
    if named:
        Path(named[1]).write_text(example.parsed, encoding="utf-8")
        # Another test may have imported a file of the same name from another folder.
        sys.modules.pop(Path(named[1]).stem, None)
    if named is None or not named[1].startswith("test_"):
        return _evaluate(example)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", named[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else None


def _check_console(example: Example) -> str | None:
    """Return what is wrong with the first command that is not real, or None."""
    text = example.parsed.replace("\\\n", " ")
    lines = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    if not lines:
        return 'no line begins with "$ ", so there is nothing to check; use a text block'
    for line in lines:
        for command in _commands(line):
            if problem := _problem(command):
                return f"$ {line}\n{problem}"
    return None


def _commands(line: str) -> Iterable[list[str]]:
    """Split a shell line into simple commands, without assignments and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    redirected = False
    for token in [*lexer, ";"]:
        if token in {"&&", "||", "|", ";", "&"}:
            if command:
                yield command
            command = []
        elif token in {">", ">>", "<"}:
            redirected = True
        elif redirected:
            redirected = False
        elif command or not re.match(r"[A-Z_]+=", token):
            command.append(token)


def _problem(command: list[str]) -> str | None:
    """Return why a simple command can't work, or None."""
    name, arguments = Path(command[0]).name, command[1:]
    match name, arguments:
        case (("cd" | "export" | "git" | "pip" | "source"), _):
            return None
        case "make", _:
            return _make_problem([word for word in arguments if "=" not in word])
        case "headwater", _:
            return _headwater_problem(arguments)
        case "python" | "python3", ["-m", "headwater", *rest]:
            return _headwater_problem(rest)
        case "python" | "python3", ["-m", module, *_]:
            return None if importlib.util.find_spec(module) else f"no module {module}"
        case _:
            return f"{name}: conftest.py can't check this command; add a rule for it"


def _make_problem(targets: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    unknown = set(targets) - known
    return f"no make target {', '.join(sorted(unknown))}" if unknown else None


def _headwater_problem(arguments: list[str]) -> str | None:
    from cyclopts import CycloptsError  # noqa: PLC0415 - only where the docs show a command

    from headwater.cli import app  # noqa: PLC0415

    try:
        app.parse_args(arguments, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        return f"headwater refuses this: {error}"
    return None


_python = PythonEvaluator()


def _evaluate(example: Example) -> str | None:
    """Run a block; Sybil can't show an exception that was raised from another, so this does."""
    try:
        return _python(example)
    except Exception:  # noqa: BLE001 - whatever a page's example raises is its failure
        return traceback.format_exc()


# Blocks that begin with >>> are checked against the output they show.
_python_blocks = PythonCodeBlockParser()
_python_blocks.codeblock_parser = CodeBlockParser("python", _run_python)

pytest_collect_file = Sybil(
    parsers=[_python_blocks, CodeBlockParser("console", _check_console)],
    patterns=["README.md", "CONTRIBUTING.md", "docs/**/*.md", "docs/*.md"],
    setup=_enter_folder,
    teardown=_leave_folder,
).pytest()
