"""docs/changing-features.md does what it says: its files are written, its commands run in order."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from doc_page import blocks_of, commands_of, file_of

PAGE = Path(__file__).parents[2] / "docs/changing-features.md"
# plan says with its exit code that something is refused.
CODES = {"headwater plan edited.py --folder store": 2}


def _run(command: list[str], code: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_command_of_the_page_says_what_the_page_says(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    checked = 0
    for language, text in blocks_of(PAGE):
        if language == "python":
            script = Path(file_of(text) or "block.py")
            script.write_text("import headwater as hw\n" + text, encoding="utf-8")
            _run([sys.executable, script.name])
        elif language == "console" and "--bootstrap-servers" not in text:
            for command, lines in commands_of(text):
                said = _run([sys.executable, "-m", *shlex.split(command)], CODES.get(command, 0))
                for line in lines:
                    assert line in said, f"{command}\n{said}"
                    checked += 1
    assert checked > 15


@pytest.mark.parametrize("command", ["plan", "apply", "view", "features"])
def test_the_page_shows_every_command_of_the_registry(command) -> None:
    assert f"$ headwater {command} " in PAGE.read_text(encoding="utf-8")
