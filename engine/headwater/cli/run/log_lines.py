"""Log lines of a running worker: one event each, logfmt, with its time and the worker's id."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["LogLines"]

# Of ours everything from INFO up, of others what went wrong.
_LEVELS = {
    "": logging.WARNING,
    "headwater": logging.INFO,
    "headwater_connectors": logging.INFO,
    "headwater_serving": logging.INFO,
}


class LogLines(logging.Handler):
    """While entered, writes every record of this process through `write`, a line each.

    Our own loggers give logfmt that begins with the event; what others say becomes the event.
    """

    def __init__(self, write: Callable[[str], None], worker: str) -> None:
        super().__init__(logging.INFO)
        self._write = write
        self._worker = worker
        self._before: list[tuple[logging.Logger, int, list[logging.Handler]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; a closed terminal is nobody's failure."""
        try:
            self._write(self.line(record))
        except OSError:
            self.handleError(record)

    def line(self, record: logging.LogRecord) -> str:
        """Return the line of a record; times are UTC."""
        text = record.getMessage()
        if not text.startswith("event="):
            # A JSON string is what logfmt quotes, and it has no line breaks.
            text = f"event={json.dumps(text)} level={record.levelname.lower()}"
        if record.exc_info:
            error = record.exc_info[1]
            text += f" error={json.dumps(f'{type(error).__name__}: {error}')}"
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        stamp = f"{now}.{int(record.msecs):03d}Z"
        return (
            f"time={stamp} worker={self._worker} logger={record.name} {' '.join(text.splitlines())}"
        )

    def __enter__(self) -> Self:
        """Become the one place that logs of this process go to."""
        for name, level in _LEVELS.items():
            logger = logging.getLogger(name)
            self._before.append((logger, logger.level, list(logger.handlers)))
            logger.handlers.clear()
            logger.setLevel(level)
        logging.getLogger().addHandler(self)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Put everything back."""
        while self._before:
            logger, level, handlers = self._before.pop()
            logger.handlers[:] = handlers
            logger.setLevel(level)
