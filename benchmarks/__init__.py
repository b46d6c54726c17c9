"""Measurements that back the numbers of the documentation; run with ``python -m benchmarks.NAME``."""
