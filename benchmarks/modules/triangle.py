"""Triangle multiplicative update against OpenFold's, Genie 2's and lucidrains': C = 128, D = 64."""

from __future__ import annotations

import torch

from benchmarks.frame.contest import Contest, Inputs, Point, geomean, hold, worst
from benchmarks.frame.interface import Benchmark, Options, Result
from benchmarks.frame.roofline import Work
from benchmarks.modules.inputs import chains, pair_features
from benchmarks.peers.triangle import MAKERS
from minifold_pl.nn.masking import pair_mask
from minifold_pl.nn.triangle import TriangleMultiplication

C, D = 128, 64
NO_PEER = "no peer given: --peer openfold=PATH …"


def run(options: Options) -> Result:
    """Measure; the goals compare with the fastest peer of each cell."""
    contest = Contest(module=lambda: TriangleMultiplication(C, D), inputs=inputs, makers=MAKERS, work=work)
    found = hold(contest, options)

    def single(p: Point) -> bool:
        return p[0] == "fp32"

    def half(p: Point) -> bool:
        return p[0] == "bf16"

    def training(p: Point) -> bool:
        return p[1] == "fwd+bwd"

    eager = found.ratios("fast", found.peers, single)
    compiled = found.ratios("fast, compiled", found.peers, single)
    compiled_half = found.ratios("fast, compiled", found.peers, half)
    why = NO_PEER if options.compiled else "not compiled (--no-compile)"
    goals = [
        worst("eager against the best peer, fp32", eager, 0.95, why=NO_PEER),
        geomean("compiled against the best peer, fp32", compiled, 1.2, why=why),
        geomean("compiled against the best peer, bf16", compiled_half, 1.3, why=why),
        worst(
            "peak memory of a step as a share of OpenFold's, fp32",
            found.memory("fast", "openfold", lambda p: single(p) and training(p)),
            0.75,
            at_least=False,
            why=NO_PEER,
        ),
        *found.exactness(),
    ]
    return Result(rows=found.rows, goals=goals, notes=found.notes)


def inputs(length: int, batch: int, device: torch.device) -> Inputs:
    """Pair features and mask."""
    mask = chains(length, batch, device)
    return (pair_features(length, batch, C, device), mask), pair_mask(mask)


def work(length: int, batch: int) -> Work:
    """Projections, gates and output of every pair; the sum."""
    pairs = batch * length**2
    return Work(2 * pairs * (4 * C * D + C * D + C * C) + 2 * pairs * length * D, 2 * pairs * C)


BENCHMARK = Benchmark(
    name="triangle", about="triangle multiplicative update, C 128, D 64, against peers", run=run, share=2
)
