"""A feed: something that is done again and again on a thread while a test goes on."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["feeding"]


@contextmanager
def feeding(
    push: Callable[[], object], *, every_s: float, failed: list[BaseException], patience_s: float
) -> Iterator[None]:
    """Push every so often; the first failure ends it and is in `failed`, which must stay empty."""
    done = threading.Event()

    def go_on() -> None:
        try:
            while not done.wait(every_s):
                push()
        except BaseException as error:  # noqa: BLE001 - raised by the test, in a wait or below
            failed.append(error)

    thread = threading.Thread(target=go_on, name="feed", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(patience_s)
    assert not failed, failed
    assert not thread.is_alive(), "the feed hangs"
