"""`headwater serve`: a durable store in a folder, served over gRPC until it is told to stop."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - the command line reads the annotations
from typing import TYPE_CHECKING

import headwater as hw
from headwater.cli.applied import applied_plan
from headwater.cli.definitions_file import load_definitions
from headwater.cli.output import write_text
from headwater.cli.place import PlaceFlags
from headwater.flow.local_folder import local_settings
from headwater.flow.sample_log import SampleSettings

if TYPE_CHECKING:
    from types import FrameType

    from headwater.definitions.service import Service
    from headwater.definitions.view import View

__all__ = ["serve"]

_CHECK_S = 0.5
_INTERRUPTED = 130


def serve(
    file: str | None = None,
    /,
    *,
    folder: Path,
    host: str = "127.0.0.1",
    port: int = 6566,
    samples_per_s: float = 0.0,
) -> int:
    """Keep features fresh in a folder and serve gRPC, until Ctrl-C or SIGTERM.

    Parameters
    ----------
    file
        A Python file, or a module such as my.features; else what is applied to the folder.
    folder
        The folder of the store; made if it isn't there, reopened as it was left if it is.
    host
        The address to listen on.
    port
        The port to listen on; 0 takes a free one.
    samples_per_s
        How many requests a second to keep, with keys and inputs, for headwater audit.
    """
    settings = replace(local_settings(folder), samples=SampleSettings(per_s=samples_per_s))
    parts = _applied(folder) if file is None else load_definitions(file)
    stop = threading.Event()
    got: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        got.append(number)
        stop.set()

    before = {one: signal.signal(one, on_signal) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        with hw.local(parts, path=folder, settings=settings) as store:
            server = store.serve(port, host=host)
            write_text(f"serving {', '.join(sorted(store.plan.services))} on {server.target}")
            while not stop.wait(_CHECK_S):
                store.check()
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    return _INTERRUPTED if signal.SIGINT in got else 0


def _applied(folder: Path) -> list[View | Service]:
    with PlaceFlags(folder=folder).opened() as place:
        return applied_plan(place.log, place.topic.namespace)[1].definitions
