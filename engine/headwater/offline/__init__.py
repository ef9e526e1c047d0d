"""Offline: history replayed for the rows of a spine, by the kernels that serve."""
