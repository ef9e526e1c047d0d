"""What the kernel says that a process's threads have used, by the names it has for them."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cpu_s_by_name", "threads_of"]

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_NUMBER = re.compile(r"[-#_]?\d+")


def threads_of(pid: int | str) -> Iterator[tuple[int, str, float]]:
    """Yield (id, name, CPU seconds) of each thread of a process; nothing where nobody says.

    Seconds are user and system, in ticks of 10 ms: short runs know little of a thread.
    """
    tasks = Path(f"/proc/{pid}/task")
    for task in tasks.iterdir() if tasks.exists() else ():
        try:
            stat = (task / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has just ended
        name, _, fields = stat.partition("(")[2].rpartition(")")
        user, system = fields.split()[11:13]
        yield int(task.name), name, (int(user) + int(system)) / _TICKS_A_SECOND


def cpu_s_by_name(pid: int | None) -> dict[str, float]:
    """Return CPU seconds by the threads' names, without the numbers that tell like from like."""
    found: defaultdict[str, float] = defaultdict(float)
    for _, name, seconds in threads_of(pid) if pid is not None else ():
        found[_NUMBER.sub("", name).strip()] += seconds
    return dict(found)
