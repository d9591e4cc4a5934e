"""Benchmarks: `python -m benchmarks [NAME ...]` prints a table each. No time is ever asserted."""
