"""Formats: how the bytes of a record become typed columns."""
