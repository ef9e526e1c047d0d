"""The test wiring itself: examples in the docs that are wrong must fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with the wiring and nothing else."""
    for name in ("conftest.py", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run_pytest(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in `project`."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def page(project: Path, *blocks: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a README.md made of (language, text) blocks."""
    text = "".join(f"```{language}\n{body}\n```\n\n" for language, body in blocks)
    (project / "README.md").write_text(text, encoding="utf-8")
    return run_pytest(project, "README.md")


def test_python_blocks_of_a_page_share_a_namespace(project: Path) -> None:
    done = page(project, ("python", "x = 1"), ("python", "assert x == 1"))
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_a_wrong_python_block_fails(project: Path) -> None:
    assert "1 failed" in page(project, ("python", "assert 1 == 2")).stdout


def test_a_session_is_compared_with_the_output_it_shows(project: Path) -> None:
    assert "1 passed" in page(project, ("python", ">>> 1 + 1\n2")).stdout
    assert "1 failed" in page(project, ("python", ">>> 1 + 1\n3")).stdout


def test_a_named_block_is_saved_and_can_be_imported(project: Path) -> None:
    done = page(project, ("python", "# box.py\nx = 1"), ("python", "import box\nassert box.x == 1"))
    assert "2 passed" in done.stdout
    assert not (project / "box.py").exists()


@pytest.mark.parametrize(("expected", "outcome"), [(1, "2 passed"), (2, "1 failed")])
def test_a_named_test_block_is_run_by_pytest(project: Path, expected: int, outcome: str) -> None:
    test = f"# test_box.py\nimport box\n\ndef test_x():\n    assert box.x == {expected}"
    assert outcome in page(project, ("python", "# box.py\nx = 1"), ("python", test)).stdout


@pytest.mark.parametrize(
    "line",
    ["$ make test", "$ make demo ARGS=--json", "$ A=1 python -m json.tool < x | python -m json"],
)
def test_a_real_command_passes(project: Path, line: str) -> None:
    assert "1 passed" in page(project, ("console", f"{line}\nsome output")).stdout


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("$ make tset", "no make target tset"),
        ("$ make test && make nothing", "no make target nothing"),
        ("$ python -m no_such_module", "no module no_such_module"),
        ("$ headwater no-such-command", "headwater refuses this"),
        ("$ headwater demo --no-such-flag", "headwater refuses this"),
        ("$ frobnicate", "can't check this command"),
        ("make test", "nothing to check"),
    ],
)
def test_a_command_that_is_not_real_fails(project: Path, text: str, problem: str) -> None:
    done = page(project, ("console", text))
    assert done.returncode == 1
    assert problem in done.stdout


@pytest.mark.parametrize(
    ("arguments", "outcome"), [([], "1 skipped"), (["--no-kafka-skips"], "1 failed")]
)
def test_a_skipped_broker_test_fails_where_skips_are_refused(
    project: Path, arguments: list[str], outcome: str
) -> None:
    (project / "pytest.ini").write_text("[pytest]\nmarkers = kafka: a broker\n", encoding="utf-8")
    (project / "test_broker.py").write_text(
        "import pytest\n\n@pytest.mark.kafka\ndef test_it():\n    pytest.skip('no broker')\n",
        encoding="utf-8",
    )
    assert outcome in run_pytest(project, "test_broker.py", *arguments).stdout
