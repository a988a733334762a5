"""The least time that some work can take on this device: by its multiplications or by its bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch


class Work(NamedTuple):
    """What a forward pass has to do at the least."""

    flops: float
    """Multiplications and additions."""
    numbers: float
    """Numbers read or written: inputs once, result once."""


def fastest(
    work: Callable[[int, int], Work], point: tuple[str, str, int, int], device: torch.device
) -> float:
    """Milliseconds at the measured peak of the device; a backward pass does twice the work of the forward one."""
    dtype, mode, length, batch = point
    flops, numbers = work(length, batch)
    passes = 3 if mode == "fwd+bwd" else 1
    rate, bandwidth = _peaks(dtype, device)
    size = 2 if dtype == "bf16" else 4
    return 1e3 * passes * max(flops / rate, numbers * size / bandwidth)


@cache
def _peaks(dtype: str, device: torch.device) -> tuple[float, float]:
    """Multiplications and additions a second of a large matrix product, and bytes a second of a large copy."""
    n = 8192 if device.type == "cuda" else 1536
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    a = torch.randn(n, n, device=device, dtype=kind)
    long = torch.empty(2**28 if device.type == "cuda" else 2**25, device=device)
    return 2 * n**3 / _shortest(lambda: a @ a, device), 2 * 4 * long.numel() / _shortest(long.clone, device)


def _shortest(run: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
