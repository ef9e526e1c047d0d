from __future__ import annotations

import subprocess
import sys

HOLDS_THE_INTERPRETER = """
import ctypes
from headwater.cli.run.worker_process import _last_resort
with _last_resort(0.2):
    ctypes.PyDLL(None).sleep(600)  # as C code that never gives it away
"""


def test_a_library_that_holds_the_interpreter_does_not_keep_the_process_alive() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDS_THE_INTERPRETER],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Timeout" in done.stderr
