"""Metrics of one case: pure functions on arrays, and how tables name them."""
