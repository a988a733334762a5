"""What a benchmark is handed, what it returns, and where it is found.

A benchmark is a file of ``benchmarks/modules`` or ``benchmarks/end_to_end`` with a ``BENCHMARK``, or with several
``BENCHMARKS``.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Cell = Mapping[str, str | int]
"""Where in the grid a figure was taken, such as ``{"L": 125, "B": 4, "mode": "fwd+bwd", "dtype": "fp32"}``."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asked for."""

    device: torch.device
    """Where to measure."""
    rounds: int = 7
    """Rounds of each comparison; the alternatives take turns in each."""
    quick: bool = False
    """A few small cells instead of the grid."""
    compiled: bool = True
    """Compile too."""
    memory_cap: float = 8e9
    """Bytes that one cell may need; larger ones are left out and named."""
    until: float = float("inf")
    """``time.monotonic()`` at which the benchmark should have returned."""
    peers: Mapping[str, Path] = field(default_factory=dict)
    """Checkouts of other projects, by name."""

    @property
    def seconds_left(self) -> float:
        """Seconds until the benchmark should have returned."""
        return self.until - time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One alternative in one cell: a line of the table."""

    alternative: str
    """What was measured: ``fast``, ``textbook``, ``openfold``, …"""
    cell: Cell = field(default_factory=dict)
    """Where in the grid."""
    median: float | None = None
    """Median over the rounds; None where nothing was measured, ``note`` then says why."""
    iqr: float | None = None
    """Third quartile less the first."""
    unit: str = "ms"
    """Unit of both."""
    peak_mb: float | None = None
    """Most memory that was allocated at once beyond what was there before, 10⁶ bytes."""
    error: float | None = None
    """Relative error against a float64 reference."""
    more: Mapping[str, float] = field(default_factory=dict)
    """Further figures for the JSON file."""
    note: str = ""
    """What the reader has to know, or why there is no figure."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure beside its target. An absolute time should not be one: machines differ."""

    name: str
    value: float | None
    """What was reached; None where it could not be measured, ``note`` then says why. Such a goal fails nothing."""
    target: float
    at_least: bool = True
    """False: ``value`` must not exceed ``target``."""
    unit: str = "×"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a benchmark found."""

    rows: list[Row] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One entry of ``python -m benchmarks --list``."""

    name: str
    about: str
    """One line."""
    run: Callable[[Options], Result]
    share: float = 1.0
    """How much of the time budget it gets, relative to the others."""


def found() -> dict[str, Benchmark]:
    """Every benchmark, by name, in the order of the files."""
    benchmarks: dict[str, Benchmark] = {}
    for package in ("benchmarks.modules", "benchmarks.end_to_end"):
        path: Any = importlib.import_module(package).__path__
        for module in sorted(pkgutil.iter_modules(path), key=lambda m: m.name):
            contents = vars(importlib.import_module(f"{package}.{module.name}"))
            one = (contents["BENCHMARK"],) if "BENCHMARK" in contents else ()
            benchmarks |= {benchmark.name: benchmark for benchmark in (*one, *contents.get("BENCHMARKS", ()))}
    return benchmarks
