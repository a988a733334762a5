from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from minifold_pl.losses.distance import (
    distance_edges,
    distance_mse,
    distogram_per_chain,
    ordinal_distance_loss,
)


def test_distance_mse_agrees_with_the_formula_written_out(case: Any) -> None:
    one = case.chain(1)
    (x,), (t,), (mask,) = one.prediction.x0, one.target.x0, one.target.mask
    places = mask.nonzero().flatten().tolist()
    squares = [((x[i] - x[j]).norm() - (t[i] - t[j]).norm()) ** 2 for i in places for j in places if i != j]
    loss = distance_mse(one.prediction.x0, one.target.x0, one.target.mask)
    assert torch.allclose(loss, torch.stack(squares).mean())


def test_a_prediction_too_large_by_a_tenth_costs_a_hundredth_of_the_squared_distance() -> None:
    true = torch.tensor([[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert torch.allclose(distance_mse(1.1 * true, true, mask), torch.tensor(0.04))


def test_32_bins_from_2_to_40_angstrom_have_31_inner_edges_1_1875_apart() -> None:
    """The write-up's Δ = 0.396 Å for 96 bins is 38/96: equal bins over the whole range."""
    edges = distance_edges()
    assert edges.shape == (31,)
    assert edges[0] == 3.1875 and edges[-1] == 38.8125
    assert torch.allclose(edges.diff(), torch.tensor(1.1875))
    assert math.isclose(distance_edges(bins=96).diff().mean().item(), 0.396, abs_tol=5e-4)


@pytest.mark.parametrize(("bins", "first", "last"), [(1, 2.0, 40.0), (32, 40.0, 2.0), (32, -1.0, 40.0)])
def test_impossible_bins_are_refused(bins: int, first: float, last: float) -> None:
    with pytest.raises(ValueError, match="at least 2 bins"):
        distance_edges(bins, first, last)


def test_ordinal_logits_that_know_the_distance_cost_nothing_and_the_opposite_costs_their_size(
    case: Any,
) -> None:
    ca, mask = case.target.x0 * 10, case.target.mask
    d = (ca.unsqueeze(2) - ca.unsqueeze(1)).norm(dim=-1)
    right = torch.where(d.unsqueeze(-1) > distance_edges(), 40.0, -40.0)
    assert ordinal_distance_loss(right, ca, mask, distance_edges()) < 1e-12
    assert torch.allclose(ordinal_distance_loss(-right, ca, mask, distance_edges()), torch.tensor(40.0))


def test_ignorant_ordinal_logits_cost_log_2(case: Any) -> None:
    """Mean over edges, not sum: ln 2, not 31 ln 2."""
    logits = torch.zeros(2, 14, 14, 31)
    loss = ordinal_distance_loss(logits, case.target.x0.float() * 10, case.target.mask, distance_edges())
    assert math.isclose(loss.item(), math.log(2), rel_tol=1e-6)


def test_a_head_with_the_wrong_number_of_outputs_is_refused(case: Any) -> None:
    with pytest.raises(ValueError, match="32 channels and there are 31 edges"):
        ordinal_distance_loss(torch.zeros(2, 14, 14, 32), case.target.x0, case.target.mask, distance_edges())


def test_a_distogram_that_knows_the_bin_costs_nothing_and_an_ignorant_one_the_log_of_the_bins(
    case: Any,
) -> None:
    ca, mask, edges = case.target.x0 * 10, case.target.mask, distance_edges(96)
    d = (ca.unsqueeze(2) - ca.unsqueeze(1)).norm(dim=-1)
    low = torch.cat((torch.tensor([-1.0]), edges))
    high = torch.cat((edges, torch.tensor([torch.inf])))
    right = torch.where((d[..., None] > low) & (d[..., None] <= high), 60.0, 0.0)
    assert (right > 0).sum(-1).eq(1).all()
    assert distogram_per_chain(right, ca, mask, edges).mean() < 1e-12
    ignorant = distogram_per_chain(torch.zeros_like(right), ca, mask, edges)
    assert torch.allclose(ignorant.value, torch.full((2,), math.log(96), dtype=ignorant.value.dtype))


def test_a_distogram_ignores_masked_residues(case: Any) -> None:
    ca, mask, edges = case.target.x0 * 10, case.target.mask, distance_edges(8)
    logits = torch.randn(*mask.shape, mask.shape[1], 8, dtype=torch.float64)
    before = distogram_per_chain(logits, ca, mask, edges).value
    ca, logits = ca.clone(), logits.clone()
    ca[1, 4], logits[1, 4], logits[1, :, 4] = torch.nan, 1e3, -1e3
    assert torch.allclose(distogram_per_chain(logits, ca, mask, edges).value, before)


def test_logits_of_a_distogram_that_are_not_one_a_bin_are_refused(case: Any) -> None:
    with pytest.raises(ValueError, match=r"31 channels and there are 31 edges.*as many outputs"):
        distogram_per_chain(
            torch.zeros(2, 14, 14, 31), case.target.x0 * 10, case.target.mask, distance_edges()
        )
