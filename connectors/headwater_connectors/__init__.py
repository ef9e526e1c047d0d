"""Connectors: the log, formats and the archive; they know nothing of definitions."""

from __future__ import annotations
