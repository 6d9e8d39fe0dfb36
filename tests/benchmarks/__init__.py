"""Benchmarks: each a ratio, or a pair, measured in one run. `python -m tests.benchmarks` runs them all and prints one table."""
