"""The archive: a stream's rows as Parquet and raw payload, listed by numbered manifests."""

from __future__ import annotations
