"""How a training step of v13 grows with the length, and what fits into 8, 24 and 80 GB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.end_to_end.model import autocast, v13
from benchmarks.frame.interface import Benchmark, Cell, Goal, Options, Result, Row
from benchmarks.frame.memory import peak_bytes
from minifold_pl.cli.costs import state_bytes, step_cost
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.recomputing import Recomputed, recompute_activations

LENGTHS = (64, 125, 128, 256, 512)
MEASURED = (48, 64, 96, 128)
"""Residues at which peaks are measured, one chain; longer ones follow from these."""
CARDS = (8, 24, 80)
RESERVED = 0.1
"""Share of a card that CUDA's context, the allocator's gaps and kernels' workspaces take."""
SETTINGS: tuple[tuple[Recomputed, str], ...] = (
    ("off", "bf16"), ("pair_stack", "fp32"), ("pair_stack", "bf16"), ("both", "bf16"),
)  # fmt: skip


def run(options: Options) -> Result:
    """Operations are counted, exactly; memory is measured at the allocator and fitted by a L + b L²."""
    module = v13(options, "model.init_args.encoder.init_args.positions=1024")
    module.train()
    rows, notes = _operations(module)
    held = sum(state_bytes(module).values())
    notes.append(
        f"held whatever the batch: {held / 1e9:.2f} GB (weights, gradients, AdamW's moments, average)"
    )
    lengths = (32, 48, 64) if options.quick else MEASURED
    worst = 0.0
    for what, dtype in SETTINGS[1:3] if options.quick else SETTINGS:
        recompute_activations(module, what)
        peaks, estimates = [], []
        for length in lengths:
            peaks.append(peak_bytes(_step(module, length, dtype), options.device))
            estimates.append(step_cost(module, 1, length).activation_bytes)
        fit = _fitted(lengths, peaks)
        off = max(abs(fit(length) / peak - 1) for length, peak in zip(lengths, peaks, strict=True))
        for length, peak, estimate in zip(lengths, peaks, estimates, strict=True):
            cell: Cell = {"checkpoint": str(what), "dtype": dtype, "B": 1, "L": length}
            note = f"describe estimates {estimate / 1e6:.0f} MB of activations: {peak / estimate:.2f}× that is needed"
            rows.append(Row(alternative="peak of a step", cell=cell, peak_mb=peak / 1e6, note=note))
            if dtype == "fp32":
                worst = max(worst, peak / estimate)
        fitting = ", ".join(
            f"{card} GB: "
            + " ".join(
                f"{max(0, int(((1 - RESERVED) * card * 1e9 - held) / fit(n)))}×{n}" for n in (125, 256, 512)
            )
            for card in CARDS
        )
        notes.append(
            f"checkpoint_activations {what}, {dtype}: chains × residues that fit: {fitting} "
            f"(fitted within {100 * off:.0f} %)"
        )
    recompute_activations(module, "pair_stack")
    goal = Goal(
        name="peak of a step against describe's estimate of its activations (fp32), at most",
        value=worst or None, target=2, at_least=False, note="temporary buffers are what describe leaves out",
    )  # fmt: skip
    return Result(rows=rows, goals=[goal], notes=notes)


def _operations(module: DiffusionModule) -> tuple[list[Row], list[str]]:
    recompute_activations(module, "off")
    forward = [step_cost(module, 1, length).flops_forward for length in LENGTHS]
    powers = np.array([[length**k for k in (1, 2, 3)] for length in LENGTHS], dtype=float)
    scale = powers.max(0)
    linear, square, cube = (
        np.linalg.lstsq(powers / scale, np.array(forward, dtype=float), rcond=None)[0] / scale
    )
    rows = [
        Row(
            alternative="forward pass", cell={"B": 1, "L": length}, median=count / 1e9, unit="GFLOP",
            note=f"{100 * cube * length**3 / count:.0f} % cubic, {100 * square * length**2 / count:.0f} % quadratic",
        )
        for length, count in zip(LENGTHS, forward, strict=True)
    ]  # fmt: skip
    note = (
        f"operations of a forward pass: {linear / 1e6:.2f} M·L + {square / 1e6:.3f} M·L² + {cube / 1e3:.2f} k·L³; "
        "cubic are the pair stacks' triangle sums and axial attention"
    )
    return rows, [note]


def _step(module: DiffusionModule, length: int, dtype: str) -> Callable[[], None]:
    batch = module.example_batch(1, length)

    def step() -> None:
        with autocast(module, dtype):
            total, _ = module.losses(batch)
        total.backward()

    for parameter in module.parameters():
        if parameter.requires_grad:  # gradients are held whatever the batch, and are no part of the peak
            parameter.grad = torch.zeros_like(parameter)
    return step


def _fitted(lengths: tuple[int, ...], peaks: list[int]) -> Callable[[int], float]:
    """Bytes as a L + b L², by least squares of the relative errors."""
    scaled = [[length / peak, length**2 / peak] for length, peak in zip(lengths, peaks, strict=True)]
    a, b = np.linalg.lstsq(np.array(scaled), np.ones(len(lengths)), rcond=None)[0]
    return lambda length: float(a * length + b * length**2)


BENCHMARK = Benchmark(
    name="growth", about="operations and memory over the length; what fits into which GPU", run=run
)
