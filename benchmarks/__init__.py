"""Benchmarks: each prints a table and writes one JSON a row; ``python -m benchmarks.NAME --help``."""
