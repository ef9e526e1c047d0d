"""docs/changing-features.md does what it says: its files are written, its commands run in order."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/changing-features.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# plan says with its exit code that something is refused.
CODES = {"headwater plan edited.py --folder store": 2}


def _run(command: list[str], code: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_command_of_the_page_says_what_the_page_says(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    checked = 0
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "python":
            named = re.match(r"# (\w+\.py)\n", text)
            script = Path(named[1] if named else "block.py")
            script.write_text("import headwater as hw\n" + text, encoding="utf-8")
            _run([sys.executable, script.name])
        elif language == "console" and "--bootstrap-servers" not in text:
            for part in text.removeprefix("$ ").replace("\\\n", "").split("\n$ "):
                command, *lines = part.strip().split("\n")
                words = [sys.executable, "-m", *shlex.split(command)]
                said = _run(words, CODES.get(command.strip(), 0))
                for line in lines:
                    assert line.split("…")[0] in said, f"{command}\n{said}"
                    checked += 1
    assert checked > 15


@pytest.mark.parametrize("command", ["plan", "apply", "view", "features"])
def test_the_page_shows_every_command_of_the_registry(command) -> None:
    assert f"$ headwater {command} " in PAGE.read_text(encoding="utf-8")
