"""Benchmarks of the network's modules; every file here with a ``BENCHMARK`` is run."""
