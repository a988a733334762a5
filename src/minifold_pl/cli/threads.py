"""Threads that wait for the next piece of work give their core away."""

from __future__ import annotations

import os

_SPINS = "1000"
"""Some microseconds."""


def wait_without_spinning() -> None:
    """Have OpenMP's threads sleep soon after each operation; call before importing torch.

    GNU's runtime lets them spin for milliseconds, and an operation ends when its last thread has had its turn. On cores
    that others use as well that is most of the time: ``sample`` of 60 residues with two threads, on four cores with a
    load of 9, took 133 s and 53 s of CPU time as it comes, and 20 s and 11 s with this. What the environment says wins.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
