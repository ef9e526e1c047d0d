"""Versions of definitions: what was applied, by whom and when, in a SQL database for people."""
