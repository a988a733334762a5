"""Benchmarks of whole steps, samples and programs; every file here with a ``BENCHMARK`` is run."""
