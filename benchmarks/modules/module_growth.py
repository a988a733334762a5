"""How time and memory of the parts grow with the length, and which part of the pair stack is cubic."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.frame.contest import awake
from benchmarks.frame.interface import Benchmark, Options, Result, Row
from benchmarks.frame.measure import interleaved
from benchmarks.frame.memory import peak_bytes
from benchmarks.modules.inputs import chains, frames, pair_features, single_features
from minifold_pl.nn.axial import AxialAttention
from minifold_pl.nn.denoiser import DenoiserLayer
from minifold_pl.nn.pair_stack import EnhancedPairBlock
from minifold_pl.nn.transition import Transition
from minifold_pl.nn.triangle import TriangleMultiplication
from minifold_pl.types import Frames

LENGTHS = (64, 96, 128, 192, 256, 384, 512)
QUICK = (32, 64, 96)
ROUNDS = 3
"""A slope over an eightfold range needs no more."""
D, HIDDEN, WIDTH = 128, 64, 256
"""Channels of the pair features, of the triangle sums, and of all heads of the axial attention."""

Part = Callable[[int], Callable[[], None]]


def run(options: Options) -> Result:
    """Forward and backward pass of each part at batch 1, fp32, eager; exponents over all lengths that fit."""
    rows: list[Row] = []
    times: dict[str, dict[int, float]] = {}
    peaks: dict[str, dict[int, float]] = {}
    parts = _parts(options.device)
    for length in QUICK if options.quick else LENGTHS:
        runs = {name: part(length) for name, part in parts.items()}
        # the last third of the time is for the whole steps
        timings = interleaved(runs, rounds=ROUNDS, device=options.device, seconds=0.66 * options.seconds_left)
        if timings is None:
            rows.append(Row(alternative="–", cell={"L": length}, note="left out: no time left"))
            break
        for name, timing in timings.items():
            peak = peak_bytes(runs[name], options.device) / 1e6
            times.setdefault(name, {})[length] = timing.median
            peaks.setdefault(name, {})[length] = peak
            rows.append(
                Row(alternative=name, cell={"L": length}, median=timing.median, iqr=timing.iqr, peak_mb=peak)
            )
    notes = [
        f"{name}: time ∝ L^{exponent(times[name]):.2f}, peak memory ∝ L^{exponent(peaks[name]):.2f}"
        for name in times
    ]
    notes += _cubic(times)
    return Result(rows=rows, notes=notes)


def exponent(figures: dict[int, float]) -> float:
    """Slope of the logarithms, by least squares."""
    if len(figures) < 2:
        return math.nan
    x = torch.tensor([math.log(length) for length in figures], dtype=torch.float64)
    y = torch.tensor([math.log(value) for value in figures.values()], dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def cubic_share(figures: dict[int, float], length: int) -> float:
    """Share of the cubic term at ``length`` in the best a·L² + b·L³ with a, b ≥ 0, each length weighing the same."""
    x = torch.tensor(list(figures), dtype=torch.float64)
    y = torch.tensor(list(figures.values()), dtype=torch.float64)
    columns = torch.stack((x**2, x**3), dim=1) / y[:, None]
    a, b = torch.linalg.lstsq(columns, torch.ones_like(y)[:, None]).solution.squeeze(1).clamp(min=0).tolist()
    return b * length / (a + b * length)


def _cubic(times: dict[str, dict[int, float]]) -> list[str]:
    """By measurement, and by counting multiplications."""
    notes = []
    for name in ("triangle update", "row attention", "pair block"):
        if len(times.get(name, {})) > 2:
            longest = max(times[name])
            share = 100 * cubic_share(times[name], longest)
            notes.append(f"{name}: {share:.0f} % of the time at L = {longest} grows with L³ (a·L² + b·L³)")
    triangle, attention = 2 * HIDDEN, 2 * 2 * WIDTH
    square = 2 * (4 * D * HIDDEN + HIDDEN * D + D * D) + 2 * (D * 4 * WIDTH + WIDTH * D) + 2 * 4 * D * D
    at = {n: (triangle + attention) * n / (square + (triangle + attention) * n) for n in (128, 512)}
    notes.append(
        "the pair stack's cubic part: the triangle sums (l³ · hidden) and the weights and sums of row and column "
        f"attention (l³ · 2 · heads · width), {attention / triangle:.0f} times as many multiplications; together "
        + ", ".join(f"{100 * share:.0f} % of all at L = {n}" for n, share in at.items())
    )
    return notes


def _parts(device: torch.device) -> dict[str, Part]:
    def pairwise(module: nn.Module, masked: bool = True) -> Part:
        module = awake(module).to(device)

        def at(length: int) -> Callable[[], None]:
            made: list[torch.Tensor] = []

            def step() -> None:
                if not made:
                    made.append(pair_features(length, 1, D, device).requires_grad_())
                args = (made[0], chains(length, 1, device))[: 2 if masked else 1]
                out = module(*args)
                torch.autograd.grad(out.sum(), [made[0], *module.parameters()])

            return step

        return at

    layer = awake(DenoiserLayer(512, D, 8, 64, 8, 12, 1024, 512, 64)).to(device)

    def denoiser(length: int) -> Callable[[], None]:
        made: list[tuple[torch.Tensor, torch.Tensor, Frames]] = []

        def step() -> None:
            if not made:
                single = single_features(length, 1, 512, device).requires_grad_()
                pair = pair_features(length, 1, D, device).requires_grad_()
                made.append((single, pair, frames(length, 1, device)))
            single, pair, places = made[0]
            out, moved = layer(
                single, places, pair, torch.zeros(1, 64, device=device), chains(length, 1, device)
            )
            total = out.sum() + moved.rotation.sum() + moved.translation.sum()
            torch.autograd.grad(total, [single, pair, *layer.parameters()])

        return step

    return {
        "triangle update": pairwise(TriangleMultiplication(D, HIDDEN)),
        "row attention": pairwise(AxialAttention(D)),
        "transition": pairwise(Transition(D, 4 * D), masked=False),
        "pair block": pairwise(EnhancedPairBlock(D)),
        "denoiser layer": denoiser,
    }


BENCHMARK = Benchmark(
    name="module_growth",
    about="exponents of the parts' time and memory over L = 64 … 512, and the cubic part of the pair stack",
    run=run,
    share=2,
)
