"""The wire contracts of Headwater, generated from the .proto files beside this package."""

from __future__ import annotations
