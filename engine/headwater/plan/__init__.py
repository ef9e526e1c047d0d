"""Definitions as a checked, immutable plan: lanes, layout table, canonical text, fingerprint."""
