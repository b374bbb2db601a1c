"""Inspect a download before the conversion, and verify raw data after it."""
