"""Messages and services of the proto package headwater.v1."""

from __future__ import annotations
