"""Logs: structured events through the standard `logging`, which whoever runs us configures."""

from __future__ import annotations

import logging
from typing import cast

import structlog

__all__ = ["get_logger"]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a structured logger; events come out as logfmt, at logging's own level and place.

    Where nobody has configured logging, only warnings and errors show, on stderr.
    """
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["event"]),
        ],
    )
    return cast("structlog.stdlib.BoundLogger", logger)
