"""Times of alternatives that take turns, so that whatever slows the machine slows them all.

On a CPU the process's own time counts, on one thread; on a GPU events on the stream.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

Run = Callable[[], object]

SHORTEST_SAMPLE = 0.05
"""Seconds; a shorter run is repeated within a round until it takes this long."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One alternative's times, in order of the rounds."""

    samples: tuple[float, ...]
    """Milliseconds a run."""

    @property
    def median(self) -> float:
        """Milliseconds."""
        return statistics.median(self.samples)

    @property
    def iqr(self) -> float:
        """Third quartile less the first, milliseconds."""
        if len(self.samples) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return third - first


def ratio(slow: Timing, fast: Timing) -> float:
    """How many times as long ``slow`` takes: the median over rounds of each round's own ratio."""
    return statistics.median(s / f for s, f in zip(slow.samples, fast.samples, strict=True))


def interleaved(
    runs: Mapping[str, Run],
    *,
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.process_time,
    seconds: float = float("inf"),
) -> dict[str, Timing] | None:
    """Times of every run; each round starts with another one.

    Every run happens once beforehand, unmeasured. None where that shows that the rounds would take longer than
    ``seconds`` of wall time.

    Args:
        runs: what to measure, by name.
        rounds: rounds after the warm-up.
        device: a CUDA device is timed by events, everything else by ``clock``.
        clock: ``time.process_time``; ``time.perf_counter`` where other processes or waiting are part of it.
        seconds: wall time that the rounds may take.
    """
    repeats = {}
    one_round = 0.0
    for name, run in runs.items():
        run()  # compiles, fills caches
        started = time.monotonic()
        took = _sample(run, 1, device, clock)
        repeats[name] = max(1, min(100, round(SHORTEST_SAMPLE / max(took, 1e-6))))
        one_round += (time.monotonic() - started) * repeats[name]
    if one_round * rounds > seconds:
        return None
    samples: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    with _no_collection():
        for number in range(rounds):
            start = number % len(names)
            for name in names[start:] + names[:start]:
                took = _sample(runs[name], repeats[name], device, clock)
                samples[name].append(1e3 * took / repeats[name])
    return {name: Timing(samples=tuple(times)) for name, times in samples.items()}


def _sample(run: Run, repeats: int, device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds of ``repeats`` runs."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / 1e3
    begun = clock()
    for _ in range(repeats):
        run()
    return clock() - begun


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage is collected before, not in the middle."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
