"""Invariant point attention against OpenFold's, Genie 2's, FrameFlow's and lucidrains': 512 channels, 8 heads."""

from __future__ import annotations

import torch

from benchmarks.frame.contest import Contest, Inputs, Point, hold, worst
from benchmarks.frame.interface import Benchmark, Options, Result
from benchmarks.frame.roofline import Work
from benchmarks.modules.inputs import chains, frames, pair_features, single_features
from benchmarks.modules.triangle import NO_PEER
from benchmarks.peers.ipa import MAKERS
from minifold_pl.nn.ipa import InvariantPointAttention

C_S, C_Z, HEADS, D_HEAD, QUERY_POINTS, VALUE_POINTS = 512, 128, 8, 64, 8, 8


def run(options: Options) -> Result:
    """Measure; the goals compare eager forms in fp32 at L = 125."""
    contest = Contest(
        module=lambda: InvariantPointAttention(C_S, C_Z, HEADS, D_HEAD, QUERY_POINTS, VALUE_POINTS),
        inputs=inputs,
        makers=MAKERS,
        work=work,
    )
    found = hold(contest, options)

    def there(p: Point) -> bool:
        return p[0] == "fp32" and p[2] == 125

    goals = [
        worst(
            "eager against the best peer, fp32, L 125",
            found.ratios("fast", found.peers, there),
            1.3,
            why=NO_PEER,
        ),
        worst(
            "eager against OpenFold, fp32, L 125",
            found.ratios("fast", ("openfold",), there),
            2.0,
            why=NO_PEER,
        ),
        worst(
            "peak memory forward as a share of OpenFold's, fp32, L 125",
            found.memory("fast", "openfold", lambda p: there(p) and p[1] == "fwd"),
            0.25,
            at_least=False,
            why=NO_PEER,
        ),
        *found.exactness(),
    ]
    return Result(rows=found.rows, goals=goals, notes=found.notes)


def inputs(length: int, batch: int, device: torch.device) -> Inputs:
    """Single and pair features, frames and mask."""
    mask = chains(length, batch, device)
    single, pair = single_features(length, batch, C_S, device), pair_features(length, batch, C_Z, device)
    return (single, pair, frames(length, batch, device), mask), mask


def work(length: int, batch: int) -> Work:
    """Projections and output of every residue; logits, values and pair values of every pair."""
    scalars, points = HEADS * D_HEAD, 3 * HEADS * (2 * QUERY_POINTS + VALUE_POINTS)
    gathered = HEADS * (D_HEAD + C_Z + 4 * VALUE_POINTS)
    residues, pairs = batch * length, batch * length**2
    per_pair = HEADS * (C_Z + D_HEAD + 3 * QUERY_POINTS + D_HEAD + 3 * VALUE_POINTS + C_Z)
    flops = 2 * residues * C_S * (3 * scalars + points + gathered) + 2 * pairs * per_pair
    return Work(flops, pairs * C_Z + 2 * residues * C_S)


BENCHMARK = Benchmark(
    name="ipa",
    about="invariant point attention, 512 channels, 8 heads × 64, 8 + 8 points, against peers",
    run=run,
    share=2,
)
