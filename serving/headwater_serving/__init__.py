"""Serving: the gRPC server and its typed client."""

from __future__ import annotations
