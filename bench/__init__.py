"""Benchmarks: one module per question, peers measured beside us in the same run."""

from __future__ import annotations
