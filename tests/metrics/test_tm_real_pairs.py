"""TM-score against tmtools (TM-align's C++ code) on pairs of real chains with a fixed alignment.

Given an alignment, ``tmtools.tm_align`` does not align: it runs the TM-score program's search (every starting run,
no pruning, all residues scored) for that correspondence. Its value is what ours must reach; where ours is higher,
the pose that comes with it has to prove it.
"""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from minifold_pl.metrics.tm_search import tm_superposition

KINDS = ("noise", "hinge", "other chain", "mirror", "shuffled halves")
LENGTHS = (16, 20, 24, 32, 40, 50, 64, 80, 96, 110, 128, 160, 200, 250, 300, 350, 400, 450, 500)


@pytest.fixture(scope="module")
def long_chains(real_data) -> list[Tensor]:
    """Complete real chains, 60 of them of at least 500 residues, Å, float64."""
    chains: list[Tensor] = []
    long = 0
    with gzip.open(real_data / "chain_set.jsonl.gz", "rt") as file:
        for line in file:
            ca = np.array(json.loads(line)["coords"]["CA"], dtype=float)
            if not np.isfinite(ca).all() or (len(ca) < 500 and len(chains) - long >= 300):
                continue
            chains.append(torch.from_numpy(ca))
            long += len(ca) >= 500
            if long == 60:
                break
    return chains


def axis_rotation(axis: Tensor, degrees: float) -> Tensor:
    x, y, z = (axis / axis.norm()).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    angle = math.radians(degrees)
    return torch.eye(3, dtype=torch.float64) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def make_pair(chains: list[Tensor], kind: str, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """A real chain cut to ``length`` as the truth, and what stands for a prediction of it."""
    generator = torch.Generator().manual_seed(seed)

    def pick(least: int) -> Tensor:
        enough = [c for c in chains if len(c) >= least]
        chain = enough[int(torch.randint(len(enough), (), generator=generator))]
        start = int(torch.randint(len(chain) - least + 1, (), generator=generator))
        return chain[start : start + least]

    true = pick(length)
    noise = torch.randn(true.shape, generator=generator, dtype=torch.float64)
    if kind == "noise":
        sigma = 0.5 * 16 ** float(torch.rand((), generator=generator))
        pred = true + sigma * noise
    elif kind == "hinge":
        at = length // 3 + int(torch.randint(length // 3, (), generator=generator))
        angle = 20 + 100 * float(torch.rand((), generator=generator))
        turn = axis_rotation(torch.randn(3, generator=generator, dtype=torch.float64), angle)
        pred = torch.cat([true[:at], (true[at:] - true[at]) @ turn.T + true[at]])
        pred = pred + 0.5 * noise
    elif kind == "other chain":
        pred = pick(length)
    elif kind == "mirror":
        pred = true * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    else:
        pred = true.roll(length // 2, 0)
    # Somewhere else in space, turned: nothing may depend on it.
    turn = axis_rotation(torch.randn(3, generator=generator, dtype=torch.float64), 137)
    return (pred - pred.mean(0)) @ turn.T + torch.tensor([40.0, -90.0, 15.0]), true


def tmtools_score(pred: Tensor, true: Tensor) -> float:
    tmtools = pytest.importorskip("tmtools")
    sequence = "A" * len(true)
    found = tmtools.tm_align(pred.numpy(), true.numpy(), sequence, sequence, [sequence, sequence])
    return found.tm_norm_chain2


def score_of_pose(pred: Tensor, true: Tensor, rotation: Tensor, translation: Tensor) -> float:
    """The definition, in numpy: nothing of the search in it."""
    moved = pred.numpy() @ rotation.numpy().T + translation.numpy()
    length = len(true)
    d0 = max(1.24 * np.cbrt(length - 15) - 1.8, 0.5) if length > 15 else 0.5
    return float(np.mean(1 / (1 + ((moved - true.numpy()) ** 2).sum(-1) / d0**2)))


def check(chains: list[Tensor], count: int, seed: int) -> None:
    cases = []
    for k in range(count):
        kind, length = KINDS[k % len(KINDS)], LENGTHS[(k * 7) % len(LENGTHS)]
        cases.append((kind, length, *make_pair(chains, kind, length, seed + k)))
    width = max(len(true) for *_, true in cases)
    pred, true = (torch.zeros(count, width, 3) for _ in range(2))
    mask = torch.zeros(count, width, dtype=torch.bool)
    for k, (_, length, p, t) in enumerate(cases):
        pred[k, :length], true[k, :length], mask[k, :length] = p.float(), t.float(), True
    found = tm_superposition(pred, true, mask)
    for k, (kind, length, p, t) in enumerate(cases):
        case, ours, theirs = f"{kind}, {length} residues", found.tm[k].item(), tmtools_score(p, t)
        rotation, translation = found.pose.rotation[k], found.pose.translation[k]
        # Never below the program, and whatever is said is proved by a proper rigid motion.
        assert ours > theirs - 0.002, case
        assert ours == pytest.approx(score_of_pose(p, t, rotation, translation), abs=1e-5), case
        torch.testing.assert_close(
            rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0
        )
        assert torch.det(rotation).item() == pytest.approx(1, abs=1e-6), case


def test_twenty_pairs_score_at_least_what_tmtools_finds_and_prove_it(long_chains):
    check(long_chains, 20, seed=1000)


@pytest.mark.slow
def test_two_hundred_pairs_score_at_least_what_tmtools_finds_and_prove_it(long_chains):
    check(long_chains, 200, seed=5000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [10_000, 20_000, 30_000])
def test_so_do_other_two_hundred(long_chains, seed):
    check(long_chains, 200, seed)
