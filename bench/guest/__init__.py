"""The small guest that boots in benchmarks and tests."""
