import math

import gemmi
import numpy as np
import pytest
import torch

from minifold_pl.metrics.tm import tm_d0, tm_from_distances, tm_kabsch


@pytest.mark.parametrize("length", [1, 15, 16, 21, 22, 60, 125, 500])
def test_d0_is_the_tm_score_programs(length):
    published = 1.24 * max(length - 15, 0) ** (1 / 3) - 1.8
    assert tm_d0(torch.tensor(length)).item() == pytest.approx(max(published, 0.5), rel=1e-5)


def test_d0_reaches_its_floor_at_21_residues():
    d0 = tm_d0(torch.tensor([21, 22]))
    assert d0[0] == 0.5
    assert d0[1] > 0.5


def test_residue_at_d0_scores_one_half():
    mask = torch.ones(1, 100, dtype=torch.bool)
    d0 = 1.24 * 85 ** (1 / 3) - 1.8
    assert tm_from_distances(torch.full((1, 100), d0), mask).item() == pytest.approx(0.5, rel=1e-5)


def numpy_tm(pred, true):
    """The formula, written down a second time, in gemmi's pose."""
    to = [gemmi.Position(*row) for row in true.tolist()]
    motion = gemmi.superpose_positions(to, [gemmi.Position(*row) for row in pred.tolist()]).transform
    moved = np.array([motion.apply(gemmi.Position(*row)).tolist() for row in pred.tolist()])
    d0 = max(1.24 * math.cbrt(len(true) - 15) - 1.8, 0.5) if len(true) > 15 else 0.5
    squared = ((moved - true.numpy()) ** 2).sum(-1)
    return float(np.mean(1 / (1 + squared / d0**2)))


def test_tm_kabsch_agrees_with_a_numpy_formula(make_batch, make_walk):
    true = [make_walk(length).double() for length in (12, 20, 60, 130)]
    pred = [chain + torch.randn_like(chain) for chain in true]
    expected = torch.tensor([numpy_tm(p, t) for p, t in zip(pred, true, strict=True)])
    (a, mask), (b, _) = make_batch(pred), make_batch(true)
    torch.testing.assert_close(tm_kabsch(a, b, mask), expected, atol=1e-4, rtol=0)


def test_unrelated_real_chains_score_a_tenth(real_chains, make_batch):
    windows = [chain[:60] for chain in real_chains if len(chain) >= 60]
    ca, mask = make_batch(windows)
    # Measured before: 0.084 to 0.103 over lengths from 60 to 125.
    assert 0.075 < tm_kabsch(ca.roll(1, 0), ca, mask).mean() < 0.11
